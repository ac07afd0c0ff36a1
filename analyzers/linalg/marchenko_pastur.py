"""The Marchenko–Pastur law: what the eigenvalues of W Wᵀ would be if the entries of W were independent noise.

λ = σ², not divided by N; M = min(m, n), N = max(m, n), entries of standard deviation s. q = M/N ≤ 1.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

TRACY_WIDOM_95 = 0.979
"""95 % point of the Tracy–Widom law (β = 1)."""
MINIMUM_BULK = 10
"""Fewer eigenvalues than this have no bulk to judge."""


@dataclass(frozen=True)
class BulkFit:
    """One choice of s and what follows from it. `edge` separates spikes; `upper` is λ+ = s²(√N + √M)².

    `ks` is the Kolmogorov–Smirnov distance of the M − n_spikes eigenvalues below the edge to their law.
    """

    s: float
    edge: float
    upper: float
    n_spikes: int
    ks: float


NO_FIT = BulkFit(math.nan, math.nan, math.nan, -1, math.nan)


def cdf(x: np.ndarray, q: float) -> np.ndarray:
    """P(λ/(s²N) ≤ x) of the bulk at aspect ratio q = M/N in (0, 1], in closed form; any shape of x.

    The density is √((b − x)(x − a)) / (2πqx) on [a, b] = [(1 − √q)², (1 + √q)²].
    """
    if not 0 < q <= 1:
        raise ValueError(f"aspect ratio q = M/N must be in (0, 1], not {q}")
    a, b = (1 - math.sqrt(q)) ** 2, (1 + math.sqrt(q)) ** 2
    inside = np.clip(np.asarray(x, dtype=np.float64), a, b)
    with np.errstate(divide="ignore", invalid="ignore"):
        r = np.sqrt((b - inside) / (inside - a))
        value = math.pi * q + np.sqrt((b - inside) * (inside - a)) - (1 + q) * np.arctan((r * r - 1) / (2 * r))
        if q < 1:
            value = value + (1 - q) * np.arctan((a * r * r - b) / (2 * (1 - q) * r))
    result = np.where(inside <= a, 0.0, np.where(inside >= b, 1.0, value / (2 * math.pi * q)))
    clipped: np.ndarray = np.clip(result, 0.0, 1.0)
    return clipped


@functools.lru_cache(maxsize=4096)
def median(q: float) -> float:
    """The median of λ/(s²N) at aspect ratio q."""
    a, b = (1 - math.sqrt(q)) ** 2, (1 + math.sqrt(q)) ** 2
    return float(brentq(lambda x: float(cdf(np.array(x), q)) - 0.5, a, b, xtol=1e-15 * b, rtol=1e-14))


def bulk_edges(s: float, M: int, N: int) -> tuple[float, float]:
    """λ± = s²(√N ± √M)²: the support of the law in the limit of large matrices."""
    return s * s * (math.sqrt(N) - math.sqrt(M)) ** 2, s * s * (math.sqrt(N) + math.sqrt(M)) ** 2


def spike_edge(s: float, M: int, N: int) -> float:
    """The λ1 that noise of a known s alone exceeds in 5 % of matrices of this size.

    s²[(a + b)² + 0.979 (a + b)(1/a + 1/b)^{1/3}], a = √(N − ½), b = √(M − ½).
    Source: Johnstone 2001, with the centring of Ma 2012.
    """
    a, b = math.sqrt(N - 0.5), math.sqrt(M - 0.5)
    return s * s * ((a + b) ** 2 + TRACY_WIDOM_95 * (a + b) * (1 / a + 1 / b) ** (1 / 3))


def median_scale(eigenvalues: np.ndarray, N: int, least: float = 0.0, widening: float = 1.0) -> float:
    """s from the median of the bulk, iterated, but at least `least`, that of rounding; eigenvalues descending, (M,).

    k ← 0; s² = median(λ_{k+1..M}) / (N · median_MP((M − k)/N)); k ← #{λ > edge}; until k is fixed, or 20 times.
    The edge is `spike_edge` times `widening` (`gaussian_null.edge_widening`).
    Source: Gavish & Donoho 2014 for the median, iterated over the spikes.
    """
    M = len(eigenvalues)
    k, s = 0, math.nan
    for _ in range(20):
        if k >= M:
            return math.nan
        s = max(math.sqrt(float(np.median(eigenvalues[k:])) / (N * median((M - k) / N))), least)
        above = int((eigenvalues > widening * spike_edge(s, M, N)).sum())
        if above == k:
            break
        k = above
    return s


def fit_bulk(eigenvalues: np.ndarray, N: int, s: float, widening: float = 1.0) -> BulkFit:
    """Edges, spikes and the distance of the rest to the law, for entries of standard deviation s.

    eigenvalues: λ descending, all M of them, (M,). The bulk is what remains below the spike edge; it is compared with
    the law at aspect ratio (M − n_spikes)/N. Without a positive s, or with under 10 values in the bulk, ks is NaN.
    `widening` of the edge is for the error of an s that was estimated.
    """
    M = len(eigenvalues)
    if M < 2 or not math.isfinite(s) or s <= 0:
        return NO_FIT
    edge = widening * spike_edge(s, M, N)
    k = int((eigenvalues > edge).sum())
    bulk = eigenvalues[k:][::-1]
    ks = math.nan
    if len(bulk) >= MINIMUM_BULK:
        ks = ks_distance(bulk / (s * s * N), len(bulk) / N)
    return BulkFit(s, edge, bulk_edges(s, M, N)[1], k, ks)


def ks_distance(values: np.ndarray, q: float) -> float:
    """Two-sided Kolmogorov–Smirnov distance of ascending values of λ/(s²N) to the law at q."""
    model = cdf(values, q)
    steps = np.arange(len(values) + 1) / len(values)
    return float(max(np.abs(model - steps[:-1]).max(), np.abs(model - steps[1:]).max()))
