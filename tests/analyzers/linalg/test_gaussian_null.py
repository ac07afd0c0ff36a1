"""Simulated nulls have the law of real Gaussian matrices, and their p-values are honest."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import false_discovery_control, ks_2samp

from analyzers.linalg.gaussian_null import (
    SMALLEST_P,
    benjamini_yekutieli,
    gaussian_eigenvalues,
    scaled_gaussian_eigenvalues,
    tail_p_value,
)


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
