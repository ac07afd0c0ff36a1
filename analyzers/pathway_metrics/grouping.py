"""Distances within groups against those between them: the ratio, its permutation p, and its interval over samples."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

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


_LARGE = 12
"""A group of more than a twelfth of the samples is summed by a matrix product, a smaller one pair by pair: measured."""

NONE = Grouped(*[np.nan] * 6)


def square_of(condensed: np.ndarray, count: int) -> np.ndarray:
    """(N, N) float32 symmetric distances from the pairs i < j in row order."""
    square = np.zeros((count, count), dtype=np.float32)
    start = 0
    for row in range(count - 1):  # row by row: the positions of all pairs would take more room than the distances
        stop = start + count - 1 - row
        square[row, row + 1 :] = square[row + 1 :, row] = condensed[start:stop]
        start = stop
    return square


class AllPairs:
    """All distances between N samples, for several groupings of them: what they share is computed once.

    distances: (N, N) symmetric with zeros on the diagonal. A resample draws samples with replacement and never counts
    a sample's pair with itself.
    """

    def __init__(self, distances: np.ndarray, seed: int, permutations: int = 199, resamples: int = 200) -> None:
        self.distances = np.ascontiguousarray(distances, dtype=np.float32)
        self.seed, self.permutations = seed, permutations
        count = len(self.distances)
        self.total = float(self.distances.sum(dtype=np.float64))
        self.times = _times(count, resamples, seed)

    @functools.cached_property
    def resampled_sum(self) -> np.ndarray:
        """(B,) sum of distances over the pairs of each resample, both directions."""
        return _form(self.times, self.distances)

    def ratio(self, codes: np.ndarray) -> Grouped:
        """Of one grouping; codes: (N,) int, −1 for samples without a group."""
        kept = codes >= 0
        if kept.sum() < 3:
            return NONE
        if not kept.all():
            some = AllPairs(self.distances[np.ix_(kept, kept)], self.seed, self.permutations, len(self.times))
            return some.ratio(codes[kept])
        _, codes = np.unique(codes, return_inverse=True)
        count, sizes = len(codes), np.bincount(codes)
        pairs, same_pairs = count * (count - 1), int((sizes * (sizes - 1)).sum())
        if same_pairs in (0, pairs):
            return NONE
        members = np.split(np.argsort(codes, kind="stable"), np.cumsum(sizes)[:-1])
        blocks = [self.distances[np.ix_(rows, rows)] for rows in members]
        observed = float(sum(block.sum(dtype=np.float64) for block in blocks))
        inside = _within_sums(self.distances, sizes, _orders(count, self.permutations, self.seed))
        ratio, shuffled = (
            _ratio(sums, same_pairs, self.total - sums, pairs - same_pairs) for sums in (np.array(observed), inside)
        )
        within_sum, within_pairs = np.zeros(len(self.times)), np.zeros(len(self.times))
        for rows, block in zip(members, blocks, strict=True):
            times = self.times[:, rows]
            within_sum += _form(times, block)
            within_pairs += times.sum(1, dtype=np.float64) ** 2 - (times**2).sum(1, dtype=np.float64)
        all_pairs = count**2 - (self.times**2).sum(1, dtype=np.float64)
        drawn = _ratio(within_sum, within_pairs, self.resampled_sum - within_sum, all_pairs - within_pairs)
        return Grouped(
            float(ratio),
            *_interval(drawn),
            float((np.sum(shuffled <= ratio * (1 + 1e-6)) + 1) / (self.permutations + 1)),
            observed / same_pairs,
            (self.total - observed) / (pairs - same_pairs),
        )


def grouped_ratio(
    distances: np.ndarray, codes: np.ndarray, seed: int, permutations: int = 199, resamples: int = 200
) -> Grouped:
    """The ratio over all pairs of one grouping (see `AllPairs`)."""
    return AllPairs(distances, seed, permutations, resamples).ratio(codes)


def grouped_ratios_of_pairs(
    distances: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    groups: Mapping[str, np.ndarray],
    seed: int,
    permutations: int = 199,
    resamples: int = 200,
) -> dict[str, Grouped]:
    """The same over drawn pairs (P,), of several groupings of the samples by name: codes (N,), −1 for none."""
    values = np.asarray(distances, dtype=np.float32)
    columns = {name: _sums_of_pairs(values, codes[left], codes[right]) for name, codes in groups.items()}
    drawn = _resampled(columns, left, right, max((len(codes) for codes in groups.values()), default=0), seed, resamples)
    found = {}
    for name, codes in groups.items():
        inside, same, outside, other = columns[name].sum(1, dtype=np.float64)
        if not (same and other and outside):
            found[name] = NONE
            continue
        ratio = (inside / same) / (outside / other)
        small = codes.astype(np.int16) if codes.max() < 2**15 else codes
        draw, there, smaller = np.random.default_rng((seed, 1)), np.flatnonzero(codes >= 0), 0
        kept, total, pairs = columns[name][1] + columns[name][3] > 0, inside + outside, same + other
        of_kept, at_left, at_right = values[kept], left[kept], right[kept]
        for _ in range(permutations):
            shuffled = small.copy()
            shuffled[there] = draw.permutation(small[there])
            within = shuffled[at_left] == shuffled[at_right]
            count, summed = int(np.count_nonzero(within)), float(of_kept[within].sum(dtype=np.float64))
            if 0 < count < pairs:
                smaller += bool((summed / count) * (pairs - count) <= ratio * (total - summed) * (1 + 1e-6))
        p = (smaller + 1) / (permutations + 1)
        found[name] = Grouped(float(ratio), *_interval(drawn[name]), p, float(inside / same), float(outside / other))
    return found


def grouped_ratio_of_pairs(
    distances: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    codes: np.ndarray,
    seed: int,
    permutations: int = 199,
    resamples: int = 200,
) -> Grouped:
    """Of one grouping (see `grouped_ratios_of_pairs`)."""
    return grouped_ratios_of_pairs(distances, left, right, {"": codes}, seed, permutations, resamples)[""]


def _sums_of_pairs(distances: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(4, P) float32: of the pairs within groups the distances and ones, of those between them the same; else 0. left,
    right: the samples' codes."""
    same = (left == right) & (left >= 0)
    other = (left != right) & (left >= 0) & (right >= 0)
    return np.stack([distances * same, same, distances * other, other]).astype(np.float32)


