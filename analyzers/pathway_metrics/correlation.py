"""Correlation of two series of checkpoints, with an interval that knows that neighbours are alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LEAST = 8
"""Below this many effective observations no interval is given."""


@dataclass(frozen=True)
class Correlation:
    """Pearson's r of n pairs; n_eff = n / (1 + 2 Σ ρx ρy); 95 % interval by Fisher's z with n_eff, or NaN."""

    r: float
    n: int
    n_eff: float
    low: float
    high: float


def correlation(x: np.ndarray, y: np.ndarray) -> Correlation:
    """Of two series in the order of the steps; pairs with a NaN are left out. Fewer than 3, or a constant: NaN."""
    there = np.isfinite(x) & np.isfinite(y)
    x, y = np.asarray(x, dtype=np.float64)[there], np.asarray(y, dtype=np.float64)[there]
    n = len(x)
    if n < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Correlation(np.nan, n, np.nan, np.nan, np.nan)
    r = float(np.clip(np.corrcoef(x, y)[0, 1], -1, 1))
    n_eff = effective_count(x, y)
    if n_eff < LEAST:
        return Correlation(r, n, n_eff, np.nan, np.nan)
    half = 1.959964 / np.sqrt(n_eff - 3)
    z = np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12))
    return Correlation(r, n, n_eff, float(np.tanh(z - half)), float(np.tanh(z + half)))


def effective_count(x: np.ndarray, y: np.ndarray) -> float:
    """n / (1 + 2 Σ_k ρx(k) ρy(k)) (Bartlett 1935), at most n; the sum ends where the product is no longer positive,
    beyond which a short series has only noise."""
    n = len(x)
    total = 0.0
    for lag in range(1, n - 1):
        product = _autocorrelation(x, lag) * _autocorrelation(y, lag)
        if product <= 0:
            break
        total += product
    return float(n / (1 + 2 * total))


def of_differences(x: np.ndarray, y: np.ndarray) -> Correlation:
    """The same of first differences: two series that merely drift have none."""
    there = np.isfinite(x) & np.isfinite(y)
    return correlation(np.diff(np.asarray(x, dtype=np.float64)[there]), np.diff(np.asarray(y, dtype=np.float64)[there]))


def _autocorrelation(x: np.ndarray, lag: int) -> float:
    centred = x - x.mean()
    return float((centred[:-lag] * centred[lag:]).sum() / (centred**2).sum())
