"""How far the shares of a random walk scatter: its moves have a dimension, and few dimensions scatter widely.

In many dimensions a random walk's first component holds .61 of its variance, almost surely. In few it can hold anything
from .4 to .95, and the steps of training are not spread over many.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from analyzers.intrinsic_dimension.path import centred, random_walk, shares

DRAWS = 500
LEAST_MOVES = 4
"""Of fewer moves (six pairs) no dimension is estimated."""
_POINTS = 32
"""A longer path is thinned to so many points for the simulation: the leading shares hardly depend on their number."""
_PER_DOUBLING = 4
_MOST = 2.0**14
"""The grid of dimensions is this fine and ends here, where the shares no longer scatter."""


def dimension_of_moves(moves: np.ndarray) -> float:
    """1 / mean cos² between different moves: (tr Σ)²/tr Σ² of independent moves of covariance ∝ Σ, at least 1.

    moves: Gram of the moves (n, n). Moves that follow each other's direction count as few dimensions. NaN below
    `LEAST_MOVES` moves of some length.
    """
    lengths = np.sqrt(np.clip(np.diag(moves), 0, None))
    moved = np.flatnonzero(lengths > 0)
    if len(moved) < LEAST_MOVES:
        return math.nan
    cosines = moves[np.ix_(moved, moved)] / np.outer(lengths[moved], lengths[moved])
    squares = cosines[~np.eye(len(moved), dtype=bool)] ** 2
    return float(max(1.0, 1.0 / max(float(squares.mean()), 1 / _MOST)))


def interval(steps: np.ndarray, dimension: float, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """(low, high), each (T − 1,): where the shares of a Gaussian random walk over these steps lie, whose moves have
    that effective dimension. NaN where the dimension is."""
    expected = shares(random_walk(steps))
    if not math.isfinite(dimension):
        return np.full(len(expected), np.nan), np.full(len(expected), np.nan)
    position = round(_PER_DOUBLING * math.log2(min(dimension, _MOST)))
    chosen = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), _POINTS)).round().astype(int))
    ratios = _odds_ratios(tuple((steps[chosen] - steps[0]).tolist()), position, level)
    low, high = np.full(len(expected), np.nan), np.full(len(expected), np.nan)
    known = ratios.shape[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        odds = ratios * _odds(expected[:known])
        low[:known], high[:known] = np.where(np.isinf(odds), 1.0, odds / (1 + odds))
    return low, high


@functools.lru_cache(maxsize=512)
def _odds_ratios(times: tuple[float, ...], position: int, level: float) -> np.ndarray:
    """(2, T − 1) odds of the shares' quantiles over those of the shares expected in many dimensions (odds carry over to
    more points, and leave shares of 0 and 1 alone); seeded by the grid's position."""
    steps = np.array(times, dtype=float)
    dimension = 2.0 ** (position / _PER_DOUBLING)
    generator = np.random.default_rng([len(steps), position])
    root = np.sqrt(np.diff(steps))
    sums = np.tril(np.ones((len(steps), len(root))), -1) * root  # position t is the sum of the moves before it
    simulated = np.stack(
        [shares(centred(sums @ _gram(len(root), dimension, generator) @ sums.T)) for _ in range(DRAWS)]
    )
    ends = np.nanquantile(simulated, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return _odds(ends) / _odds(shares(random_walk(steps)))


def _odds(share: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        # Rounding alone keeps a walk along one line from a share of 1.
        return np.asarray(np.where(share > 1 - 1e-12, np.inf, share / (1 - share)))


def _gram(moves: int, dimension: float, generator: np.random.Generator) -> np.ndarray:
    """Z Zᵀ of Gaussian moves (n, d) of this effective dimension; d need not be whole."""
    if dimension > moves:  # Bartlett: the Wishart matrix's Cholesky factor, whatever d
        factor = np.tril(generator.standard_normal((moves, moves)), -1)
        factor[np.diag_indices(moves)] = np.sqrt(generator.chisquare(dimension - np.arange(moves)))
        return np.asarray(factor @ factor.T)
    whole = math.floor(dimension)
    # The last axis has the variance f² with which (whole + f²)² / (whole + f⁴) is the dimension.
    over = dimension - 1
    last = (whole - math.sqrt(max(whole**2 - over * whole * (dimension - whole), 0.0))) / over if over > 0 else 0.0
    drawn = generator.standard_normal((moves, whole + 1)) * np.sqrt(np.append(np.ones(whole), max(last, 0.0)))
    return np.asarray(drawn @ drawn.T)
