"""The random walk's shares: their interval holds as often as it says, and their dimension is that of the moves."""

from __future__ import annotations

import numpy as np
import pytest

from analyzers.intrinsic_dimension.path import centred, random_walk, shares
from analyzers.intrinsic_dimension.walk import dimension_of_moves, interval


def walk(spectrum: np.ndarray, steps: np.ndarray, draw: np.random.Generator) -> tuple[float, np.ndarray]:
    """PC1's share of one Gaussian walk whose moves have this spectrum, and the Gram of its moves."""
    moves = draw.standard_normal((len(steps) - 1, len(spectrum))) * np.sqrt(spectrum)
    moves *= np.sqrt(np.diff(steps))[:, None]
    points = np.vstack([np.zeros(len(spectrum)), moves.cumsum(axis=0)])
    return float(shares(centred(points @ points.T))[0]), moves @ moves.T


@pytest.mark.parametrize("spectrum", [np.ones(3), np.ones(40), 1 / np.arange(1, 300)], ids=["3", "40", "power law"])
@pytest.mark.parametrize("steps", [np.arange(9), np.array([0, 1, 2, 4, 8, 16, 32, 64])], ids=["even", "doubling"])
def test_the_interval_holds_the_share_of_a_walk(spectrum: np.ndarray, steps: np.ndarray) -> None:
    draw = np.random.default_rng(0)
    held = []
    for _ in range(150):
        share, moves = walk(spectrum, steps, draw)
        low, high = interval(steps, dimension_of_moves(moves))
        held.append(low[0] <= share <= high[0])
    # 95 % nominal, 90 % measured at worst (docs/calibration.md), and 150 repeats spread by 2.4 %: two of those below 90
    assert np.mean(held) > 0.85


@pytest.mark.parametrize("dimension", [1, 2, 7, 200])
def test_the_dimension_is_that_of_isotropic_moves(dimension: int) -> None:
    draw = np.random.default_rng(1)
    moves = draw.standard_normal((60, dimension))
    # 1770 pairs: cos² has a relative spread of at most √2, so the mean one of 4 %
    assert dimension_of_moves(moves @ moves.T) == pytest.approx(dimension, rel=0.15)


def test_moves_in_one_direction_have_one_dimension_and_a_share_of_one() -> None:
    moves = np.outer(np.arange(1.0, 9), np.ones(50))
    assert dimension_of_moves(moves @ moves.T) == pytest.approx(1)
    low, high = interval(np.arange(9), 1.0)
    assert low[0] == high[0] == 1


def test_in_many_dimensions_the_interval_closes_on_the_limit() -> None:
    steps = np.arange(41)
    low, high = interval(steps, 1e9)
    expected = shares(random_walk(steps))
    np.testing.assert_allclose(low[:3], expected[:3], rtol=0.03)
    np.testing.assert_allclose(high[:3], expected[:3], rtol=0.03)


def test_too_few_moves_have_no_dimension_and_no_interval() -> None:
    assert np.isnan(dimension_of_moves(np.eye(3)))
    assert np.isnan(interval(np.arange(4), float("nan"))).all()
