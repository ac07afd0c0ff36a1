"""Where a curve crosses a threshold: the monotone fit against scikit-learn's, censoring, and honest intervals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzers.intrinsic_dimension.crossing import ScoreCurve, crossing_of, isotonic
from analyzers.intrinsic_dimension.doubts import (
    FEW_SEEDS,
    FLAT,
    INTERPOLATED,
    NEAR_START,
    NOT_LEARNED,
    RATES,
    UNDECIDED,
    UNFINISHED,
    WIDE,
    doubts,
)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(-1, 1), st.integers(1, 9)), min_size=1, max_size=12))
def test_the_fit_is_isotonic_regression(points: list[tuple[float, int]]) -> None:
    regression = pytest.importorskip("sklearn.isotonic").isotonic_regression
    means, weights = np.array([p[0] for p in points]), np.array([float(p[1]) for p in points])
    np.testing.assert_allclose(isotonic(means, weights), regression(means, sample_weight=weights), atol=1e-12)


def test_the_crossing_is_interpolated_in_log_d() -> None:
    found = crossing_of(np.array([0, 10, 1000]), np.array([0.1, 0.4, 0.8]), np.asarray(0.6))
    assert float(found.value) == pytest.approx(100) and int(found.kind) == 0 and np.isnan(found.limit)


@pytest.mark.parametrize(
    ("threshold", "value", "code", "limit"),
    [
        (0.05, 0, 0, np.nan),
        (0.1, 0, 0, np.nan),
        (0.3, np.nan, -1, 10),
        (0.8, 1000, 0, np.nan),
        (0.81, np.nan, 1, 1000),
    ],
)
def test_what_is_censored_at_either_end_has_a_limit_and_no_value(
    threshold: float, value: float, code: int, limit: float
) -> None:
    """Before any training; at or below the least d; at the greatest; above all."""
    one = ScoreCurve({d: np.array([score]) for d, score in ((0, 0.1), (10, 0.4), (1000, 0.8))}, np.ones(1))
    found = one.crossing(threshold)
    assert found.censored == code and not found.undecided
    np.testing.assert_allclose([found.value, found.limit], [value, limit])
    if code == 1:
        assert (found.low, found.high) == (1000, np.inf)
    if code == -1:
        assert (found.low, found.high) == (0, 10)


def curve(draw: np.random.Generator, noise: float, seeds: int = 5) -> ScoreCurve:
    truth = {60: 0.80, 90: 0.86, 135: 0.90}
    scores = {d: mean + noise * draw.standard_normal(seeds) for d, mean in truth.items()} | {0: np.array([0.1])}
    return ScoreCurve(scores, 0.96 + noise * draw.standard_normal(3), int(draw.integers(1000)))


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Of 300 repetitions of an experiment the 95 % interval of the local crossing must hold the truth in 88…99 %:
    five seeds a point are few, so a little less than nominal is expected, much less would be a bug (no baseline
    uncertainty, no small-sample widening)."""
    draw = np.random.default_rng(1)
    exact = ScoreCurve(
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
    one = ScoreCurve(
        {0: np.array([0.1]), 50: 0.8 + 0.01 * draw.standard_normal(5), 100: 0.9 + 0.01 * draw.standard_normal(5)},
        np.ones(3),
    )
    found = one.crossing(float(one.means[-1]))
    assert found.high == np.inf and found.undecided


def flag(one: ScoreCurve, threshold: float, finished: bool = True) -> int:
    return doubts(one, threshold, one.crossing(threshold), finished)


def seeds(mean: float, noise: float) -> np.ndarray:
    return mean + noise * np.array([-1.2, -0.6, 0.0, 0.6, 1.2])


def test_a_steep_curve_with_little_noise_raises_no_doubt() -> None:
    steep = ScoreCurve({0: np.array([0.1]), 50: seeds(0.8, 0.004), 75: seeds(0.9, 0.004)}, seeds(0.97, 0.002))
    assert flag(steep, 0.87) == 0


def test_a_score_that_hardly_depends_on_d_is_flagged_whatever_it_crosses() -> None:
    flat = ScoreCurve({0: np.array([0.1]), 50: seeds(0.867, 0.02), 75: seeds(0.873, 0.02)}, seeds(0.97, 0.002))
    assert flag(flat, 0.87) & FLAT and flag(flat, 0.87) & UNDECIDED
    assert flag(flat, 0.99) & FLAT and not flag(flat, 0.99) & UNDECIDED  # above all, and that is certain


def test_a_threshold_beside_the_untrained_score_is_flagged() -> None:
    near = ScoreCurve({0: np.array([0.860]), 50: seeds(0.861, 0.01), 75: seeds(0.95, 0.01)}, seeds(0.97, 0.01))
    assert flag(near, 0.87) & NEAR_START and not flag(near, 0.93) & NEAR_START
    assert flag(near, 0.85) == 0 and near.crossing(0.85).value == 0


def test_a_jump_of_the_score_between_two_close_d_is_flagged() -> None:
    """568 at .573 and 803 at .980: the interval by the seeds was 1 % wide, and says nothing of what lies between."""
    jump = ScoreCurve({0: np.array([0.54]), 568: seeds(0.573, 0.004), 803: seeds(0.98, 0.004)}, seeds(0.98, 0.002))
    assert flag(jump, 0.884) & INTERPOLATED


def test_rates_that_are_far_apart_few_seeds_and_a_baseline_at_chance_are_flagged() -> None:
    one = ScoreCurve({0: np.array([0.1]), 50: seeds(0.8, 0.004), 75: seeds(0.9, 0.004)}, seeds(0.97, 0.002))
    found = one.crossing(0.87)
    assert doubts(one, 0.87, found, True, {50: -1, 75: 0}, 0.1) == 0
    assert doubts(one, 0.87, found, True, {50: -2, 75: 0}, 0.1) == RATES
    assert doubts(one, 0.87, found, True, {50: 0, 75: 0}, 0.9) == NOT_LEARNED
    two = ScoreCurve({0: np.array([0.1]), 50: seeds(0.8, 0.004)[:2], 75: seeds(0.9, 0.004)}, seeds(0.97, 0.002))
    assert flag(two, 0.87) & FEW_SEEDS


def test_a_number_read_off_between_distant_d_is_flagged_and_a_wide_interval_too() -> None:
    apart = ScoreCurve({0: np.array([0.1]), 50: seeds(0.5, 0.004), 500: seeds(0.9, 0.004)}, seeds(0.97, 0.002))
    assert flag(apart, 0.7) == INTERPOLATED
    wide = ScoreCurve({0: np.array([0.1]), 50: seeds(0.5, 0.18), 500: seeds(0.9, 0.18)}, seeds(0.97, 0.002))
    assert flag(wide, 0.7) == WIDE | INTERPOLATED
    assert flag(apart, 0.7, finished=False) & UNFINISHED
