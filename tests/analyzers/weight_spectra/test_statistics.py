"""The stored statistics: what they return, refuse and say when there is no answer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from analyzers import costs
from analyzers.contract import Context, LowRank, Matrix, Observation, Unit
from analyzers.errors import ContractError, ParameterError, Unmeasurable
from analyzers.linalg.gaussian_null import gaussian_eigenvalues
from analyzers.linalg.powerlaw import hill_alpha
from analyzers.weight_spectra.noise_bulk import MarchenkoPasturFit, ShuffledSigma, shuffle_entries
from analyzers.weight_spectra.nulls import AlphaInterval, AlphaNull, Farms
from analyzers.weight_spectra.statistics import METHODS, Entries, PowerLawFit, Sigma
from tests.analyzers.linalg.test_spectra import random, with_sigma
from tests.analyzers.weight_spectra.memory_view import compute


def product(role: str, r: int = 4) -> Matrix:
    return Matrix.of(LowRank(random(40, r), random(r, 30, 1), 0.5), role, role=role)


def units(*contents: Any) -> list[Unit]:
    return [Unit((Observation("run", 0, m.info, m),)) for m in map(Matrix.of, contents)]


def test_a_batch_answers_for_each_unit_in_its_place() -> None:
    bad = random(8, 6)
    bad[0, 0] = math.nan
    contents = [
        random(8, 6),
        torch.ones(8, 6),
        LowRank(random(8, 2), random(2, 6)),
        bad,
        random(300, 250),
        random(8, 6, 5),
    ]
    outcomes = Sigma().compute_batch(units(*contents), [Context()] * len(contents))
    assert isinstance(outcomes[3], Unmeasurable)
    for content, outcome in zip(contents, outcomes, strict=True):
        if content is bad:
            continue
        assert not isinstance(outcome, Exception)
        alone = Sigma().compute(units(content)[0], Context())
        assert METHODS[int(outcome["method"])] == METHODS[int(alone["method"])]
        assert outcome["sigma"] == pytest.approx(alone["sigma"], abs=1e-13 * alone["sigma"][0])


def test_a_matrix_that_cannot_be_loaded_costs_only_itself() -> None:
    def broken() -> torch.Tensor:
        raise OSError("the file is gone")

    good, bad = units(random(5, 4), random(5, 4))
    lost = Matrix(bad.only.matrix.info, "k", broken)  # type: ignore[union-attr]  # units() always has a matrix
    outcomes = Sigma().compute_batch([Unit((Observation("run", 0, lost.info, lost),)), good], [Context()] * 2)
    assert isinstance(outcomes[0], OSError) and not isinstance(outcomes[1], Exception)


def test_a_delta_of_rank_0_is_a_zero_matrix() -> None:
    matrix = Matrix.of(LowRank(torch.zeros(5, 0), torch.zeros(0, 7)), role="delta")
    assert compute(Sigma(), matrix)["sigma"].tolist() == [0.0]


def test_an_adapters_delta_stores_its_r_values_only() -> None:
    assert compute(Sigma(), product("delta"))["sigma"].shape == (4,)


@pytest.mark.parametrize("statistic", [Sigma(), Entries(), Farms(), ShuffledSigma()])
def test_a_matrix_without_entries_is_refused_with_its_shape(statistic: Any) -> None:
    assert "0 × 7" in statistic.refuses(Matrix.of(torch.zeros(0, 7)).info, None)


@pytest.mark.parametrize("statistic", [MarchenkoPasturFit(), AlphaNull(), AlphaInterval(), Farms(), ShuffledSigma()])
@pytest.mark.parametrize("role", ["delta", "circuit_qk", "circuit_ov"])
def test_laws_of_independent_entries_refuse_products(statistic: Any, role: str) -> None:
    assert role in statistic.refuses(product(role).info, None)
    assert statistic.refuses(Matrix.of(random(40, 30)).info, None) is None


def test_a_power_law_is_refused_below_twenty_values_and_not_from_there() -> None:
    assert "p = 19" in str(PowerLawFit().refuses(Matrix.of(random(19, 50)).info, None))
    assert PowerLawFit().refuses(Matrix.of(random(20, 50)).info, None) is None


def test_a_missing_input_is_a_broken_contract_that_names_it() -> None:
    with pytest.raises(ContractError, match="'sigma' is missing"):
        PowerLawFit().compute(units(random(30, 30))[0], Context())


def test_storage_noise_is_cut_off_the_power_law() -> None:
    # Rank 30 of 60, rounded to bfloat16: the other 30 values are rounding, and fitting them would change α.
    clean = with_sigma(torch.logspace(0, -0.8, 30, dtype=torch.float64), 80, 60)
    wanted = compute(PowerLawFit(), Matrix.of(clean))
    rounded = compute(PowerLawFit(), Matrix.of(clean.to(torch.bfloat16).to(torch.float32)))
    assert int(wanted["n_values"]) == int(rounded["n_values"]) == 30
    assert float(rounded["alpha"]) == pytest.approx(float(wanted["alpha"]), rel=0.02)


def test_of_a_circuit_only_the_noise_floor_is_read_from_the_entries() -> None:
    facts = compute(Entries(), product("circuit_qk"))
    assert facts["noise_floor"] > 0
    assert math.isnan(facts["std"]) and math.isnan(facts["ggd_shape"]) and facts["mantissa_bits"] == -1


def test_the_entries_of_a_delta_are_those_of_the_expanded_product() -> None:
    matrix = product("delta")
    expanded = matrix.dense(torch.float64)
    facts, dense = compute(Entries(), matrix), compute(Entries(), Matrix.of(expanded))
    for name in ("mean", "std", "kurtosis", "largest", "ggd_shape", "ggd_scale"):
        assert float(facts[name]) == pytest.approx(float(dense[name]), rel=1e-9), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.float64])
def test_a_shuffle_keeps_the_entries_and_depends_on_its_seed_only(dtype: torch.dtype) -> None:
    W = random(30, 20).to(torch.float32).to(dtype)
    one, same, other = (shuffle_entries(W, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert one.dtype == dtype and one.shape == W.shape
    assert torch.equal(one.double(), same.double()) and not torch.equal(one.double(), other.double())
    assert torch.equal(one.double().flatten().sort().values, W.double().flatten().sort().values)


def test_gaussian_noise_passes_for_marchenko_pastur_and_structure_does_not() -> None:
    statistic = MarchenkoPasturFit(("total", "median", "shuffle"))
    noise = compute(statistic, Matrix.of(random(80, 120)))
    assert (noise["ks_p"] > 0.01).all()
    assert (noise["n_spikes"] <= 1).all()
    assert noise["s"] == pytest.approx(1.0, rel=0.03)
    power = with_sigma(torch.arange(1, 81, dtype=torch.float64) ** -1.0, 80, 120)
    trained = compute(statistic, Matrix.of(power))
    assert (trained["ks_p"][:2] < 1e-3).all()


def test_the_p_values_of_gaussian_bulks_are_calibrated() -> None:
    # 60 Gaussian matrices: p ≤ .1 in six of them, give or take 2.3; s is fitted to each, as in the null.
    p = [compute(MarchenkoPasturFit(), Matrix.of(random(40, 60, seed)))["ks_p"] for seed in range(60)]
    shares = (np.array(p) <= 0.1).mean(axis=0)
    assert (shares <= 0.22).all() and (np.median(p, axis=0) > 0.3).all() and (np.median(p, axis=0) < 0.7).all()


def test_an_unknown_bulk_scale_is_named() -> None:
    with pytest.raises(ParameterError, match="'mode'"):
        MarchenkoPasturFit(("mode",))


def test_alpha_of_a_gaussian_matrix_lies_inside_its_null_and_of_a_heavy_tail_outside() -> None:
    percentiles = [float(compute(AlphaNull(), Matrix.of(random(64, 64, s)))["percentile"]) for s in range(30)]
    # Uniform percentiles: mean 50 ± 5.3.
    assert np.mean(percentiles) == pytest.approx(50, abs=16)
    heavy = compute(AlphaNull(), Matrix.of(with_sigma(torch.arange(1, 65, dtype=torch.float64) ** -1.5, 64, 64)))
    assert float(heavy["percentile"]) < 0.1 and float(heavy["p_value"]) < 1e-3
    drawn = compute(AlphaNull(200), Matrix.of(with_sigma(torch.arange(1, 65, dtype=torch.float64) ** -1.5, 64, 64)))
    assert float(drawn["percentile"]) == 0.0 and float(drawn["p_value"]) == 1 / 201


@pytest.mark.parametrize("shape", [(40, 60), (120, 120)])
def test_the_tabulated_nulls_are_those_of_draws_at_the_shape(shape: tuple[int, int]) -> None:
    # 400 draws: a p of .5 is off by .025, of .05 by .011; four standard errors are allowed.
    for seed in range(4):
        noise = Matrix.of(random(*shape, seed))
        for table, draws in (
            (compute(MarchenkoPasturFit(), noise)["ks_p"], compute(MarchenkoPasturFit(draws=400), noise)["ks_p"]),
            (compute(AlphaNull(), noise)["p_value"], compute(AlphaNull(400), noise)["p_value"]),
        ):
            assert (np.abs(table - draws) <= 4 * np.sqrt(draws * (1 - draws) / 400) + 0.01).all()


def test_most_small_gaussian_matrices_have_a_good_alpha() -> None:
    """Published: 79 % of 64 × 64 fall into 2..6. It is why α alone is no evidence."""
    alphas = [float(compute(PowerLawFit(), Matrix.of(random(64, 64, seed)))["alpha"]) for seed in range(200)]
    assert np.mean([2 <= alpha <= 6 for alpha in alphas]) == pytest.approx(0.79, abs=0.08)


def test_the_simulated_interval_holds_alpha_and_is_wider_than_independence_says() -> None:
    sigma = torch.from_numpy(np.sort(np.sqrt(np.random.default_rng(3).pareto(1.5, 120) + 1))[::-1].copy())
    matrix = Matrix.of(with_sigma(sigma, 120, 200))
    results: dict[str, Any] = {}
    interval = compute(AlphaInterval(draws=60), matrix, results)
    fit = results["power_law"]
    low, high = float(interval["low"]), float(interval["high"])
    assert low < float(fit["alpha"]) < high
    iid = (float(fit["alpha"]) - 1) / math.sqrt(int(fit["n_tail"]))
    assert high - low > 2 * iid
    assert compute(AlphaInterval(draws=60), matrix)["low"] == interval["low"]  # seeded


def test_farms_gives_wide_and_square_noise_the_same_alpha_where_hill_does_not() -> None:
    wide, square = Matrix.of(random(100, 800)), Matrix.of(random(100, 100))
    farms = [float(compute(Farms(), matrix)["alpha"]) for matrix in (wide, square)]
    # 800 values against 100: the Hill estimate of the second scatters by some 10 %.
    assert farms[0] == pytest.approx(farms[1], rel=0.15)
    plain = [
        float(hill_alpha(np.sqrt(gaussian_eigenvalues(100, n, 1, np.random.default_rng(1))), np.zeros(1))[0])
        for n in (800, 100)
    ]
    assert plain[0] > 1.5 * plain[1]


def test_a_window_of_no_size_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"0\.5"):
        Farms(aspect=0.5)
    with pytest.raises(ParameterError):
        Farms(rows=1)


@pytest.mark.parametrize(
    "statistic", [Sigma(), Entries(), PowerLawFit(), MarchenkoPasturFit(), AlphaNull(), AlphaInterval(), Farms()]
)
def test_every_statistic_can_tell_its_cost(statistic: Any) -> None:
    small, large = (statistic.cost([Matrix.of(torch.zeros(n, 2 * n)).info]) for n in (32, 512))
    first, other = (cost.seconds + costs.seconds(cost.once) for cost in (small, large))  # a null is made once per shape
    assert 0 < first < other and 0 < small.memory_bytes <= large.memory_bytes