def _resampled(
    columns: Mapping[str, np.ndarray], left: np.ndarray, right: np.ndarray, count: int, seed: int, resamples: int
) -> dict[str, np.ndarray]:
    """(B,) ratios of each grouping over resampled samples: a pair counts as often as its two samples together."""
    if not columns:
        return {}
    draw, every = np.random.default_rng(seed), np.concatenate(list(columns.values()))
    sums = np.empty((resamples, len(every)))
    for at in range(resamples):
        times = np.bincount(draw.integers(0, count, count), minlength=count).astype(np.float32)
        sums[at] = every @ (times[left] * times[right])
    parts = np.split(sums, len(columns), axis=1)
    return {name: _ratio(*part.T) for name, part in zip(columns, parts, strict=True)}


@functools.lru_cache(maxsize=4)  # the same for every threshold and checkpoint of a probe
def _times(count: int, resamples: int, seed: int) -> np.ndarray:
    """(B, N) float32: how often each resample draws each sample."""
    draw = np.random.default_rng(seed)
    times = draw.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float32)
    times.flags.writeable = False
    return times


@functools.lru_cache(maxsize=4)
def _orders(count: int, permutations: int, seed: int) -> np.ndarray:
    """(P, N) shuffled positions."""
    orders = np.random.default_rng((seed, 1)).permuted(np.tile(np.arange(count), (permutations, 1)), axis=1)
    orders.flags.writeable = False
    return orders


@functools.lru_cache(maxsize=16)
def _pairs_within(starts: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Both positions of every pair within blocks of an order."""
    pairs = [np.stack(np.triu_indices(size, 1)) + start for start, size in zip(starts, sizes, strict=True)]
    rows, columns = np.concatenate(pairs, axis=1) if pairs else np.zeros((2, 0), dtype=np.int64)
    return rows, columns


def _within_sums(distances: np.ndarray, sizes: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """(P,) of each order of the samples, the sum of distances within groups, both directions, if the first sizes[0] of
    it were the first group, and so on. orders: (P, N). Exact: distances are whole numbers and sums stay below 2^24."""
    count, edges = orders.shape[1], np.concatenate([[0], np.cumsum(sizes)])
    found = np.zeros(len(orders))
    small: list[tuple[int, int]] = []
    for start, stop in pairwise(edges.tolist()):
        if stop - start > count / _LARGE:
            inside = np.zeros(orders.shape, dtype=np.float32)
            np.put_along_axis(inside, orders[:, start:stop], 1, axis=1)
            found += _form(inside, distances)
        elif stop - start > 1:
            small.append((start, stop - start))
    rows, columns = _pairs_within(tuple(start for start, _ in small), tuple(size for _, size in small))
    flat = distances.ravel()
    if len(rows):
        found += [2 * flat.take(order[rows] * count + order[columns]).sum(dtype=np.float64) for order in orders]
    return found


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
