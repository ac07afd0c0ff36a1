"""The Marchenko–Pastur law against quadrature of its density and against simulated matrices."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import kstest

from analyzers.linalg import marchenko_pastur as mp
from analyzers.linalg.gaussian_null import gaussian_eigenvalues


def density_integral(x: float, q: float) -> float:
    """∫ of the density up to x; the substitution x = a + (b − a) sin²t takes out both square-root ends."""
    a, b = (1 - math.sqrt(q)) ** 2, (1 + math.sqrt(q)) ** 2

    def integrand(t: float) -> float:
        value = a + (b - a) * math.sin(t) ** 2
        # √((b−x)(x−a)) dx = 2 (b−a)² sin²t cos²t dt
        return 2 * ((b - a) * math.sin(t) * math.cos(t)) ** 2 / (2 * math.pi * q * value) if value else 0.0

    return quad(integrand, 0, math.asin(math.sqrt((x - a) / (b - a))), epsabs=1e-13, epsrel=1e-13)[0]


@pytest.mark.parametrize("q", [1.0, 0.9999, 0.7, 0.25, 0.0126])
def test_the_closed_form_is_the_integral_of_the_density(q: float) -> None:
    a, b = (1 - math.sqrt(q)) ** 2, (1 + math.sqrt(q)) ** 2
    for share in (0.001, 0.1, 0.5, 0.9, 0.999):
        x = a + share * (b - a)
        assert float(mp.cdf(np.array(x), q)) == pytest.approx(density_integral(x, q), abs=1e-10)
    assert mp.cdf(np.array([a - 1, a, b, b + 1]), q).tolist() == [0.0, 0.0, 1.0, 1.0]
    assert density_integral(mp.median(q), q) == pytest.approx(0.5, abs=1e-10)


@pytest.mark.parametrize("q", [0.0, 1.5])
def test_an_aspect_ratio_out_of_range_is_refused_with_its_value(q: float) -> None:
    with pytest.raises(ValueError, match=str(q)):
        mp.cdf(np.array(1.0), q)


@pytest.mark.parametrize(("M", "N"), [(64, 64), (100, 400), (30, 900)])
def test_noise_exceeds_the_spike_edge_in_five_percent_of_matrices(M: int, N: int) -> None:
    # 2000 draws: ± .005 (one standard error); the formula itself is good to about .01 at these sizes.
    largest = 9.0 * gaussian_eigenvalues(M, N, 2000, np.random.default_rng(M)).max(axis=1)
    assert (largest > mp.spike_edge(3.0, M, N)).mean() == pytest.approx(0.05, abs=0.02)


def test_the_scale_of_noise_is_found_under_planted_spikes() -> None:
    M, N, s = 200, 500, 0.03
    generator = np.random.default_rng(1)
    W = s * generator.standard_normal((M, N))
    top = mp.spike_edge(s, M, N)
    for spike in range(5):
        left, right = (generator.standard_normal(side) for side in (M, N))
        W += (2 + spike) * math.sqrt(top) * np.outer(left / np.linalg.norm(left), right / np.linalg.norm(right))
    eigenvalues = np.linalg.svd(W, compute_uv=False) ** 2
    median = mp.fit_bulk(eigenvalues, N, mp.median_scale(eigenvalues, N))
    # Over 20 seeds .992 ± .006 of s: each spike also takes a dimension from the noise.
    assert median.s == pytest.approx(s, rel=0.025)
    assert median.n_spikes in (5, 6)  # five, and one of the 5 % that noise adds
    assert median.ks < 0.03
    bulk = np.sort(eigenvalues)[: M - median.n_spikes] / (median.s**2 * N)
    peer = kstest(bulk, lambda x: mp.cdf(x, (M - median.n_spikes) / N))
    assert median.ks == pytest.approx(float(peer.statistic), rel=1e-12)
    # The total standard deviation is inflated by the spikes: its edge is too high, and its bulk fits worse.
    total = mp.fit_bulk(eigenvalues, N, float(W.std()))
    assert total.edge > median.edge and total.ks > median.ks


def test_the_iterated_median_is_a_fixed_point_of_its_definition() -> None:
    generator = np.random.default_rng(2)
    W = generator.standard_normal((60, 90)) * (1 + 4 * (np.arange(60) < 4))[:, None]
    eigenvalues = np.linalg.svd(W, compute_uv=False) ** 2
    s = mp.median_scale(eigenvalues, 90)
    k = int((eigenvalues > mp.spike_edge(s, 60, 90)).sum())
    assert k > 0
    assert s**2 == pytest.approx(np.median(eigenvalues[k:]) / (90 * mp.median((60 - k) / 90)), rel=1e-12)


def test_the_distance_is_that_of_the_bulk_to_its_law() -> None:
    # The quantiles at (i + ½)/n are as near to a law as n points can be: 1/(2n).
    q, n = 0.5, 40
    a, b = (1 - math.sqrt(q)) ** 2, (1 + math.sqrt(q)) ** 2
    grid = np.linspace(a, b, 200001)
    values = np.interp((np.arange(n) + 0.5) / n, mp.cdf(grid, q), grid)
    assert mp.ks_distance(values, q) == pytest.approx(1 / (2 * n), abs=1e-4)
    assert mp.ks_distance(np.full(n, b), q) == 1.0


def test_edges_are_their_formulas_and_scale_with_the_square_of_s() -> None:
    assert mp.spike_edge(1.0, 64, 400) == pytest.approx(
        (math.sqrt(399.5) + math.sqrt(63.5)) ** 2
        + 0.979 * (math.sqrt(399.5) + math.sqrt(63.5)) * (399.5**-0.5 + 63.5**-0.5) ** (1 / 3),
        rel=1e-12,
    )
    low, high = mp.bulk_edges(2.0, 100, 400)
    assert (low, high) == pytest.approx((4 * 100.0, 4 * 900.0))
    assert mp.spike_edge(2.0, 100, 400) == pytest.approx(4 * mp.spike_edge(1.0, 100, 400))


@pytest.mark.parametrize("s", [0.0, math.nan, -1.0])
def test_no_scale_no_fit(s: float) -> None:
    fit = mp.fit_bulk(np.arange(20.0)[::-1], 30, s)
    assert math.isnan(fit.edge) and math.isnan(fit.ks) and fit.n_spikes == -1
