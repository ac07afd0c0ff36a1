"""Which scores, angles and shares are arbitrary, because (nearly) equal singular values leave the vectors open."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

ARBITRARY_ERROR = 0.05
"""A score that numerics can have moved by more is flagged: only ties and clusters of σ do that."""


def flagged(condition: np.ndarray, known: np.ndarray) -> np.ndarray:
    """1.0 and 0.0, NaN where nothing is known."""
    return np.where(known, condition.astype(float), np.nan)


def of_scores(score_error: np.ndarray) -> np.ndarray:
    """1 where the numerical error of a score is above `ARBITRARY_ERROR`; same shape."""
    return flagged(score_error > ARBITRARY_ERROR, ~np.isnan(score_error))


def within_rounding(gap: np.ndarray, floor: np.ndarray, largest: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Whether rounding can exchange two neighbouring singular values: their gap is at most 2 (floor + p ε64 σ1).

    floor: spectral norm of the rounding of what is stored, by which each of the two can move. NaN compares as False.
    """
    return np.asarray(gap <= 2 * (np.nan_to_num(floor) + p * np.finfo(float).eps * largest))


def of_angles(
    sigmas: Sequence[np.ndarray], gaps: np.ndarray, ks: Sequence[int], floor: np.ndarray, p: np.ndarray
) -> np.ndarray:
    """(run, step, matrix, k): 1 where the top-k subspace of either matrix is arbitrary.

    sigmas: the leading σ of W and of W0, each (run, step, matrix, scored). gaps: (run, step, matrix, k) σ_k − σ_{k+1}
    of W0 where that is known otherwise, NaN elsewhere. p: (run, 1, matrix).
    """
    result = np.full(gaps.shape, np.nan)
    for sigma in sigmas:
        for column, k in enumerate(ks):
            gap = sigma[..., k - 1] - sigma[..., k] if k < sigma.shape[-1] else np.full(sigma.shape[:-1], np.nan)
            arbitrary = flagged(within_rounding(gap, floor, sigma[..., 0], p), ~np.isnan(gap))
            result[..., column] = np.fmax(result[..., column], arbitrary)
    largest = sigmas[-1][..., :1]
    of_gaps = flagged(within_rounding(gaps, floor[..., None], largest, p[..., None]), ~np.isnan(gaps))
    return np.asarray(np.fmax(result, of_gaps))
