"""Simulated nulls have the law of real Gaussian matrices, and their p-values are honest."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control, ks_2samp

from analyzers.linalg.gaussian_null import (
    SMALLEST_P,
    alpha_position,
    benjamini_yekutieli,
    bulk_p_value,
    edge_widening,
    gaussian_eigenvalues,
    scaled_gaussian_eigenvalues,
    tail_p_value,
)
from analyzers.linalg.marchenko_pastur import fit_bulk, median_scale
from analyzers.linalg.powerlaw import fit_power_law

SCALES = ("total", "median", "shuffle")
UNTABULATED = [(30, 30), (70, 75), (20, 3000)]
"""Shapes between those that the tables were made of."""


def drawn_scales(spectra: np.ndarray, N: int) -> dict[str, np.ndarray]:
    """s by each choice, for every Gaussian spectrum of (draws, M)."""
    widening = edge_widening(spectra.shape[1], N, "median")
    medians = np.array([median_scale(values, N, 0.0, widening) for values in spectra])
    return {"total": np.sqrt(spectra.mean(axis=1) / N), "median": medians, "shuffle": np.roll(medians, 1)}


@pytest.mark.parametrize(("M", "N"), [(12, 12), (10, 60), (1, 5)])
def test_the_bidiagonal_model_has_the_eigenvalues_of_gaussian_matrices(M: int, N: int) -> None:
    generator = np.random.default_rng(7)
    model = gaussian_eigenvalues(M, N, 1500, generator)
    real = np.array([np.linalg.svd(generator.standard_normal((M, N)), compute_uv=False) ** 2 for _ in range(1500)])
    assert bool((np.diff(model, axis=1) <= 0).all())
    for rank in {0, M // 2, M - 1}:
        assert ks_2samp(model[:, rank], real[:, rank]).pvalue > 1e-3


def test_the_triangular_model_has_the_eigenvalues_of_scaled_gaussian_matrices() -> None:
    generator = np.random.default_rng(8)
    scales = np.geomspace(1, 0.1, 10)
    model = scaled_gaussian_eigenvalues(scales, 30, 1500, generator)
    real = np.array(
        [
            np.linalg.svd(scales[:, None] * generator.standard_normal((10, 30)) / math.sqrt(30), compute_uv=False) ** 2
            for _ in range(1500)
        ]
    )
    for rank in (0, 5, 9):
        assert ks_2samp(model[:, rank], real[:, rank]).pvalue > 1e-3
    # Its mean W Wᵀ has the wanted eigenvalues: the traces agree to the error of 1500 draws.
    assert model.sum(axis=1).mean() == pytest.approx((scales**2).sum(), rel=0.02)


def test_a_shape_out_of_order_is_refused() -> None:
    with pytest.raises(ValueError, match="M = 5, N = 3"):
        gaussian_eigenvalues(5, 3, 1, np.random.default_rng(0))


def test_p_values_of_the_null_itself_are_uniform() -> None:
    generator = np.random.default_rng(3)
    p = []
    for _ in range(300):
        null = np.sort(np.abs(generator.standard_normal(100)))
        p.append(tail_p_value(null, abs(generator.standard_normal())))
    # 300 p-values: .05 ± .0126 by counting; the exponential tail may only push them up.
    assert np.mean(np.array(p) <= 0.5) == pytest.approx(0.5, abs=0.1)
    assert np.mean(np.array(p) <= 0.05) <= 0.09
    assert np.mean(np.array(p) <= 0.002) <= 0.015


def test_p_falls_with_the_distance_and_claims_nothing_absurd() -> None:
    null = np.sort(np.random.default_rng(4).standard_normal(200))
    p = [tail_p_value(null, x) for x in np.linspace(-3, 30, 200)]
    assert bool((np.diff(p) <= 1e-12).all())
    assert p[0] == 1.0 and p[-1] == SMALLEST_P
    assert math.isnan(tail_p_value(null, math.nan)) and math.isnan(tail_p_value(np.empty(0), 1.0))


@pytest.mark.parametrize(("M", "N"), UNTABULATED)
def test_noise_has_spikes_and_small_p_values_as_often_as_they_claim(M: int, N: int) -> None:
    # 700 matrices: .05 ± .0082 and .01 ± .0038 by counting; at most four standard errors are allowed.
    spectra = gaussian_eigenvalues(M, N, 700, np.random.default_rng([M, N, 1]))
    for scale, chosen in drawn_scales(spectra, N).items():
        widening = edge_widening(M, N, scale)
        fits = [fit_bulk(values, N, float(s), widening) for values, s in zip(spectra, chosen, strict=True)]
        p = np.array([bulk_p_value(M, N, scale, fit.ks) for fit in fits])
        if scale != "total":  # the edge of a known s is conservative for a total one in small matrices
            assert np.mean([fit.n_spikes > 0 for fit in fits]) == pytest.approx(0.05, abs=0.03), scale
        assert np.mean(p <= 0.05) == pytest.approx(0.05, abs=0.03), scale
        assert np.mean(p <= 0.01) <= 0.025, scale
        assert np.mean(p <= 0.5) == pytest.approx(0.5, abs=0.075), scale
    positions = np.array([alpha_position(M, N, fit_power_law(np.sqrt(values)).alpha) for values in spectra])
    for level in (0.05, 0.25, 0.5, 0.95):
        error = math.sqrt(level * (1 - level) / 700)
        assert np.mean(positions <= level) == pytest.approx(level, abs=4 * error)


@given(M=st.integers(10, 20000), aspect=st.floats(1, 1e5), scale=st.sampled_from(SCALES))
@settings(max_examples=100, deadline=None)
def test_tabulated_laws_are_laws_at_every_shape(M: int, aspect: float, scale: str) -> None:
    N = int(M * aspect)
    distances = np.geomspace(0.1 / M, 1, 60)
    p = np.array([bulk_p_value(M, N, scale, float(distance)) for distance in distances])
    assert 0.99 < p[0] <= 1 and p[-1] >= SMALLEST_P and bool((np.diff(p) <= 0).all())
    assert math.isnan(bulk_p_value(M, N, scale, math.nan))
    # An estimated s widens the edge, the less the larger the matrix.
    assert 0.999 <= edge_widening(M, N, scale) <= 1 + 4 / M + 0.001
    assert edge_widening(M, N, "total") == 1
    if M < 20:  # no α is fitted
        return
    positions = [alpha_position(M, N, float(1 + x / math.sqrt(M / N))) for x in np.geomspace(1e-3, 1e3, 60)]
    assert bool((np.diff(positions) >= 0).all()) and positions[0] >= SMALLEST_P and positions[-1] <= 1


def test_the_correction_is_that_of_benjamini_and_yekutieli() -> None:
    p = np.random.default_rng(5).random(40) ** 3
    assert benjamini_yekutieli(p) == pytest.approx(false_discovery_control(p, method="by"), rel=1e-12)
    holes = p.copy()
    holes[[3, 17]] = np.nan
    adjusted = benjamini_yekutieli(holes)
    assert np.isnan(adjusted[[3, 17]]).all()
    assert adjusted[np.isfinite(holes)] == pytest.approx(
        false_discovery_control(holes[np.isfinite(holes)], method="by"), rel=1e-12
    )
    assert np.isnan(benjamini_yekutieli(np.full(3, np.nan))).all()
