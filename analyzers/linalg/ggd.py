"""The generalized Gaussian law of a matrix's entries, p(w) = β / (2 a Γ(1/β)) · exp(−(|w|/a)^β), of zero mean.

β = 2 is a Gaussian, β = 1 a Laplacian; the smaller β, the more the entries are concentrated with heavy tails.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import digamma, gammaln, polygamma

SHAPE_RANGE = (0.1, 10.0)
"""Bounds of β; an estimate that sits on one of them is a bound, not an estimate."""


def fit_ggd(magnitudes: np.ndarray, counts: np.ndarray, zeros: int = 0) -> tuple[float, float]:
    """(β, a) of greatest likelihood for entries given as distinct non-zero |w| with counts, and a number of zeros.

    Moments give the start (E|w| / √E w²), Newton's method with a bracket the solution. (NaN, NaN) without a non-zero
    entry. Source: Do & Vetterli 2002, eq. 10–12; 2506.00486.
    """
    if not len(magnitudes):
        return math.nan, math.nan
    largest = float(magnitudes.max())
    logs = np.log(magnitudes / largest)
    total = int(counts.sum()) + zeros
    weights = counts / total
    low, high = SHAPE_RANGE
    if _slope(high, logs, weights)[0] > 0:
        beta = high
    elif _slope(low, logs, weights)[0] < 0:
        beta = low
    else:
        beta = _solve(_moment_start(logs, weights), logs, weights)
    log_scale = (math.log(beta) + math.log(float((weights * np.exp(beta * logs)).sum()))) / beta
    return beta, largest * math.exp(log_scale)


def _slope(beta: float, logs: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """g(β), which is positive below the likelihood's maximum, and g'(β).

    g = 1 + ψ(1/β)/β − A1/A0 + ln(β A0)/β with A_k = Σ weight · |w|^β (ln |w|)^k.
    """
    powers = weights * np.exp(beta * logs)
    a0, a1, a2 = float(powers.sum()), float((powers * logs).sum()), float((powers * logs * logs).sum())
    inverse = 1.0 / beta
    psi = float(digamma(inverse))
    logarithm = math.log(beta * a0)
    value = 1.0 + psi * inverse - a1 / a0 + logarithm * inverse
    derivative = (
        -psi * inverse**2
        - float(polygamma(1, inverse)) * inverse**3
        - (a2 / a0 - (a1 / a0) ** 2)
        + inverse**2
        + a1 / a0 * inverse
        - logarithm * inverse**2
    )
    return value, derivative


def _moment_start(logs: np.ndarray, weights: np.ndarray) -> float:
    """β whose E|w|/√E w² is that of the entries: Γ(2/β) / √(Γ(1/β) Γ(3/β)), read off a grid."""
    ratio = float((weights * np.exp(logs)).sum()) / math.sqrt(float((weights * np.exp(2 * logs)).sum()))
    grid = np.geomspace(*SHAPE_RANGE, 60)
    moments = np.exp(gammaln(2 / grid) - 0.5 * (gammaln(1 / grid) + gammaln(3 / grid)))
    return float(np.interp(ratio, moments, grid))


def _solve(beta: float, logs: np.ndarray, weights: np.ndarray) -> float:
    """The root of g in `SHAPE_RANGE`: Newton, and a bisection step wherever Newton leaves the bracket."""
    low, high = SHAPE_RANGE
    for _ in range(60):
        value, derivative = _slope(beta, logs, weights)
        if value > 0:
            low = beta
        else:
            high = beta
        following = beta - value / derivative if derivative else math.nan
        if not low < following < high:
            following = 0.5 * (low + high)
        if abs(following - beta) <= 1e-13 * beta:
            return following
        beta = following
    return beta
