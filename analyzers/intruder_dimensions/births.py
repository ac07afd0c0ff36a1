"""When each intruder of the last step was born: from stored scores and overlaps, nothing is factorized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from analyzers.contract import MatrixInfo, Statistic, View
from analyzers.intruder_dimensions.intruders import Intruders
from analyzers.intruder_dimensions.pair import refusal
from analyzers.tracking.follow import follow_back
from analyzers.tracking.gather import StoredOverlaps, own_steps
from analyzers.tracking.overlaps import ONE, TWO, VectorOverlap


@dataclass(frozen=True)
class TunedOverlap(VectorOverlap):
    """Overlaps of the leading singular vectors of W (an adapter's: W0 + Δ) with those of the step before.

    After `Intruders`, which finds the same vectors and hands them over.
    """

    name: ClassVar[str] = "tuned_overlap"
    version: ClassVar[int] = 1
    against: ClassVar[str | None] = ONE

    def inputs(self) -> tuple[Statistic, ...]:
        """The scores, so that they are made first."""
        return (Intruders(k_max=self.k),)

    def refuses(self, info: MatrixInfo, reference: MatrixInfo | None) -> str | None:
        """As the scores."""
        return refusal(info, reference)


@dataclass(frozen=True)
class TunedOverlapTwo(TunedOverlap):
    """The same with those of two steps before."""

    name: ClassVar[str] = "tuned_overlap_two"
    against: ClassVar[str | None] = TWO


def of_births(view: View, scores: np.ndarray, ks: Sequence[int], epsilons: Sequence[float]) -> dict[str, np.ndarray]:
    """`birth_step` and `birth_after` (run, matrix, side, rank, k, ε): the birth lies in (birth_after, birth_step].

    scores: (run, step, matrix, side, rank), NaN where there is none. Both NaN: no intruder of the last scored step.
    `birth_after` alone NaN: it was one at the first step already, and nothing earlier is known.
    """
    k = scores.shape[-1]
    stored = StoredOverlaps(view, TunedOverlap(k), TunedOverlapTwo(k), k)
    shape = (len(view.runs), len(view.matrices), 2, k, len(ks), len(epsilons))
    arrays = {name: np.full(shape, np.nan) for name in ("birth_step", "birth_after")}
    for run in range(len(view.runs)):
        own = own_steps(view, run)
        scored = np.flatnonzero(~np.isnan(scores[run]).all(axis=(0, 2, 3)))
        base = _own_base(view, run)
        for matrices, links in stored.links(run, scored, np.abs):
            table = scores[run][np.ix_(own, matrices)].reshape(len(own), -1, k)
            known = ~np.isnan(table).all(axis=2)
            last = np.where(known.any(axis=0), len(own) - 1 - known[::-1].argmax(axis=0), -1)
            if base is not None:
                known[np.searchsorted(own, base)] = True
            found = births(follow_back(links, last), last, table, known, ks, epsilons)
            for name, index in zip(("birth_step", "birth_after"), found, strict=True):
                steps = np.where(index >= 0, view.steps[own][np.maximum(index, 0)].astype(float), np.nan)
                arrays[name][run, matrices] = steps.reshape(len(matrices), 2, k, len(ks), len(epsilons))
    return arrays


def births(
    path: np.ndarray,
    last: np.ndarray,
    scores: np.ndarray,
    known: np.ndarray,
    ks: Sequence[int],
    epsilons: Sequence[float],
) -> tuple[np.ndarray, np.ndarray]:
    """Step indices of birth, and of the latest step before it at which it is known not to be; (C, K, ks, ε), −1: none.

    path: (T, C, K) ranks from `follow_back`, which began at `last` (C,); scores: (T, C, K) by rank; known: (T, C) where
    anything was measured. For each k: among the first k vectors of a step. Birth is the first step from which the score
    stays below ε until `last`, where one step at a time may miss it (not found, not among the k).
    """
    steps, cases, width = path.shape
    score = np.take_along_axis(scores, np.maximum(path, 0), axis=2)
    rank, score = path[..., None, None], score[..., None, None]
    inside = (rank >= 0) & (rank < np.asarray(ks)[:, None]) & ~np.isnan(score)  # (T, C, K, ks, 1)
    below = inside & (score < np.asarray(epsilons))
    shape = (cases, width, len(ks), len(epsilons))
    born, after = np.full(shape, -1, dtype=np.int64), np.full(shape, -1, dtype=np.int64)
    followed = np.zeros(shape, dtype=bool)
    missed = np.zeros(shape, dtype=np.int64)
    for t in range(steps - 1, -1, -1):
        starts = (last == t)[:, None, None, None]
        followed = np.where(starts, below[t], followed)
        hit = followed & below[t]
        born, after = np.where(hit, t, born), np.where(hit, -1, after)
        before = (born >= 0) & ~hit & (after < 0) & known[t][:, None, None, None]
        after = np.where(before, t, after)
        missed = np.where(hit, 0, missed + 1)
        followed = followed & (hit | (~inside[t] & (missed < 2)))
    return born, after


def _own_base(view: View, run: int) -> int | None:
    """Where the base stands among the view's steps if it is one of this run's own: there nothing is born."""
    id, _, step = (view.runs[run].base or "").rpartition("@")
    if id != view.runs[run].id or not step.isdigit() or int(step) not in view.runs[run].steps:
        return None
    return int(np.searchsorted(view.steps, int(step)))
