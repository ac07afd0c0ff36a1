"""The whole analyzer: every variable on small archives in memory, its invariances, and what it leaves out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from analyzers.contract import Derived, LowRank, Matrix, Stack, Statistic
from analyzers.weight_spectra import WeightSpectra, full_spectra
from analyzers.weight_spectra.analyzer import WeightSpectraParameters
from analyzers.weight_spectra.merged import MergedSpectra, MergedSpectraParameters
from analyzers.weight_spectra.variables import FROM_MODES, ON_REQUEST, VARIABLES
from tests.analyzers.linalg.test_spectra import random, with_sigma
from tests.analyzers.weight_spectra.memory_view import MemoryView, derive

WITH_UNITS = {"weight": 1, "weight²": 2}
"""How a variable of these units scales with W."""
NOT_SCALED = {"alpha_hat", "log_alpha_norm", "noise_floor", "mantissa_bits"}
"""Weight-scale dependent by definition (logarithms of λ), or a property of the storage."""


def analyzer(**settings: Any) -> WeightSpectra:
    return WeightSpectra(WeightSpectraParameters(mp_draws=50, **settings))


def one(content: Any, **settings: Any) -> xr.Dataset:
    return derive(analyzer(**settings), {"r": {0: {"W": content}}}).dataset.isel(run=0, step=0, matrix=0)


def heavy(m: int = 60, n: int = 90, seed: int = 0) -> torch.Tensor:
    """A matrix with spread singular values, as a trained one."""
    return with_sigma(torch.arange(1, min(m, n) + 1, dtype=torch.float64) ** -0.7, m, n, seed) + 0.01 * random(
        m, n, seed
    )


def test_every_variable_has_a_number_on_an_ordinary_matrix() -> None:
    asked = {
        "alpha_null": True,
        "alpha_null_draws": 20,
        "alpha_interval": True,
        "alpha_interval_draws": 20,
        "farms": True,
    }
    dataset = one(heavy(), bulk_scales=("total", "median", "shuffle"), shuffled=True, **asked)
    # one step has no modes to follow: those variables are in test_modes.py
    assert set(dataset.data_vars) == {variable.name for variable in VARIABLES} - {v.name for v in FROM_MODES}
    for name, values in dataset.data_vars.items():
        assert bool(np.isfinite(values).all()), name


def test_what_was_not_asked_for_is_left_out() -> None:
    assert not {variable.name for variable in ON_REQUEST} & set(one(heavy()).data_vars)


def test_every_variable_is_described_and_documented() -> None:
    page = (Path(__file__).parents[3] / "docs" / "weight-spectra.md").read_text()
    names = [variable.name for variable in VARIABLES]
    assert len(set(names)) == len(names)
    for variable in VARIABLES:
        assert variable.long_name and variable.units
        assert f"`{variable.name}`" in page, f"docs/weight-spectra.md says nothing of {variable.name}"
    for setting in WeightSpectraParameters.model_fields:
        assert f"`{setting}`" in page, f"docs/weight-spectra.md says nothing of the setting {setting}"


@given(factor=st.floats(1e-8, 1e8).filter(lambda c: c != 0), negative=st.booleans(), seed=st.integers(0, 20))
@settings(max_examples=15, deadline=None)
def test_scaling_changes_no_scale_free_variable_and_scales_the_others(factor: float, negative: bool, seed: int) -> None:
    plain, scaled = one(heavy(30, 40, seed)), one(heavy(30, 40, seed) * (-factor if negative else factor))
    for variable in VARIABLES:
        if variable.name not in plain or variable.name in NOT_SCALED:
            continue
        power = WITH_UNITS.get(variable.units, 0)
        sign = -1 if negative and variable.name == "entry_mean" else 1
        wanted = plain[variable.name].values * factor**power * sign
        assert scaled[variable.name].values == pytest.approx(wanted, rel=1e-8, nan_ok=True), variable.name


@pytest.mark.parametrize("exponent", [-40, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scaling_by_a_power_of_two_changes_nothing_even_for_narrow_dtypes(exponent: int, dtype: torch.dtype) -> None:
    W = heavy(30, 40).to(dtype)
    plain, scaled = one(W), one(W * 2.0**exponent)
    for variable in VARIABLES:
        if variable.name not in plain or variable.name in NOT_SCALED - {"noise_floor", "mantissa_bits"}:
            continue
        wanted = plain[variable.name].values * 2.0 ** (exponent * WITH_UNITS.get(variable.units, 0))
        assert scaled[variable.name].values == pytest.approx(wanted, rel=1e-12, nan_ok=True), variable.name


@pytest.mark.parametrize("shape", [(30, 40), (40, 30), (35, 35)])
def test_transposing_and_permuting_change_no_variable(shape: tuple[int, int]) -> None:
    W = heavy(*shape)
    rows = torch.randperm(shape[0], generator=torch.Generator().manual_seed(1))
    plain = one(W)
    for other in (W.mT, W[rows], W.mT[:, rows]):
        turned = one(other)
        for name, values in plain.data_vars.items():
            assert turned[name].values == pytest.approx(values.values, rel=1e-7, nan_ok=True), name


def test_a_delta_from_its_factors_has_the_scalars_of_the_expanded_delta() -> None:
    factors = LowRank(random(50, 6), random(6, 40, 1), 0.5)
    thin, dense = one(Matrix.of(factors, "W", role="delta")), one(Matrix.of(factors.dense(), "W", role="delta"))
    # The dense matrix carries its zeros as σ near ε: quantiles and the smallest σ differ by definition.
    for name in (
        "spectral_norm",
        "stable_rank",
        "effective_rank",
        "spectral_entropy",
        "participation_ratio",
        "ggd_shape",
    ):
        assert float(thin[name]) == pytest.approx(float(dense[name]), rel=1e-8), name
    assert thin.energy_rank.values.tolist() == dense.energy_rank.values.tolist()
    assert float(thin.condition_flag) == float(dense.condition_flag) == 2
    assert float(thin.alpha_flag) == 2 and math.isnan(float(thin.alpha))
    assert math.isnan(float(thin.welore_rank_reduction)) and np.isnan(thin.n_spikes).all()


def test_the_p_of_a_circuit_is_its_head_size() -> None:
    circuit = LowRank(torch.linalg.qr(random(50, 8))[0], torch.linalg.qr(random(50, 8, 1))[0].mT)
    values = one(Matrix.of(circuit, "W", role="circuit_qk"))
    # Eight equal σ: the entropy is full, and the condition is that of the eight.
    assert float(values.spectral_entropy) == pytest.approx(1)
    assert float(values.condition_number) == pytest.approx(1)
    assert np.isnan(values.mp_ks).all()


def test_few_values_in_the_tail_are_flagged_and_too_few_give_nan() -> None:
    matrices = {"long": heavy(300, 300), "short": heavy(30, 30), "tiny": heavy(10, 10), "row": random(1, 9)}
    view = MemoryView(analyzer(), {"r": {0: matrices}})
    dataset = analyzer().derive(view).dataset.isel(run=0, step=0)  # type: ignore[arg-type]  # as in memory_view.derive
    tail = dataset.n_tail.values
    assert dataset.alpha_flag.values.tolist() == [float(tail[0] < 50), 1, 2, 2]
    assert np.isnan(dataset.alpha.values).tolist() == [False, False, True, True]
    assert "fewer than 20" in view.reasons["tiny", "power_law"]
    assert dataset.alpha_sigma_iid.values[:2] == pytest.approx((dataset.alpha.values[:2] - 1) / np.sqrt(tail[:2]))


@given(
    rank=st.integers(1, 60),
    side=st.integers(60, 90),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    seed=st.integers(0, 99),
)
@settings(max_examples=15, deadline=None)
def test_rounding_is_no_structure_in_matrices_of_deficient_rank(
    rank: int, side: int, dtype: torch.dtype, seed: int
) -> None:
    values = one((random(side, rank, seed) @ random(rank, 80, seed + 1)).to(dtype))
    assert not (values.n_spikes > rank).any()
    if rank < 20:
        assert np.isnan(values.hill_alpha) and np.isnan(values.n_spikes).all() and np.isnan(values.mp_softrank).all()
    elif rank < side and dtype == torch.float64:
        factors = LowRank(random(side, rank, seed), random(rank, 80, seed + 1))
        real = one(Matrix.of(factors, "W", role="delta"))
        assert float(values.hill_alpha) == pytest.approx(float(real.hill_alpha), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_orthogonal_and_constant_matrices_have_no_exponents(dtype: torch.dtype) -> None:
    orthogonal = torch.linalg.qr(random(60, 60))[0].to(dtype)
    for values in (one(orthogonal), one(torch.full((60, 60), 0.1, dtype=torch.float64).to(dtype))):
        assert float(values.alpha_flag) == 2
        assert np.isnan([float(values[name]) for name in ("alpha", "hill_alpha", "alpha_hat", "log_alpha_norm")]).all()


@pytest.mark.parametrize("exponent", [-560, 565])
def test_entries_near_the_ends_of_float64_have_the_spikes_of_ordinary_ones(exponent: int) -> None:
    plain, scaled = one(heavy()), one(heavy() * 2.0**exponent)
    assert float(scaled.noise_floor) == float(plain.noise_floor) * 2.0**exponent
    for name in ("n_spikes", "mp_ks", "mp_ks_p", "alpha", "hill_alpha", "ggd_shape"):
        assert scaled[name].values == pytest.approx(plain[name].values, rel=1e-9), name


def test_zero_matrices_have_norms_and_no_ratios() -> None:
    values = one(torch.zeros(30, 40))
    assert float(values.spectral_norm) == 0 and float(values.entry_std) == 0 and float(values.zero_fraction) == 1
    for name in ("stable_rank", "effective_rank", "alpha", "alpha_hat", "condition_number", "mp_softrank", "ggd_shape"):
        assert np.isnan(values[name]).all(), name


def two_runs() -> Derived:
    runs = {
        "a": {0: {"x": heavy(30, 40), "y": heavy(25, 25)}, 10: {"x": heavy(30, 40, 1), "y": heavy(25, 25, 1)}},
        "b": {10: {"x": heavy(30, 40, 2), "z": torch.zeros(0, 3)}},
    }
    return derive(analyzer(), runs)


def test_runs_and_steps_are_joined_with_nan_where_nothing_was_measured() -> None:
    dataset = two_runs().dataset
    assert dict(dataset.sizes) | {"run": 2, "step": 2, "matrix": 3} == dict(dataset.sizes)
    measured = np.isfinite(dataset.stable_rank).values
    assert measured.tolist() == [[[True, True, False]] * 2, [[False] * 3, [True, False, False]]]
    assert (np.isfinite(dataset.sigma_quantile).all("quantile").values == measured).all()
    assert (dataset.welore_class.notnull().values == measured).all()


def test_the_full_spectra_stand_per_run() -> None:
    derived = two_runs()
    assert set(derived.runs) == {"a", "b"}
    a, b = derived.runs["a"], derived.runs["b"]
    assert a.sigma.dims == ("step", "matrix", "rank") and a.sigma.dtype == np.float64
    assert (a.step.values.tolist(), a.matrix.values.tolist()) == ([0, 10], ["x", "y"])
    assert (b.step.values.tolist(), b.matrix.values.tolist()) == ([10], ["x"])
    wanted = torch.linalg.svdvals(heavy(25, 25, 1)).numpy()
    assert a.sigma.sel(step=10, matrix="y").values[:25] == pytest.approx(wanted, rel=1e-9)
    assert np.isnan(a.sigma.sel(step=10, matrix="y").values[25:]).all()


def test_very_different_lengths_are_not_padded_into_gigabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full_spectra, "PADDING_LIMIT", 0)
    runs = {"r": {0: {"x": heavy(30, 40), "y": heavy(25, 25)}}}
    datasets = derive(analyzer(shuffled=True), runs).runs
    assert {name: dataset.sizes["rank"] for name, dataset in datasets.items()} == {"r.rank25": 25, "r.rank30": 30}
    for dataset in datasets.values():
        assert dataset.attrs["run"] == "r"
        assert np.isfinite(dataset.sigma).all() and np.isfinite(dataset.sigma_shuffled).all()


def test_welores_threshold_is_one_number_per_checkpoint() -> None:
    matrices = {
        name: heavy(30, 40, seed) ** power for seed, (name, power) in enumerate({"x": 1, "y": 3, "z": 2}.items())
    }
    derived = derive(analyzer(welore_reduction=0.6), {"r": {0: matrices}})
    dataset = derived.dataset.isel(run=0, step=0)
    # Equal lengths: the mean of the reductions is the total reduction, reached by as little as one value more.
    assert 0.6 <= float(dataset.welore_rank_reduction.mean()) <= 0.6 + 1 / 90
    assert dataset.welore_class.values.tolist() == (dataset.welore_rank_reduction.values >= 0.5).astype(float).tolist()


def test_bulk_p_values_are_corrected_over_the_matrices_of_a_checkpoint() -> None:
    matrices = {f"noise{seed}": random(30, 50, seed) for seed in range(5)} | {"trained": heavy(30, 50)}
    dataset = derive(analyzer(), {"r": {0: matrices}}).dataset.isel(run=0, step=0)
    assert (dataset.mp_ks_p_adjusted.values >= dataset.mp_ks_p.values).all()
    assert (dataset.mp_ks_p_adjusted.sel(matrix="trained", bulk_scale="total") < 0.05).all()
    assert (dataset.mp_ks_p_adjusted.values[:5] > 0.05).all()
    assert dataset.mp_ks_p_tested.values.tolist() == [6, 6]
    assert float(dataset.welore_matrices) == 6


def test_the_soft_rank_of_noise_is_about_one_and_of_structure_small() -> None:
    # λ1 of 80 × 120 Gaussian noise scatters by some 4 % about the upper edge.
    assert one(3 * random(80, 120)).mp_softrank.values == pytest.approx(1, abs=0.2)
    assert (one(heavy(80, 120)).mp_softrank < 0.5).all()


def test_the_notes_say_that_alpha_has_no_null_unless_it_has() -> None:
    assert any("alpha_null=true" in note for note in two_runs().notes)
    asked = derive(analyzer(alpha_null=True, alpha_null_draws=20), {"r": {0: {"W": heavy(30, 40)}}})
    assert not any("alpha_null=true" in note for note in asked.notes)


def test_nothing_stored_is_an_empty_dataset_and_no_error() -> None:
    derived = derive(analyzer(), {"r": {0: {"W": torch.zeros(0, 4)}}})
    assert derived.runs == {}
    assert all(bool(np.isnan(values).all()) for values in derived.dataset.data_vars.values())


@pytest.mark.parametrize(
    "wrong", [{"quantile": 3}, {"bulk_scales": ("mode",)}, {"welore_reduction": 1.5}, {"mp_draws": 10}]
)
def test_a_wrong_setting_fails_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        WeightSpectraParameters(**wrong)


class LossyView(MemoryView):
    """As if a damaged file had held `lost` (statistic, field) of the first matrix."""

    lost = ("", "")

    def fields(self) -> list[tuple[str, str]]:
        return sorted({(statistic, field) for (statistic, *_), result in self._results.items() for field in result})

    def stacks(self, statistic: Statistic, field: str) -> Iterator[Stack]:
        for stack in super().stacks(statistic, field):
            kept = stack.matrix_index != (0 if self.lost == (statistic.name, field) else -1)
            if kept.any():
                parts = (stack.run_index, stack.step_index, stack.matrix_index, stack.values)
                yield Stack(*(part[kept] for part in parts))


def test_a_lost_field_of_a_result_makes_numbers_missing_and_none_wrong() -> None:
    steps = {step: {"short": heavy(30, 30, step), "long": heavy(60, 40, step)} for step in (0, 10)}
    view = LossyView(analyzer(alpha_null=True), {"r": steps})
    whole = analyzer(alpha_null=True).derive(view).dataset  # type: ignore[arg-type]  # as in memory_view.derive
    counted = {v.name for v in VARIABLES if v.counted_by} | {v.counted_by for v in VARIABLES}
    assert len(view.fields()) > 20
    for lost in view.fields():
        view.lost = lost
        found = analyzer(alpha_null=True).derive(view).dataset  # type: ignore[arg-type]  # as above
        for name in set(found.data_vars) - counted:
            expected, got = xr.align(whole[name], found[name], join="right")
            assert bool((got.isnull() | (got == expected)).all()), (lost, name, got.values, expected.values)


@pytest.mark.parametrize(("adapter", "why"), [(False, "No run here is an adapter"), (True, "at most 8")])
def test_merged_spectra_without_a_matrix_say_why(adapter: bool, why: str) -> None:
    merged = MergedSpectra(MergedSpectraParameters(side=8))
    view = MemoryView(merged, {"r": {0: {}}})
    view.runs = (dataclasses.replace(view.runs[0], adapter=adapter),)
    assert why in " ".join(merged.derive(view).notes)  # type: ignore[arg-type]  # as in memory_view.derive
