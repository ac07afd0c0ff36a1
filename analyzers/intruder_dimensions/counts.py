"""From stored scores to counts over a sweep of k and ε: arrays in, arrays out, nothing is read or factorized."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.special import stdtrit

_CHUNK = 1024
"""Matrices whose draws are counted at a time."""
_COMPARED = 1 << 20
"""Scores that are compared with every ε at a time."""


def count_below(scores: np.ndarray, ks: Sequence[int], epsilons: Sequence[float]) -> np.ndarray:
    """How many of the first k scores lie below ε: (..., K) → (..., ks, epsilons), float32. NaN never counts."""
    width = scores.shape[-1]
    counts = np.zeros((*scores.shape[:-1], len(ks), len(epsilons)), dtype=np.float32)
    if not counts.size or not width:
        return counts
    rows, flat = scores.reshape(-1, width), counts.reshape(-1, len(ks), len(epsilons))
    positions = np.minimum(np.asarray(ks), width) - 1
    step = max(1, _COMPARED // width)
    for start in range(0, len(rows), step):
        below = rows[start : start + step, :, None] < np.asarray(epsilons)  # (n, K, E)
        flat[start : start + step] = below.cumsum(axis=1, dtype=np.int32)[:, positions]
    return counts


def null_summary(
    scores: np.ndarray, ks: Sequence[int], epsilons: Sequence[float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, 2.5 % and 97.5 % quantile over draws of the counts: (N, draws, 2, K) → three of (N, 2, ks, epsilons).

    The quantiles are draws themselves (`_outer_quantiles`), so of 20 draws the least and the greatest are inside.
    """
    shape = (scores.shape[0], 2, len(ks), len(epsilons))
    mean, low, high = (np.full(shape, np.nan, dtype=np.float32) for _ in range(3))
    if scores.shape[1]:
        for part in _parts(scores.shape[0]):
            counts = count_below(scores[part], ks, epsilons)
            mean[part] = counts.mean(axis=1)
            low[part], high[part] = _outer_quantiles(counts)
    return mean, low, high


def null_sums(
    scores: np.ndarray, group: np.ndarray, groups: int, ks: Sequence[int], epsilons: Sequence[float]
) -> np.ndarray:
    """Counts of each draw added over the rows of a group: (N, draws, 2, K), (N,) → (groups, draws, 2, ks, epsilons).

    float64. Draw i of one row is added to draw i of the others. A group without rows has zeros.
    """
    sums = np.zeros((groups, scores.shape[1], 2, len(ks), len(epsilons)))
    for part in _parts(scores.shape[0]):
        counts = count_below(scores[part], ks, epsilons)
        order = np.argsort(group[part], kind="stable")
        there, first = np.unique(group[part][order], return_index=True)
        sums[there] += np.add.reduceat(counts[order], first, axis=0)
    return sums


def prediction_interval(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and the two ends of an interval of at least 95 % for one more draw: (N, draws, ...) → three of (N, ...).

    The wider, at each end, of mean ± t(0.975, draws − 1) · sd · √(1 + 1/draws), not below 0, and of the draws' own
    2.5 % and 97.5 % quantiles (`_outer_quantiles`). The first is exact where the sum is normal, as a sum over many
    matrices nearly is, and there the quantiles of a few draws are too narrow. The second holds what a small count,
    which is whole and skewed, does often enough to be seen among the draws: of 19 sixes and a five, the five.
    """
    draws = sums.shape[1]
    mean = sums.mean(axis=1)
    half = stdtrit(draws - 1, 0.975) * sums.std(axis=1, ddof=1) * np.sqrt(1 + 1 / draws)
    low, high = _outer_quantiles(sums)
    return mean, np.minimum(np.maximum(mean - half, 0.0), low), np.maximum(mean + half, high)


def spectral_ranks(sigma: np.ndarray, floor: np.ndarray | float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Effective rank exp(H(σ/Σσ)), stable rank Σσ²/σ1², and the number of σ, of those above `floor`.

    sigma: (N, r) descending; floor: (N, 1) or a number. Three arrays (N,); ranks are 0 where nothing is above.
    """
    kept = np.where(sigma > floor, sigma, 0.0)
    number = (kept > 0).sum(axis=1)
    total = kept.sum(axis=1, keepdims=True)
    share = kept / np.where(total > 0, total, 1.0)
    entropy = -(share * np.log(np.where(share > 0, share, 1.0))).sum(axis=1)
    largest = kept.max(axis=1, initial=0.0)
    relative = kept / np.where(largest > 0, largest, 1.0)[:, None]
    return np.where(number > 0, np.exp(entropy), 0.0), (relative**2).sum(axis=1), number


def _outer_quantiles(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 2.5 % and 97.5 % quantile over draws, each the next draw outwards: (N, draws, ...) → two of (N, ...)."""
    return np.quantile(values, 0.025, axis=1, method="lower"), np.quantile(values, 0.975, axis=1, method="higher")


def _parts(length: int) -> Iterator[slice]:
    for start in range(0, length, _CHUNK):
        yield slice(start, start + _CHUNK)
