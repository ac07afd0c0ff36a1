"""Intrinsic dimension of a cloud of points from its nearest neighbours: TwoNN, Levina–Bickel's MLE, GRIDE.

All are biased low at high dimension. Names and discard settings are those of scikit-dimension, their oracle in tests.
`resolution` (N, 1) or a number: two distances of a point that differ by no more are equal, a tie. A ratio of two equal
distances carries no information about the dimension: where most ratios are such, there is no estimate.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import brentq

from analyzers.errors import Unmeasurable

MOST = 0.5
"""Share of tied ratios above which nothing is estimated."""


def two_nn(distances: np.ndarray, resolution: np.ndarray | float = 0.0) -> float:
    """d = (N − 1)/Σ ln(r2/r1) (scikit-dimension: method="mle", discard_fraction=0). distances (N, ≥ 2), ascending."""
    log_mu = _usable_ratios(distances, 1, 2, resolution, "TwoNN")
    return (len(log_mu) - 1) / float(log_mu.sum())


def tied_share(distances: np.ndarray, resolution: np.ndarray | float = 0.0) -> float:
    """The share of the points whose two nearest neighbours are equally far; NaN without points."""
    log_mu = _ratios(distances, 1, 2, resolution)
    return float((log_mu == 0).mean()) if len(log_mu) else float("nan")


def _usable_ratios(distances: np.ndarray, n1: int, n2: int, resolution: np.ndarray | float, name: str) -> np.ndarray:
    """ln(r_n2/r_n1), ties as 0. Raises `Unmeasurable` where fewer than two ratios are there, or most are ties."""
    log_mu = _ratios(distances, n1, n2, resolution)
    ties = int((log_mu == 0).sum())
    if len(log_mu) - ties < 2 or ties > MOST * len(log_mu):
        raise Unmeasurable(
            f"{name}: of {len(log_mu)} points, {ties} have their neighbours {n1} and {n2} at equal distances: "
            "too many for an estimate"
        )
    return log_mu


def _ratios(distances: np.ndarray, n1: int, n2: int, resolution: np.ndarray | float) -> np.ndarray:
    far, near = distances[:, n2 - 1], distances[:, n1 - 1]
    log_mu = _log_ratio(far, near)
    log_mu[(near > 0) & (far - near <= np.reshape(resolution, -1))] = 0.0
    return log_mu[np.isfinite(log_mu)]


def levina_bickel(distances: np.ndarray) -> float:
    """Maximum likelihood from all given neighbours, k − 1 in the numerator, combined by the harmonic mean.

    distances (N, k): m_i = (k − 1)/Σ_j ln(r_k/r_j); d = 1/mean(1/m_i).
    """
    k = distances.shape[1]
    inverse = _log_ratio(distances[:, -1:], distances).sum(axis=1) / (k - 1)
    inverse = inverse[np.isfinite(inverse)]
    mean = float(inverse.mean()) if inverse.size else 0.0
    if mean <= 0:
        raise Unmeasurable("MLE: no point has neighbours at different distances")
    return 1 / mean


def gride(distances: np.ndarray, n1: int, n2: int, resolution: np.ndarray | float = 0.0) -> float:
    """Generalised ratios: the root of the likelihood's score for μ = r_n2/r_n1 (2104.13832, (N − 1) ln d for N ln d).

    Zero or tied ratios are dropped, and those above q50 + 20 (q95 − q50), as in DADApy and scikit-dimension.
    """
    log_mu = _usable_ratios(distances, n1, n2, resolution, f"GRIDE ({n1}, {n2})")
    log_mu = log_mu[log_mu > 0]
    mu = np.exp(log_mu)
    q95, q50 = np.percentile(mu, [95, 50])
    log_mu = log_mu[mu < 20 * (q95 - q50) + q50]
    count, total = len(log_mu), float(log_mu.sum())
    if count < 2:
        raise Unmeasurable(f"GRIDE ({n1}, {n2}): {count} points are left after the outliers")
    if n2 == n1 + 1 == 2:
        return (count - 1) / total

    def score(d: float) -> float:
        middle = (n2 - n1 - 1) * float(np.sum(log_mu / -np.expm1(-d * log_mu)))
        return (count - 1) / d + middle - (n2 - 1) * total

    high = 1.0
    while score(high) > 0:
        high *= 2
    return float(brentq(score, 1e-8, high, xtol=1e-12, rtol=1e-12))


def participation_ratio(points: torch.Tensor) -> float:
    """(Σλ)²/Σλ² of the covariance's eigenvalues: (tr C)²/tr C², from the smaller Gram, in float64."""
    x = points.to(torch.float64)
    x = x - x.mean(dim=0)
    gram = x @ x.T if len(x) < x.shape[1] else x.T @ x
    square = float(gram.square().sum())
    if square == 0:
        raise Unmeasurable("participation ratio: all points are the same")
    return float(torch.trace(gram)) ** 2 / square


def _log_ratio(far: np.ndarray, near: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(far / near)
