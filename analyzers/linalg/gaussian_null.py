"""Spectra of matrices of independent Gaussian entries: the null that every spectral number stands beside.

    gaussian_eigenvalues(M, N, draws, generator)    # by the exact bidiagonal model: no M × N matrix is ever formed
    edge_widening(M, N, scale), bulk_p_value(...), alpha_position(...)      # laws tabulated over shapes, no draws

The laws were simulated once (`gaussian_tables`). They are smooth in the shape: M times the KS distance of a bulk grows
with ln M, as the greatest deviation of a log-correlated field does, and hardly depends on M/N. So shapes beyond the
table (M > 1024) follow from it, and the size of a test is the same for every shape.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.linalg import eigvalsh_tridiagonal
from scipy.special import ndtr, ndtri

from analyzers.linalg import gaussian_tables as tables

SMALLEST_P = 1e-10
"""An extrapolation from a hundred draws says no more than 'at most this'."""
LARGEST_SIDE = 1024
"""Of the shapes that the laws were simulated at."""


def gaussian_eigenvalues(M: int, N: int, draws: int, generator: np.random.Generator) -> np.ndarray:
    """λ of `draws` matrices of M × N (M ≤ N) iid standard Gaussian entries, descending, (draws, M).

    W is orthogonally equivalent to a bidiagonal matrix of independent χ variables: χ_N, χ_{N−1}, … on the diagonal
    and χ_{M−1}, …, χ_1 beside it (Silverstein 1985; Dumitriu & Edelman 2002). Absolute error ≈ ε λ1.
    """
    if not 1 <= M <= N:
        raise ValueError(f"need 1 ≤ M ≤ N, not M = {M}, N = {N}")
    result = np.empty((draws, M))
    for draw in range(draws):
        diagonal = generator.chisquare(N - np.arange(M))
        beside = generator.chisquare(np.arange(M - 1, 0, -1)) if M > 1 else np.empty(0)
        # B Bᵀ of the lower bidiagonal B: tridiagonal with d_i + e_{i−1} and √(d_i e_i).
        main = diagonal.copy()
        main[1:] += beside
        off = np.sqrt(diagonal[:-1] * beside)
        values = eigvalsh_tridiagonal(main, off, lapack_driver="sterf") if M > 1 else main
        result[draw] = np.maximum(values[::-1], 0.0)
    return result


def scaled_gaussian_eigenvalues(scales: np.ndarray, N: int, draws: int, generator: np.random.Generator) -> np.ndarray:
    """λ of diag(scales) G / √N, G of M × N iid standard Gaussian entries, descending, (draws, M).

    G is replaced by the lower triangular factor of its LQ decomposition (Bartlett: χ_N, χ_{N−1}, … on the diagonal,
    Gaussians below), which has the same G Gᵀ in law and is M × M.
    """
    M = len(scales)
    result = np.empty((draws, M))
    for draw in range(draws):
        lower = np.tril(generator.standard_normal((M, M)), -1)
        lower[np.diag_indices(M)] = np.sqrt(generator.chisquare(N - np.arange(M)))
        scaled = scales[:, None] * lower / math.sqrt(N)
        result[draw] = np.linalg.svd(scaled, compute_uv=False) ** 2
    return result


def edge_features(M: int, N: int) -> np.ndarray:
    """What the widening of the spike edge is a sum of, (12,)."""
    q = M / N
    return np.array([M ** (-k / 3) * f for k in (3, 4, 6) for f in (math.sqrt(q), q, q * q, q**4)])


def law_features(M: int, N: float) -> np.ndarray:
    """What the quantiles of the other laws are a sum of, (16,)."""
    q, L, u = M / N, math.log(M), 1 / math.sqrt(M)
    r = math.sqrt(q)
    of_side = [1, L, u, u * u, u**3]
    of_both = [power * f for power in (q, q * q, q**4) for f in (1, L, u)]
    return np.array([*of_side, r, r * L, *of_both])


def edge_widening(M: int, N: int, scale: str) -> float:
    """By how much the spike edge of a known s is to be multiplied for one estimated by "median" or "shuffle".

    With it, noise of this shape exceeds the edge in 5 % of matrices. Of a "total" s, 1: its error is far smaller.
    """
    if scale == "total":
        return 1.0
    coefficients = tables.EDGE_MEDIAN if scale == "median" else tables.EDGE_SHUFFLE
    return 1.0 + float(coefficients[0] @ edge_features(M, N))


def bulk_p_value(M: int, N: int, scale: str, distance: float) -> float:
    """P(KS distance of a Gaussian bulk ≥ distance), s fitted to it by "total", "median" or "shuffle"; M ≥ 10.

    Between the tabulated levels ln p is linear in the distance, and so it goes on beyond the last, .002: an exponential
    tail, heavier than that of the law, so that p errs on the large side there. No p below `SMALLEST_P` is claimed.
    """
    if not math.isfinite(distance):
        return math.nan
    coefficients = {"total": tables.KS_TOTAL, "median": tables.KS_MEDIAN, "shuffle": tables.KS_SHUFFLE}[scale]
    points = np.maximum.accumulate([0.0, *_tabulated(coefficients, M, N)])
    logs = np.log([1.0, *tables.KS_LEVELS])
    return max(math.exp(_continued(M * distance, points, logs)), SMALLEST_P)


def alpha_position(M: int, N: int, alpha: float) -> float:
    """P(α of a Gaussian matrix ≤ alpha), for at least 20 eigenvalues.

    Between the tabulated levels, .002 … .998, the normal score is linear in ln(α − 1), and so it goes on beyond them:
    the lower tail is lighter. No probability below `SMALLEST_P` is claimed.
    """
    if not math.isfinite(alpha):
        return math.nan
    points = np.maximum.accumulate(_tabulated(tables.ALPHA, M, N))
    score = _continued(math.log((alpha - 1) * math.sqrt(M / N)), points, ndtri(tables.ALPHA_LEVELS))
    return max(float(ndtr(score)), SMALLEST_P)


def _tabulated(coefficients: np.ndarray, M: int, N: int) -> np.ndarray:
    """The quantiles at a shape; beyond the largest side that was simulated all go on with ln M alike."""
    side = min(M, LARGEST_SIDE)
    points: np.ndarray = coefficients @ law_features(side, side * N / M)
    if side < M:
        half = coefficients @ law_features(side // 2, side // 2 * N / M)
        points = points + float((points - half).mean()) / math.log(2) * math.log(M / side)
    return points


def _continued(x: float, points: np.ndarray, values: np.ndarray) -> float:
    """Linear interpolation, and beyond the ends with the slope over the last two intervals."""
    if points[0] <= x <= points[-1]:
        return float(np.interp(x, points, values))
    end, inner = (0, 2) if x < points[0] else (-1, -3)
    slope = (values[end] - values[inner]) / (points[end] - points[inner])
    return float(values[end] + slope * (x - points[end]))


def tail_p_value(null: np.ndarray, observed: float) -> float:
    """P(null ≥ observed), extrapolated beyond the draws by an exponential tail; null: (draws,) ascending.

    Up to the 90th percentile it is the empirical (1 + #{null ≥ observed}) / (1 + draws). Beyond it the excess over
    that percentile is taken as exponential with the mean excess of the upper draws: without it, no correction over
    many matrices could ever reject. Distances have lighter tails than an exponential, so p errs on the large side.
    No p below `SMALLEST_P` is claimed.
    Source: Knijnenburg et al. 2009, with the shape fixed at 0.
    """
    draws = len(null)
    if not draws or not math.isfinite(observed):
        return math.nan
    threshold = float(np.quantile(null, 0.9))
    upper = null[null > threshold]
    if observed <= threshold or len(upper) < 5:
        return float((1 + (null >= observed).sum()) / (1 + draws))
    excess = float((upper - threshold).mean())
    return max(float(len(upper) / draws * math.exp(-min((observed - threshold) / excess, 700.0))), SMALLEST_P)


def benjamini_yekutieli(p: np.ndarray) -> np.ndarray:
    """Adjusted p-values that hold the false discovery rate under any dependence; NaN stay NaN; (count,).

    Source: Benjamini & Yekutieli 2001.
    """
    adjusted = np.full(p.shape, np.nan)
    known = np.flatnonzero(np.isfinite(p))
    m = len(known)
    if not m:
        return adjusted
    order = known[np.argsort(p[known], kind="stable")]
    scaled = p[order] * m * (1.0 / np.arange(1, m + 1)).sum() / np.arange(1, m + 1)
    adjusted[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return adjusted
