"""Distances within groups against those between them: the ratio, its permutation p, and its interval over samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Grouped:
    """`ratio` mean distance within a group / between groups; 95 % interval `low`, `high` by resampling samples; `p`
    that shuffled labels give a ratio as small; `within`, `between` the two means. NaN where one kind of pair is
    missing."""

    ratio: float
    low: float
    high: float
    p: float
    within: float
    between: float


_FEW_PAIRS = 60_000

NONE = Grouped(*[np.nan] * 6)


def square_of(condensed: np.ndarray, count: int) -> np.ndarray:
    """(N, N) float32 symmetric distances from the pairs i < j in row order."""
    square = np.zeros((count, count), dtype=np.float32)
    square[np.triu_indices(count, 1)] = condensed
    return square + square.T


def grouped_ratio(
    distances: np.ndarray, codes: np.ndarray, seed: int, permutations: int = 199, resamples: int = 200
) -> Grouped:
    """The ratio over all pairs. distances: (N, N) symmetric; codes: (N,) int, −1 for samples without a group.

    A resample draws samples with replacement and never counts a sample's pair with itself.
    """
    kept = codes >= 0
    distances, codes = distances[np.ix_(kept, kept)], codes[kept]
    if len(codes) < 3:
        return NONE
    draw = np.random.default_rng(seed)
    every = np.asarray(distances, dtype=np.float32)
    total, pairs = float(every.sum(dtype=np.float64)), len(codes) * (len(codes) - 1)
    sizes = np.bincount(codes)
    same_pairs = int((sizes * (sizes - 1)).sum())
    if same_pairs in (0, pairs):
        return NONE

    def ratio_of(inside: float) -> float:
        return float(_ratio(inside, same_pairs, total - inside, pairs - same_pairs))

    same = codes[:, None] == codes[None, :]
    observed = float(every[same].sum(dtype=np.float64))
    ratio = ratio_of(observed)
    inside = _within_sum(every, codes)
    smaller = sum(ratio_of(inside(draw.permutation(len(codes)))) <= ratio + 1e-12 for _ in range(permutations))
    times = draw.multinomial(len(codes), np.full(len(codes), 1 / len(codes)), size=resamples).astype(np.float32)
    np.fill_diagonal(same, False)
    within_sum, all_sum = _form(times, every * same), _form(times, every)
    within_pairs = _form(times, same.astype(np.float32))
    all_pairs = times.sum(1) ** 2 - (times**2).sum(1)
    drawn = _ratio(within_sum, within_pairs, all_sum - within_sum, all_pairs - within_pairs)
    return Grouped(
        ratio,
        *_interval(drawn),
        (smaller + 1) / (permutations + 1),
        observed / same_pairs,
        (total - observed) / (pairs - same_pairs),
    )


def grouped_ratio_of_pairs(
    distances: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    codes: np.ndarray,
    seed: int,
    permutations: int = 199,
    resamples: int = 200,
) -> Grouped:
    """The same over drawn pairs (P,)."""
    kept = (codes[left] >= 0) & (codes[right] >= 0)
    distances, left, right = distances[kept].astype(np.float64), left[kept], right[kept]
    draw = np.random.default_rng(seed)

    def ratio_of(labels: np.ndarray, times: np.ndarray | None = None) -> tuple[float, float, float]:
        same = labels[left] == labels[right]
        weight = np.ones(len(left)) if times is None else (times[left] * times[right]).astype(np.float64)
        counts = weight[same].sum(), weight[~same].sum()
        sums = (weight * distances)[same].sum(), (weight * distances)[~same].sum()
        if not all(counts):
            return np.nan, np.nan, np.nan
        within, between = sums[0] / counts[0], sums[1] / counts[1]
        return (within / between if between else np.nan), within, between

    ratio, within, between = ratio_of(codes)
    if np.isnan(ratio):
        return NONE
    there = np.flatnonzero(codes >= 0)
    smaller = 0
    for _ in range(permutations):
        shuffled = codes.copy()
        shuffled[there] = draw.permutation(codes[there])
        smaller += int(ratio_of(shuffled)[0] <= ratio + 1e-12)
    drawn = [
        ratio_of(codes, draw.multinomial(len(codes), np.full(len(codes), 1 / len(codes))))[0] for _ in range(resamples)
    ]
    return Grouped(ratio, *_interval(np.array(drawn)), (smaller + 1) / (permutations + 1), within, between)


def _within_sum(distances: np.ndarray, codes: np.ndarray) -> Callable[[np.ndarray], float]:
    """Of an order of the samples, the sum of distances within groups, both directions, as if it had these codes."""
    sizes = np.bincount(codes)
    sizes = sizes[sizes > 0]
    edges = np.cumsum(sizes)[:-1]
    if (sizes * (sizes - 1) // 2).sum() > _FEW_PAIRS:  # large groups: blocks are read faster than pairs

        def of_blocks(order: np.ndarray) -> float:
            return float(sum(distances[np.ix_(r, r)].sum(dtype=np.float64) for r in np.split(order, edges)))

        return of_blocks
    starts = np.concatenate([[0], edges])
    pairs = [np.stack(np.triu_indices(size, 1)) + start for size, start in zip(sizes, starts, strict=True)]
    left, right = np.concatenate(pairs, axis=1)
    return lambda order: 2 * float(distances[order[left], order[right]].sum(dtype=np.float64))


def _form(times: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """tᵀ M t for each row t of times (B, N)."""
    return ((times @ matrix) * times).sum(1, dtype=np.float64)


def _ratio(inside: np.ndarray | float, same: np.ndarray | float, outside: np.ndarray | float,
           other: np.ndarray | float) -> np.ndarray:  # fmt: skip
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.divide(inside, same) / np.divide(outside, other)


def _interval(drawn: np.ndarray) -> tuple[float, float]:
    finite = drawn[np.isfinite(drawn)]
    if len(finite) < 0.9 * len(drawn):
        return np.nan, np.nan
    low, high = np.percentile(finite, [2.5, 97.5])
    return float(low), float(high)
