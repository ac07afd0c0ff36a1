"""From overlaps to paths: which vector of one step is which of another. Arrays in, arrays out.

Ranks are 0-based; −1: not found. All functions are vectorised over cases (matrices, sides) and loop over steps only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

THRESHOLD = 0.7
"""Least overlap of one mode at two steps. Above 1/√2 no second vector can have as much."""


@dataclass(frozen=True)
class Links:
    """Overlaps of a run's steps, absolute: `one` (T, C, k, k) with the step before, `two` with that before it.

    Entry [t, c, j, i]: of vector j at step t with vector i at the earlier one; NaN where either has none.
    """

    one: np.ndarray
    two: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        """(T, C, k): steps, cases, vectors."""
        steps, cases, k, _ = self.one.shape
        return steps, cases, k


def follow_back(links: Links, last: np.ndarray, threshold: float = THRESHOLD) -> np.ndarray:
    """(T, C, k): the rank at step t of what has rank j at step `last` (C,) of its case (−1: none is followed).

    From each step to the one before by the greatest overlap ≥ `threshold`; where there is none, over one missed step to
    the one before that. What is lost twice in a row is lost.
    """
    steps, cases, k = links.shape
    path = np.full((steps, cases, k), -1, dtype=np.int64)
    started = np.flatnonzero(last >= 0)
    path[last[started], started] = np.arange(k)
    for t in range(steps - 1, 0, -1):
        best, value = _best(links.one[t], path[t])
        found = (path[t] >= 0) & (value >= threshold)
        path[t - 1] = np.where(found, best, path[t - 1])
        if t >= 2:
            best, value = _best(links.two[t], path[t])
            bridged = (path[t] >= 0) & ~found & (value >= threshold)
            path[t - 2] = np.where(bridged, best, path[t - 2])
    return path


def follow_forward(links: Links, present: np.ndarray, threshold: float = THRESHOLD) -> np.ndarray:
    """(T, C, k) int64: the track that each vector belongs to, counted from 0 in each case by first sight; −1: absent.

    A vector continues the track of the one at the step before where each is the other's best match and they overlap
    ≥ `threshold`; else one of two steps before that was missed in between; else it begins a track. What comes later
    changes no earlier entry. present: bool (T, C, k).
    """
    steps, cases, k = links.shape
    tracks = np.full((steps, cases, k), -1, dtype=np.int64)
    following = np.zeros(cases, dtype=np.int64)
    for t in range(steps):
        now = tracks[t]
        if t >= 1:
            _continue(now, tracks[t - 1], links.one[t], threshold)
        if t >= 2:
            missed = tracks[t - 2].copy()
            missed[(missed[:, :, None] == tracks[t - 1][:, None, :]).any(axis=2)] = -1
            _continue(now, missed, links.two[t], threshold)
        new = present[t] & (now < 0)
        order = new.cumsum(axis=1)
        now[new] = (following[:, None] + order - 1)[new]
        following += order[:, -1] if k else 0
    return tracks


def _continue(now: np.ndarray, earlier: np.ndarray, overlap: np.ndarray, threshold: float) -> None:
    """Enters into `now` (C, k) the tracks of `earlier` (C, k) that are each other's best match, of those still free."""
    free = (now < 0)[:, :, None] & (earlier >= 0)[:, None, :]
    usable = np.where(free & (overlap >= threshold), overlap, -1.0)
    best = usable.argmax(axis=2)  # of each vector now
    value = np.take_along_axis(usable, best[:, :, None], axis=2)[:, :, 0]
    back = np.take_along_axis(usable.argmax(axis=1), best, axis=1)
    mutual = (value >= 0) & (back == np.arange(now.shape[1]))
    now[mutual] = np.take_along_axis(earlier, best, axis=1)[mutual]


def _best(overlap: np.ndarray, rank: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For vectors of these ranks (C, k), the best earlier one and the overlap with it; overlap: (C, k, k)."""
    rows = np.take_along_axis(overlap, np.maximum(rank, 0)[:, :, None], axis=1)
    rows = np.where(np.isnan(rows), -1.0, rows)
    best = rows.argmax(axis=2)
    return best, np.take_along_axis(rows, best[:, :, None], axis=2)[:, :, 0]
