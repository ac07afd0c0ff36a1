"""One streamed pass over a matrix's entries: moments, and a histogram of magnitudes fine enough to fit laws on.

Up to 2¹⁶ entries it holds each distinct |w|. Above, its bins are the leading bits of |w| as a float32: exact for
bfloat16, float16 and float8, and 2⁻¹⁰ of a binade wide otherwise. A bin stands for its entries by its centre, or by
their mean where entries lie on a grid and so anywhere in a bin: sums of |w|^β over bins are good to 1e-6 either way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from analyzers.contract import Content
from analyzers.errors import Unmeasurable
from analyzers.linalg.blocks import blocks64, shape_of

_DROPPED_BITS = 13
"""Of a float32's 23 mantissa bits, ten remain: as many as float16 has."""

_BLOCK_BYTES = 1 << 20
"""A block and its temporaries stay in the processor's cache: 4 ns an entry where 16 MiB blocks take 7."""

_DISTINCT_COUNT = 1 << 16
"""Up to so many entries are kept one by one."""

_SAMPLE = 4096
_SAMPLE_REPEATS = 32
"""Entries that repeat as often as this among a sample lie on a grid of at most some 250 000 magnitudes."""


@dataclass(frozen=True)
class EntryFacts:
    """What one pass tells of the entries w. Moments are central; `kurtosis` is m4/m2² (3 for a Gaussian).

    `magnitudes` ascending and `counts` describe the non-zero |w|: exact values where `exact`, else one per bin.
    `mantissa_bits` counts the fraction bits in use (53 bits of significand = 52). `largest` is max |w|.
    """

    count: int
    zeros: int
    mean: float
    std: float
    skewness: float
    kurtosis: float
    largest: float
    magnitudes: np.ndarray
    counts: np.ndarray
    exact: bool
    mantissa_bits: int


def entry_facts(content: Content) -> EntryFacts:
    """The facts, from the storage dtype in float64 blocks; factors expand block by block.

    Raises `Unmeasurable` when there is no entry, or when entries are not finite or complex.
    """
    m, n = shape_of(content)
    count = m * n
    if not count:
        raise Unmeasurable(f"a {m} × {n} matrix has no entries")
    # Float64 entries are brought into float32's range by a power of two before their leading bits are taken.
    exponent = 0
    if not isinstance(content, torch.Tensor) or content.dtype == torch.float64:
        largest = max((float(b.abs().max()) for b in blocks64(content)), default=0.0)
        exponent = math.frexp(largest)[1] if math.isfinite(largest) and largest else 0
    moments, bits = _Moments(), 0
    histogram: _Histogram | _Distinct = _Distinct() if count <= _DISTINCT_COUNT else _Histogram(exponent)
    for block in blocks64(content, block_bytes=_BLOCK_BYTES):
        values = block.reshape(-1).cpu().numpy()
        moments.add(values, exponent)
        bits |= _fraction_bits(values)
        histogram.add(values)
    exact = isinstance(histogram, _Distinct) or not bits & ((1 << (52 - 10)) - 1)
    zeros, magnitudes, counts = histogram.results(exact)
    mean, std, skewness, kurtosis = moments.results()
    return EntryFacts(
        count=count,
        zeros=zeros,
        mean=math.ldexp(mean, exponent),
        std=math.ldexp(std, exponent),
        skewness=skewness,
        kurtosis=kurtosis,
        largest=math.ldexp(moments.largest, exponent),
        magnitudes=magnitudes,
        counts=counts,
        exact=exact,
        mantissa_bits=52 - _trailing_zeros(bits),
    )


class _Distinct:
    """Every distinct magnitude."""

    def __init__(self) -> None:
        self.parts: list[np.ndarray] = []

    def add(self, values: np.ndarray) -> None:
        self.parts.append(np.abs(values))

    def results(self, exact: bool) -> tuple[int, np.ndarray, np.ndarray]:
        """Zeros, the other magnitudes ascending, their counts."""
        magnitudes, counts = np.unique(np.concatenate(self.parts), return_counts=True)
        first = int(magnitudes[0] == 0)
        return int(counts[0]) * first, magnitudes[first:], counts[first:]


