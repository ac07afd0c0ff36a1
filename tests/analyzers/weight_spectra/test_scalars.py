"""Each scalar of σ is its formula, on spectra where the answer is known and on random ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzers.weight_spectra import scalars, welore

SCALE_FREE = (
    "stable_rank",
    "effective_rank",
    "spectral_entropy",
    "participation_ratio",
    "condition_number",
    "hill_alpha",
)


def of(sigma: list[float] | np.ndarray, p: int | None = None, N: int | None = None) -> dict[str, float]:
    row = np.array([sigma], dtype=np.float64)
    size = np.array([p or row.shape[1]])
    values = scalars.spectral_scalars(row, size, np.array([N or int(size[0])]))
    return {name: float(value[0]) for name, value in values.items()}


def test_equal_sigma_have_full_rank_in_every_sense() -> None:
    values = of([3.0] * 8)
    assert values["spectral_norm"] == 3.0
    assert values["frobenius_norm"] == pytest.approx(3 * math.sqrt(8))
    assert values["nuclear_norm"] == pytest.approx(24)
    for name in ("stable_rank", "effective_rank", "participation_ratio"):
        assert values[name] == pytest.approx(8)
    assert values["spectral_entropy"] == pytest.approx(1)
    assert values["condition_number"] == 1


def test_one_sigma_has_rank_one_in_every_sense() -> None:
    values = of([5.0, 0, 0, 0])
    for name in ("stable_rank", "effective_rank", "participation_ratio"):
        assert values[name] == pytest.approx(1)
    assert values["spectral_entropy"] == 0


@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=40))
@settings(deadline=None)
def test_every_scalar_is_its_formula(raw: list[float]) -> None:
    sigma = np.sort(np.array(raw))[::-1]
    eigenvalues, values = sigma**2, of(sigma)
    q, r = sigma / sigma.sum(), eigenvalues / eigenvalues.sum()
    wanted = {
        "spectral_norm": sigma[0],
        "frobenius_norm": math.sqrt(eigenvalues.sum()),
        "nuclear_norm": sigma.sum(),
        "stable_rank": eigenvalues.sum() / eigenvalues[0],
        "effective_rank": math.exp(-(q * np.log(q)).sum()),
        "spectral_entropy": -(r * np.log(r)).sum() / math.log(len(sigma)),
        "participation_ratio": eigenvalues.sum() ** 2 / (eigenvalues**2).sum(),
        "condition_number": sigma[0] / sigma[-1],
    }
    for name, value in wanted.items():
        assert values[name] == pytest.approx(value, rel=1e-10), name


@given(st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=30), st.floats(1e-200, 1e200))
@settings(deadline=None)
def test_scale_free_scalars_do_not_change_with_scale(raw: list[float], factor: float) -> None:
    sigma = np.sort(np.array(raw))[::-1]
    plain, scaled = of(sigma), of(sigma * factor)
    for name in SCALE_FREE:
        assert scaled[name] == pytest.approx(plain[name], rel=1e-9, nan_ok=True), name
    assert scaled["frobenius_norm"] == pytest.approx(plain["frobenius_norm"] * factor, rel=1e-12)


def test_the_zeros_of_a_low_rank_delta_count_in_p_only() -> None:
    carried, padded = of([4.0, 2.0], p=6, N=10), of([4.0, 2.0, 0, 0, 0, 0], N=10)
    for name in carried:
        assert carried[name] == pytest.approx(padded[name], nan_ok=True), name
    assert carried["spectral_entropy"] == pytest.approx(-(0.8 * math.log(0.8) + 0.2 * math.log(0.2)) / math.log(6))


def test_a_zero_matrix_has_norms_of_zero_and_nan_elsewhere() -> None:
    values = of([0.0, 0.0, 0.0])
    norms = ("spectral_norm", "frobenius_norm", "nuclear_norm")
    assert all(values[name] == 0.0 for name in norms)
    assert all(math.isnan(value) for name, value in values.items() if name not in norms)
    assert np.isnan(scalars.energy_rank(np.zeros((1, 3)), np.array([0.5]))).all()
    assert np.isnan(scalars.log_alpha_norm(np.zeros((1, 3)), np.array([2.0]))).all()


def test_a_single_sigma_has_no_entropy_to_normalise() -> None:
    assert math.isnan(of([2.0])["spectral_entropy"])


def test_a_rank_deficient_matrix_has_a_lower_bound_for_its_condition() -> None:
    epsilon = np.finfo(float).eps
    sigma = np.array([[1.0, 0.0], [1.0, 50 * epsilon], [1.0, 1e-9], [1.0, 1e-2]])
    p, N = np.full(4, 2), np.full(4, 100)
    assert scalars.condition_number(sigma, p, N) == pytest.approx([1 / (100 * epsilon)] * 2 + [1e9, 100])
    from_gram = np.array([False, False, True, True])
    assert scalars.condition_flag(sigma, p, N, from_gram).tolist() == [2, 2, 1, 0]
    assert scalars.condition_flag(sigma, p, N, np.zeros(4, dtype=bool)).tolist() == [2, 2, 0, 0]


def test_energy_ranks_are_the_least_that_reach_their_level() -> None:
    sigma = np.sqrt(np.array([[50.0, 30, 15, 4, 1], [20, 20, 20, 20, 20]]))
    levels = np.array([0.5, 0.8, 0.81, 0.99, 1.0])
    assert scalars.energy_rank(sigma, levels).tolist() == [[1, 2, 3, 4, 5], [3, 4, 5, 5, 5]]


@given(count=st.integers(1, 60), factor=st.floats(1e-9, 1e9))
def test_levels_that_are_met_exactly_do_not_depend_on_rounding(count: int, factor: float) -> None:
    ranks = scalars.energy_rank(np.full((1, 10 * count), factor), np.array([0.5, 0.9]))
    assert ranks.tolist() == [[5 * count, 9 * count]]


def test_quantiles_are_numpys() -> None:
    sigma = np.sort(np.random.default_rng(0).random((5, 13)), axis=1)[:, ::-1]
    levels = np.linspace(0, 1, 64)
    assert scalars.quantiles(sigma, levels) == pytest.approx(np.quantile(sigma, levels, axis=1).T)
    assert scalars.quantiles(np.array([[7.0]]), levels).tolist() == [[7.0] * 64]


def test_log_alpha_norm_does_not_overflow() -> None:
    sigma, alpha = np.array([[3.0, 2.0, 0.0], [1e100, 1.0, 0.0]]), np.array([2.5, 9.0])
    assert scalars.log_alpha_norm(sigma, alpha) == pytest.approx([math.log10(3**5 + 2**5), 1800.0])


def test_welores_threshold_reaches_the_total_reduction_and_no_less() -> None:
    generator = np.random.default_rng(1)
    spectra = [
        welore.normalised(np.sort(generator.random((1, k)) ** e)[:, ::-1])[0] for k, e in ((30, 4), (50, 1), (7, 2))
    ]
    pooled = np.concatenate(spectra)
    for wanted in (0.1, 0.5, 0.9):
        t = welore.threshold(spectra, wanted)
        assert (pooled < t).mean() >= wanted
        # One value less is not enough: t is the least such threshold.
        assert (pooled < np.nextafter(t, 0)).mean() < wanted


def test_welore_ignores_spectra_that_cannot_be_scaled() -> None:
    flat = welore.normalised(np.ones((1, 5)))
    assert np.isnan(flat).all()
    assert math.isnan(welore.threshold([flat[0]], 0.5)) and math.isnan(welore.threshold([], 0.5))
    assert np.isnan(welore.reduction(flat, np.array([0.5]))).all()
    assert welore.reduction(np.array([[1.0, 0.4, 0.0]]), np.array([0.5])) == pytest.approx([2 / 3])
