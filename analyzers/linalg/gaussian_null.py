"""Spectra of matrices of independent Gaussian entries: the null that every spectral number stands beside.

The eigenvalues are drawn from the exact bidiagonal model, in O(M²) per matrix: no M × N matrix is ever formed.
Nulls depend on the shape alone, and so do their seeds.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.linalg import eigvalsh_tridiagonal

SMALLEST_P = 1e-10
"""An extrapolation from a hundred draws says no more than 'at most this'."""


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
