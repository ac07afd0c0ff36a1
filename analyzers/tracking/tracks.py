"""Modes over the steps of a run: which are followed, σ(t), birth and death, and their time above the noise's edge."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ENTER = 1.1
"""λ over the edge at which a mode becomes a spike; it remains one until λ is below the edge itself."""


@dataclass(frozen=True)
class Modes:
    """Of C matrices over T steps, K modes, in the order in which they were first seen a second time.

    sigma: (T, C, K), NaN where a mode is not seen. born, last: (C, K) index of the step of first and last sight; dead:
    of the first step at which it was missed for good (−1: it is not known to be gone). −1 where there is no such mode.
    left_out: (C,) modes beyond `limit`.
    """

    sigma: np.ndarray
    born: np.ndarray
    last: np.ndarray
    dead: np.ndarray
    left_out: np.ndarray


def modes_of(tracks: np.ndarray, sigma: np.ndarray, limit: int) -> Modes:
    """Modes from tracks (T, C, k) of `follow_forward` and σ by rank (T, C, k): those seen at two steps or more.

    A step that is added changes no earlier σ, no birth, no place of a mode, and no death that was known. A mode is gone
    when it was missed at two steps in a row.
    """
    steps, cases, _ = tracks.shape
    t, c, j = np.nonzero(tracks >= 0)
    track = tracks[t, c, j]
    order = np.lexsort((t, track, c))
    t, c, j, track = t[order], c[order], j[order], track[order]
    starts = np.flatnonzero(np.diff(c, prepend=-1).astype(bool) | np.diff(track, prepend=-1).astype(bool))
    counts = np.diff(np.append(starts, len(t)))
    starts, counts = starts[counts > 1], counts[counts > 1]
    first, second, final, case = t[starts], t[starts + 1], t[starts + counts - 1], c[starts]
    order = np.lexsort((track[starts], second, case))
    place = np.empty(len(order), dtype=np.int64)
    begins = np.searchsorted(case[order], np.arange(cases))
    place[order] = np.arange(len(order)) - begins[case[order]]
    kept = place < limit
    width = int(place[kept].max() + 1) if kept.any() else 0
    born, last, dead = (np.full((cases, width), -1, dtype=np.int64) for _ in range(3))
    at = case[kept], place[kept]
    born[at], last[at] = first[kept], final[kept]
    dead[at] = np.where(final[kept] + 2 < steps, final[kept] + 1, -1)
    values = np.full((steps, cases, width), np.nan)
    member = np.repeat(np.arange(len(starts)), counts)
    rows = np.repeat(starts - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
    shown = kept[member]
    rows, member = rows[shown], member[shown]
    values[t[rows], c[rows], place[member]] = sigma[t[rows], c[rows], j[rows]]
    return Modes(values, born, last, dead, np.bincount(case[~kept], minlength=cases))


def spikes_of(modes: Modes, edge: np.ndarray, enter: float = ENTER) -> tuple[np.ndarray, np.ndarray]:
    """First step at which each mode is a spike, and the first after it last was one, (C, K, B) indices, −1: none.

    edge: (T, C, B) of λ = σ², for B choices of the noise; NaN: no law applies. With hysteresis: a mode becomes a spike
    when λ > `enter` · edge and is one until λ < edge, or until it is gone. Where it is not seen nothing changes.
    """
    steps, cases, width = modes.sigma.shape
    eigenvalue = modes.sigma[..., None] ** 2
    inside = np.zeros((cases, width, edge.shape[2]), dtype=bool)
    entered, left = (np.full(inside.shape, -1, dtype=np.int64) for _ in range(2))
    for t in range(steps):
        known = ~np.isnan(eigenvalue[t]) & ~np.isnan(edge[t][:, None, :])
        with np.errstate(invalid="ignore"):
            rises = known & ~inside & (eigenvalue[t] > enter * edge[t][:, None, :])
            falls = known & inside & (eigenvalue[t] < edge[t][:, None, :])
        falls |= inside & (modes.dead == t)[:, :, None]
        entered = np.where(rises & (entered < 0), t, entered)
        left = np.where(falls, t, np.where(rises, -1, left))
        inside = (inside | rises) & ~falls
    return entered, left