class _Histogram:
    """Magnitudes, divided by 2^exponent, by the leading bits of their float32."""

    def __init__(self, exponent: int) -> None:
        self.exponent, self.counts = exponent, np.zeros(0, dtype=np.int64)
        self.sums: np.ndarray | None = None

    def add(self, values: np.ndarray) -> None:
        scaled = np.ldexp(values, -self.exponent) if self.exponent else values
        bins = (scaled.astype(np.float32).view(np.int32) & 0x7FFFFFFF) >> _DROPPED_BITS
        if not len(self.counts) and _on_a_grid(values):
            self.sums = np.zeros(0)
        self.counts = _added(self.counts, np.bincount(bins))
        if self.sums is not None:
            self.sums = _added(self.sums, np.bincount(bins, np.abs(scaled)))

    def results(self, exact: bool) -> tuple[int, np.ndarray, np.ndarray]:
        """Zeros, the bins' magnitudes ascending (their centres or means where not `exact`), their counts."""
        used = np.flatnonzero(self.counts[1:]) + 1
        if self.sums is not None and not exact:
            return int(self.counts[0]), np.ldexp(self.sums[used] / self.counts[used], self.exponent), self.counts[used]
        half = 0 if exact else 1 << (_DROPPED_BITS - 1)
        centres = ((used.astype(np.int32) << _DROPPED_BITS) + half).view(np.float32).astype(np.float64)
        return int(self.counts[0]), np.ldexp(centres, self.exponent), self.counts[used]


def _added(total: np.ndarray, part: np.ndarray) -> np.ndarray:
    """The sum of two arrays of bins, as long as the longer."""
    longer, shorter = (total, part) if len(total) >= len(part) else (part, total)
    longer[: len(shorter)] += shorter
    return longer


def _on_a_grid(values: np.ndarray) -> bool:
    """Whether magnitudes repeat within a sample of the entries, zeros aside."""
    sample = np.sort(np.abs(values[:: max(1, len(values) // _SAMPLE)]))
    return int(((np.diff(sample) == 0) & (sample[1:] > 0)).sum()) >= _SAMPLE_REPEATS


class _Moments:
    """Sums of powers about the first block's mean: one pass, no cancellation against a common offset."""

    def __init__(self) -> None:
        self.count, self.sums, self.offset, self.largest = 0, np.zeros(4), 0.0, 0.0

    def add(self, values: np.ndarray, exponent: int) -> None:
        scaled = values if not exponent else np.ldexp(values, -exponent)
        largest = float(max(scaled.max(), -scaled.min()))
        if not math.isfinite(largest):
            nan, infinite = int(np.isnan(values).sum()), int(np.isinf(values).sum())
            raise Unmeasurable(
                f"entries are not finite: {nan} NaN and {infinite} infinite among the {len(values)} of one block"
            )
        if not self.count:
            self.offset = float(scaled.mean())
        self.largest = max(self.largest, largest)
        self.count += len(scaled)
        centred = scaled - self.offset
        squares = centred * centred
        self.sums += (centred.sum(), squares.sum(), squares @ centred, squares @ squares)

    def results(self) -> tuple[float, float, float, float]:
        """mean, std, skewness, kurtosis (NaN for the last two where all entries are equal)."""
        a, b, c, d = self.sums / self.count
        variance = max(b - a * a, 0.0)
        mean = self.offset + a
        if variance <= 1e-30 * self.largest**2:
            return mean, 0.0, math.nan, math.nan
        third = c - 3 * a * b + 2 * a**3
        fourth = d - 4 * a * c + 6 * a * a * b - 3 * a**4
        return mean, math.sqrt(variance), third / variance**1.5, fourth / variance**2


def _fraction_bits(values: np.ndarray) -> int:
    """The fraction bits (52) that any of the float64 values uses, or-ed together."""
    return int(np.bitwise_or.reduce(values.view(np.int64)) & ((1 << 52) - 1))


def _trailing_zeros(bits: int) -> int:
    return (bits & -bits).bit_length() - 1 if bits else 52
