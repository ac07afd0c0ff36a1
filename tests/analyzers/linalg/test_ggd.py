"""The generalized Gaussian fit finds scipy's maximum of the likelihood, and planted parameters."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import gennorm

from analyzers.linalg.entries import entry_facts
from analyzers.linalg.ggd import SHAPE_RANGE, fit_ggd


def fit(values: np.ndarray) -> tuple[float, float]:
    facts = entry_facts(torch.from_numpy(values))
    return fit_ggd(facts.magnitudes, facts.counts, facts.zeros)


@pytest.mark.parametrize("beta", [0.3, 0.7, 1.0, 1.5, 2.0, 4.0, 8.0])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_fit_reaches_the_likelihood_of_scipys_optimiser(beta: float, dtype: type) -> None:
    values = gennorm.rvs(beta, scale=0.02, size=(300, 400), random_state=3)
    shape, scale = fit(values.astype(dtype))
    peer_shape, _, peer_scale = gennorm.fit(values.ravel(), floc=0)

    def likelihood(b: float, a: float) -> float:
        return float(gennorm.logpdf(values.ravel(), b, 0, a).mean())

    # Nelder–Mead stops at 1e-4 of the parameters: we may only be better, up to the width of a bin.
    assert likelihood(shape, scale) >= likelihood(peer_shape, peer_scale) - 1e-8
    assert (shape, scale) == pytest.approx((peer_shape, peer_scale), rel=1e-3)
    # Standard error of β at n = 120 000 is about β·0.7 %, more at large β.
    assert shape == pytest.approx(beta, rel=0.03)


@given(factor=st.floats(1e-6, 1e6), beta=st.sampled_from([0.5, 1.0, 2.0]))
@settings(max_examples=20, deadline=None)
def test_scaling_leaves_the_shape_and_scales_the_scale(factor: float, beta: float) -> None:
    values = gennorm.rvs(beta, scale=0.3, size=(40, 50), random_state=1)
    (shape, scale), (other, scaled) = fit(values), fit(values * factor)
    assert other == pytest.approx(shape, rel=1e-9)
    assert scaled == pytest.approx(scale * factor, rel=1e-8)


def test_the_fit_solves_the_likelihood_equation_of_the_distinct_values() -> None:
    magnitudes, counts = np.array([0.1, 0.5, 1.0, 2.0]), np.array([5, 6, 6, 1])
    beta, scale = fit_ggd(magnitudes, counts, zeros=1)
    sample = np.concatenate([np.repeat(magnitudes, counts), np.zeros(1)])

    def likelihood(b: float, a: float) -> float:
        return float(gennorm.logpdf(sample, b, 0, a).sum())

    best = likelihood(beta, scale)
    for nudge in (0.98, 1.02):
        assert likelihood(beta * nudge, scale) < best and likelihood(beta, scale * nudge) < best


@pytest.mark.parametrize("levels", [7, 127, 2047, 32767])
def test_entries_on_a_grid_are_fitted_as_if_each_were_kept(levels: int) -> None:
    values = np.random.default_rng(levels).standard_normal((300, 300))
    step = float(np.float32(np.abs(values).max() / levels))
    values = np.rint(values / step) * step
    distinct, counts = np.unique(np.abs(values), return_counts=True)
    assert fit(values) == pytest.approx(fit_ggd(distinct[1:], counts[1:], int(counts[0])), rel=1e-6)


def test_entries_of_one_magnitude_sit_on_the_upper_bound() -> None:
    assert fit(np.where(np.arange(64).reshape(8, 8) % 2, 0.5, -0.5))[0] == SHAPE_RANGE[1]


def test_mostly_zero_entries_sit_on_the_lower_bound() -> None:
    values = np.zeros((100, 100))
    values[:5] = np.random.default_rng(0).standard_normal((5, 100)) ** 3
    assert fit(values)[0] == SHAPE_RANGE[0]


def test_without_a_nonzero_entry_there_is_no_fit() -> None:
    assert all(math.isnan(value) for value in fit(np.zeros((3, 3))))
