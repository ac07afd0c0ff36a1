"""The pruned power-law scan finds exactly what trying every xmin by the definition finds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzers.linalg.powerlaw import fit_power_law, hill_alpha


def by_definition(sigma: np.ndarray) -> tuple[float, float, float, int]:
    """α, xmin, D, n of the definition, with loops and no cleverness."""
    eigenvalues = np.sort(np.asarray(sigma, dtype=np.float64) ** 2)
    best = (math.nan, math.nan, math.inf, 0)
    for start in range(len(eigenvalues) - 1):
        tail = eigenvalues[start:]
        n = len(tail)
        spread = float(np.log(tail / tail[0]).sum())
        if spread <= 0:
            continue
        alpha = 1 + n / spread
        model = 1 - (tail / tail[0]) ** (1 - alpha)
        distance = max(abs(model[i] - i / n) for i in range(n))
        if distance < best[2]:
            best = (alpha, float(tail[0]), distance, n)
    return best


def spectrum(kind: str, count: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    if kind == "gaussian":
        return np.linalg.svd(generator.standard_normal((count, count + seed % 50)), compute_uv=False)
    if kind == "pareto":
        return np.sqrt(generator.pareto(1.0 + seed % 4, count) + 1)
    if kind == "lognormal":
        return np.exp(generator.standard_normal(count))
    # Many equal values: ties between candidates and constant tails.
    return generator.integers(1, 6, count).astype(np.float64)


@given(
    kind=st.sampled_from(["gaussian", "pareto", "lognormal", "ties"]),
    count=st.integers(20, 260),
    seed=st.integers(0, 999),
)
@settings(max_examples=80, deadline=None)
def test_the_scan_equals_brute_force(kind: str, count: int, seed: int) -> None:
    sigma = spectrum(kind, count, seed)
    alpha, xmin, distance, n = by_definition(sigma)
    fit = fit_power_law(sigma)
    # Logarithms of ratios against differences of logarithms: a few ε times the number of terms.
    assert fit.ks_distance == pytest.approx(distance, abs=1e-11)
    if (fit.n_tail, fit.xmin) == (n, pytest.approx(xmin, rel=1e-12)):
        assert fit.alpha == pytest.approx(alpha, rel=1e-10)
    else:  # another candidate of the same distance, to rounding
        assert kind == "ties"


def test_each_of_several_equal_values_is_a_candidate_of_its_own() -> None:
    # As in WeightWatcher: starting at the second of three equal values is another tail than starting at the first.
    sigma = np.repeat(np.geomspace(1, 8, 12), 3)
    alpha, xmin, _, n = by_definition(sigma)
    fit = fit_power_law(sigma)
    assert (fit.n_tail, fit.xmin) == (n, pytest.approx(xmin))
    assert fit.alpha == pytest.approx(alpha)


@pytest.mark.parametrize("alpha", [1.8, 2.5, 4.0])
def test_a_planted_power_law_is_recovered(alpha: float) -> None:
    # 20 seeds of 3000 values: the standard error of one estimate is (α−1)/√n ≤ .06 where the whole tail is used.
    found = [
        fit_power_law(np.sqrt(np.random.default_rng(seed).pareto(alpha - 1, 3000) + 1)).alpha for seed in range(20)
    ]
    assert np.median(found) == pytest.approx(alpha, rel=0.05)


@given(factor=st.floats(1e-12, 1e12), seed=st.integers(0, 50))
@settings(max_examples=40, deadline=None)
def test_scaling_leaves_alpha_unchanged(factor: float, seed: int) -> None:
    sigma = spectrum("gaussian", 80, seed)
    fit, scaled = fit_power_law(sigma), fit_power_law(sigma * factor)
    assert scaled.alpha == pytest.approx(fit.alpha, rel=1e-10)
    assert scaled.n_tail == fit.n_tail
    assert scaled.xmin == pytest.approx(fit.xmin * factor**2, rel=1e-10)


def test_values_at_or_below_the_floor_do_not_count() -> None:
    sigma = spectrum("pareto", 100, 3)
    polluted = np.concatenate([sigma, np.full(40, 1e-9), np.zeros(5)])
    assert fit_power_law(polluted, floor=1e-9) == fit_power_law(sigma)


def test_too_few_values_give_no_fit_rather_than_another_estimator() -> None:
    fit = fit_power_law(np.arange(1.0, 20.0))
    assert math.isnan(fit.alpha) and fit.n_tail == 0 and fit.n_values == 19
    assert math.isfinite(fit_power_law(np.arange(1.0, 21.0)).alpha)


@pytest.mark.parametrize("sigma", [np.ones(30), np.zeros(30), np.zeros(0)], ids=["constant", "zero", "empty"])
def test_a_spectrum_without_spread_has_no_alpha(sigma: np.ndarray) -> None:
    assert math.isnan(fit_power_law(sigma).alpha)


def test_hill_uses_the_upper_half_of_all_p_values() -> None:
    sigma = np.sort(spectrum("pareto", 31, 5))[::-1]
    eigenvalues = np.sort(sigma**2)
    i = 31 // 2
    wanted = 1 + (31 - i) / np.log(eigenvalues[i:] / eigenvalues[i]).sum()
    assert hill_alpha(sigma[None], np.zeros(1))[0] == pytest.approx(wanted, rel=1e-12)


@given(above=st.integers(0, 60), below=st.integers(0, 60), seed=st.integers(0, 50))
@settings(max_examples=40, deadline=None)
def test_values_at_or_below_the_floor_do_not_count_for_hill(above: int, below: int, seed: int) -> None:
    sigma = np.sort(spectrum("pareto", above, seed))[::-1] if above else np.empty(0)
    rounding = 1e-9 * np.sort(np.random.default_rng(seed).random(below))[::-1]
    polluted = hill_alpha(np.concatenate([sigma, rounding])[None], np.array([1e-9]))[0]
    if above < 20:
        assert math.isnan(polluted)
    else:
        assert polluted == hill_alpha(sigma[None], np.array([1e-9]))[0]


def test_a_spread_that_rounding_can_make_has_no_alpha() -> None:
    sigma = np.sort(1 + 1e-8 * np.random.default_rng(0).random(60))[::-1]
    assert fit_power_law(sigma).alpha > 1e6 and hill_alpha(sigma[None], np.zeros(1))[0] > 1e6
    assert math.isnan(fit_power_law(sigma, 1e-8).alpha) and math.isnan(hill_alpha(sigma[None], np.array([1e-8]))[0])
    # A cluster on top of an ordinary spectrum is no tail either: xmin lies below it.
    fit = fit_power_law(np.concatenate([sigma, np.linspace(0.1, 0.8, 40)]), 1e-8)
    assert fit.alpha < 100 and fit.xmin < 0.9
