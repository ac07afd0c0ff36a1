"""What follows from σ alone, for stacks of spectra of one length: arithmetic, no fitting.

Every function takes sigma (count, k) float64 descending; p, (count,): the number of singular values, zeros included
(p ≥ k: a low-rank Δ carries only its r non-zero values).
"""

from __future__ import annotations

import numpy as np

from analyzers.linalg.powerlaw import hill_alpha
from analyzers.linalg.spectra import EPSILON

CONDITION_GRAM_LIMIT = 1e4
"""Above it, a condition number and the tail σ that come from a Gram matrix are flagged."""


def spectral_scalars(
    sigma: np.ndarray, p: np.ndarray, N: np.ndarray, noise_floor: np.ndarray | float = 0.0
) -> dict[str, np.ndarray]:
    """Norms, ranks, entropy, Hill's α and the condition number, each (count,).

    N: the longer side, (count,); noise_floor: of the storage, in units of σ, (count,) or one for all.

    Everything but the norms is computed from σ/σ1, so that it does not change with the scale of W. A zero matrix has
    norms 0, and NaN for everything that divides by them.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        top = sigma[:, :1]
        unit = sigma / top
        squares = unit**2
        energy = squares.sum(axis=1)
        sums = unit.sum(axis=1)
        share = unit / sums[:, None]
        share_squared = squares / energy[:, None]
        size = p.astype(np.float64)
        return {
            "spectral_norm": sigma[:, 0],
            "frobenius_norm": _times(sigma[:, 0], np.sqrt(energy)),
            "nuclear_norm": _times(sigma[:, 0], sums),
            "stable_rank": energy,
            "effective_rank": np.exp(_entropy(share)),
            "spectral_entropy": np.where(p > 1, _entropy(share_squared) / np.log(size), np.nan),
            "participation_ratio": energy**2 / (squares**2).sum(axis=1),
            "condition_number": condition_number(sigma, p, N),
            "hill_alpha": hill_alpha(sigma, rounding_floor(sigma[:, 0], N, noise_floor)),
        }


def rounding_floor(spectral_norm: np.ndarray, N: np.ndarray, noise_floor: np.ndarray | float) -> np.ndarray:
    """max(noise_floor, N ε64 σ1): at or below it a σ is rounding of the storage or of the arithmetic; (count,)."""
    result: np.ndarray = np.fmax(noise_floor, N * EPSILON * spectral_norm)
    return result


def condition_number(sigma: np.ndarray, p: np.ndarray, N: np.ndarray) -> np.ndarray:
    """σ1/σp, (count,); 1/(N ε64), a lower bound, where σp ≤ N ε64 σ1 (rank-deficient)."""
    last = np.where(p > sigma.shape[1], 0.0, sigma[:, -1])
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = sigma[:, 0] / last
    bounded = np.where(_deficient(sigma, last, N), 1.0 / (N * EPSILON), ratio)
    result: np.ndarray = np.where(sigma[:, 0] > 0, bounded, np.nan)
    return result


def condition_flag(sigma: np.ndarray, p: np.ndarray, N: np.ndarray, from_gram: np.ndarray) -> np.ndarray:
    """0: plain; 1: from a Gram matrix and above 1e4, so the tail σ are less exact; 2: a lower bound; NaN: zero matrix.

    from_gram: bool, (count,).
    """
    last = np.where(p > sigma.shape[1], 0.0, sigma[:, -1])
    steep = from_gram & (sigma[:, 0] > CONDITION_GRAM_LIMIT * last)
    flag = np.where(_deficient(sigma, last, N), 2.0, np.where(steep, 1.0, 0.0))
    result: np.ndarray = np.where(sigma[:, 0] > 0, flag, np.nan)
    return result


def energy_rank(sigma: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """The least k with Σ_{i≤k} λ ≥ q Σλ for each level q, (count, len(levels)); NaN for a zero matrix.

    A sum within 1e-12 of the level has reached it, so that equal σ do not depend on the order of rounding.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        squares = (sigma / sigma[:, :1]) ** 2
        gathered = np.cumsum(squares, axis=1) / squares.sum(axis=1)[:, None]
    reached = gathered[:, :, None] >= levels * (1 - 1e-12)
    return np.where(np.isfinite(gathered[:, -1:]), reached.argmax(axis=1) + 1.0, np.nan)


def log_alpha_norm(sigma: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """log10 Σ λ^α, (count,), without overflow; α: (count,). Source: Martin, Peng & Mahoney 2021."""
    with np.errstate(divide="ignore", invalid="ignore"):
        unit = sigma / sigma[:, :1]
        inner = np.where(unit > 0, unit ** (2 * alpha)[:, None], 0.0).sum(axis=1)
        result: np.ndarray = np.log10(inner) + 2 * alpha * np.log10(sigma[:, 0])
    result[~np.isfinite(result)] = np.nan
    return result


def quantiles(sigma: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Quantiles of each spectrum by linear interpolation, (count, len(levels)), of the values carried."""
    k = sigma.shape[1]
    position = levels * (k - 1)
    below = np.floor(position).astype(np.int64)
    above = np.minimum(below + 1, k - 1)
    ascending = sigma[:, ::-1]
    weight = position - below
    result: np.ndarray = ascending[:, below] * (1 - weight) + ascending[:, above] * weight
    return result


def _entropy(share: np.ndarray) -> np.ndarray:
    """−Σ q ln q in nats; 0 ln 0 = 0."""
    return -np.where(share > 0, share * np.log(np.where(share > 0, share, 1.0)), np.where(share == 0, 0.0, np.nan)).sum(
        axis=1
    )


def _deficient(sigma: np.ndarray, last: np.ndarray, N: np.ndarray) -> np.ndarray:
    result: np.ndarray = last <= N * EPSILON * sigma[:, 0]
    return result


def _times(norm: np.ndarray, factor: np.ndarray) -> np.ndarray:
    return np.where(norm > 0, norm * factor, 0.0)
