"""Power laws on eigenvalues: the Clauset–Shalizi–Newman fit with WeightWatcher's conventions, and the Hill estimator.

fit_power_law(sigma, floor) -> PowerLaw     # xmin by an exact, pruned scan over every candidate
hill_alpha(sigma, floor)                    # vectorised over spectra
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

MINIMUM_VALUES = 20
"""Below so many values above the floor there is no fit (NaN). WeightWatcher switches to another estimator there."""

_PROBES = 24
"""Points of a tail at which every candidate is tried first, for a lower bound of its distance."""
_ROUND = 16
"""Candidates evaluated in full at once."""


@dataclass(frozen=True)
class PowerLaw:
    """p(λ) ∝ λ^−alpha for λ ≥ xmin. `n_values` were above the floor, `n_tail` of them are ≥ xmin; NaN where no fit."""

    alpha: float
    xmin: float
    ks_distance: float
    n_tail: int
    n_values: int


def fit_power_law(sigma: np.ndarray, floor: float = 0.0, minimum_values: int = MINIMUM_VALUES) -> PowerLaw:
    """The continuous power-law fit to λ = σ² above `floor` (of σ).

    For each candidate xmin (every λ but the largest) α = 1 + n / Σ ln(λ/xmin) over the n values ≥ xmin, and the
    one-sided D = max |F(λ_i) − i/n|, i = 0 … n−1; the candidate of the least D is taken, ties go to the smallest xmin.
    A tail whose σ lie within 2 · floor of each other is no candidate: rounding alone can make that spread.
    sigma: (count,), any order; the fit is of σ/σ1, so that W and cW differ by rounding only.
    Source: Clauset, Shalizi & Newman 2009; Martin & Mahoney 2021 (the one-sided distance is WeightWatcher's).
    """
    if len(sigma) == 0:
        return PowerLaw(math.nan, math.nan, math.nan, 0, 0)
    largest = float(sigma.max())
    kept = np.sort(sigma[sigma > floor])
    count = len(kept)
    if count < max(minimum_values, 2) or largest == 0.0:
        return PowerLaw(math.nan, math.nan, math.nan, 0, count)
    logs = 2.0 * np.log(kept / largest)
    with np.errstate(divide="ignore", invalid="ignore"):
        alphas = np.where(_spread(kept, floor), candidate_alphas(logs), np.nan)
    best = _least_distance(logs, alphas)
    if best is None:
        return PowerLaw(math.nan, math.nan, math.nan, 0, count)
    index, distance = best
    with np.errstate(over="ignore"):  # λ of σ beyond 1e154: inf
        xmin = float(kept[index] ** 2)
    # Equal values below the chosen index belong to the tail as well: n counts from the index that was fitted.
    return PowerLaw(float(alphas[index]), xmin, distance, count - index, count)


def _spread(kept: np.ndarray, floor: float) -> np.ndarray:
    """Which tails of ascending σ spread wider than rounding can: errors of norm `floor` move each σ by at most that."""
    result: np.ndarray = kept[-1] - kept[:-1] > 2.0 * floor
    return result


def candidate_alphas(logs: np.ndarray) -> np.ndarray:
    """α for every candidate xmin; logs: ascending ln λ, (count,) → (count − 1,), inf where the tail is constant."""
    count = len(logs)
    # Suffix sums of logs relative to the largest lose nothing: all terms have one sign.
    relative = logs - logs[-1]
    tail_sums = np.cumsum(relative[::-1])[::-1]
    n = count - np.arange(count)
    return (1.0 + n / (tail_sums - n * relative))[:-1]


def _least_distance(logs: np.ndarray, alphas: np.ndarray) -> tuple[int, float] | None:
    """(index, D) of the candidate with the least distance, exactly as if each were evaluated in full.

    A maximum over some points is a lower bound of the maximum over all: candidates are evaluated in the order of
    their bounds until the next bound exceeds the best distance found.
    """
    valid = np.flatnonzero(np.isfinite(alphas) & (alphas > 1.0))
    if not len(valid):
        return None
    if len(logs) <= 4 * _PROBES:
        distances = _distances(logs, alphas, valid)
        winner = int(np.argmin(distances))
        return int(valid[winner]), float(distances[winner])
    bounds = _bounds(logs, alphas, valid)
    order = np.argsort(bounds, kind="stable")
    best_index, best = -1, math.inf
    for start in range(0, len(order), _ROUND):
        chosen = order[start : start + _ROUND]
        if bounds[chosen[0]] > best:
            break
        candidates = valid[chosen[bounds[chosen] <= best]]
        for index, distance in zip(candidates, _distances(logs, alphas, candidates), strict=True):
            if distance < best or (distance == best and index < best_index):
                best_index, best = int(index), float(distance)
    return best_index, best


def _bounds(logs: np.ndarray, alphas: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    count = len(logs)
    n = (count - candidates)[:, None]
    steps = np.minimum((np.linspace(0.0, 1.0, _PROBES)[None, :] * n).astype(np.int64), n - 1)
    tail = logs[candidates[:, None] + steps] - logs[candidates][:, None]
    model = -np.expm1((1.0 - alphas[candidates])[:, None] * tail)
    bounds: np.ndarray = np.abs(model - steps / n).max(axis=1)
    return bounds


def _distances(logs: np.ndarray, alphas: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """The full D of each candidate, (len(candidates),)."""
    count = len(logs)
    distances = np.empty(len(candidates))
    for row, index in enumerate(candidates):
        n = count - index
        model = -np.expm1((1.0 - alphas[index]) * (logs[index:] - logs[index]))
        distances[row] = np.abs(model - np.arange(n) / n).max()
    return distances


def hill_alpha(sigma: np.ndarray, floor: np.ndarray, minimum_values: int = MINIMUM_VALUES) -> np.ndarray:
    """Hill's estimator from the middle of the spectrum: xmin = λ at i = ⌊p/2⌋ ascending, n = p − i, (count,).

    sigma: (count, k) descending; floor: of σ, (count,); p: the number of σ above the floor. NaN where p is less than
    `minimum_values`, or where the n values lie within 2 · floor of each other. Source: TempBalance (Zhou et al. 2023).
    """
    result = np.full(len(sigma), np.nan)
    above = (sigma > floor[:, None]).sum(axis=1)
    for p in np.unique(above[above >= max(minimum_values, 2)]):
        rows = np.flatnonzero(above == p)
        n = int(p) - int(p) // 2
        tail = sigma[rows, :n]
        with np.errstate(divide="ignore", invalid="ignore"):
            alphas = 1.0 + n / (2.0 * (np.log(tail / tail[:, -1:])).sum(axis=1))
        result[rows] = np.where(tail[:, 0] - tail[:, -1] > 2.0 * floor[rows], alphas, np.nan)
    result[np.isinf(result)] = np.nan
    return result
