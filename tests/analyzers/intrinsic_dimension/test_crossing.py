"""Where a curve crosses a threshold: the monotone fit against scikit-learn's, censoring, and honest intervals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzers.intrinsic_dimension.crossing import Curve, crossing_of, isotonic


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(-1, 1), st.integers(1, 9)), min_size=1, max_size=12))
def test_the_fit_is_isotonic_regression(points: list[tuple[float, int]]) -> None:
    regression = pytest.importorskip("sklearn.isotonic").isotonic_regression
    means, weights = np.array([p[0] for p in points]), np.array([float(p[1]) for p in points])
    np.testing.assert_allclose(isotonic(means, weights), regression(means, sample_weight=weights), atol=1e-12)


def test_the_crossing_is_interpolated_in_log_d() -> None:
    d = np.array([0, 10, 1000])
    value, censored = crossing_of(d, np.array([0.1, 0.4, 0.8]), np.asarray(0.6))
    assert float(value) == pytest.approx(100) and int(censored) == 0


@pytest.mark.parametrize(
    ("threshold", "value", "code"),
    [(0.05, 0, -1), (0.1, 0, -1), (0.3, 10, -1), (0.8, 1000, 0), (0.81, 1000, 1)],
)
def test_both_ends_are_censored(threshold: float, value: float, code: int) -> None:
    """Before any training; at or below the least d; at the greatest; above all."""
    found, censored = crossing_of(np.array([0, 10, 1000]), np.array([0.1, 0.4, 0.8]), np.asarray(threshold))
    assert (float(found), int(censored)) == (pytest.approx(value), code)


def curve(draw: np.random.Generator, noise: float, seeds: int = 5) -> Curve:
    truth = {60: 0.80, 90: 0.86, 135: 0.90}
    scores = {d: mean + noise * draw.standard_normal(seeds) for d, mean in truth.items()} | {0: np.array([0.1])}
    return Curve(scores, 0.96 + noise * draw.standard_normal(3), int(draw.integers(1000)))


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Of 300 repetitions of an experiment the 95 % interval of the local crossing must hold the truth in 88…99 %:
    five seeds a point are few, so a little less than nominal is expected, much less would be a bug (no baseline
    uncertainty, no small-sample widening)."""
    draw = np.random.default_rng(1)
    exact = Curve(
        {0: np.array([0.1]), 60: np.array([0.80]), 90: np.array([0.86]), 135: np.array([0.90])}, np.array([0.96])
    )
    truth = exact.crossing(0.9 * 0.96).value
    held = 0
    for _ in range(300):
        one = curve(draw, 0.012)
        found = one.crossing(0.9 * one.baseline, 0.9 * one.draws.baseline)
        held += found.low <= truth <= found.high
    assert 0.88 <= held / 300 <= 0.995


def test_more_noise_means_wider_intervals_and_equal_seeds_none() -> None:
    draw = np.random.default_rng(2)
    widths = []
    for noise in (0.0, 0.005, 0.02):
        one = curve(draw, noise)
        found = one.crossing(0.87)
        widths.append(found.high - found.low)
    assert widths[0] == 0 < widths[1] < widths[2]


def test_an_interval_that_reaches_beyond_the_greatest_d_is_open() -> None:
    draw = np.random.default_rng(3)
    one = Curve(
        {0: np.array([0.1]), 50: 0.8 + 0.01 * draw.standard_normal(5), 100: 0.9 + 0.01 * draw.standard_normal(5)},
        np.ones(3),
    )
    assert one.crossing(float(one.means[-1])).high == np.inf
