"""The numbers that the page states are those of the tree."""

from __future__ import annotations

import warnings

import numpy as np
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.report import intruder_totals
from pipeline.report.compare import key_variables, quartiles, series_of
from pipeline.report.movers import most_moved
from pipeline.report.spectra import spectral_changes, spectrum_of
from pipeline.report.step_axis import log_steps
from tests.pipeline.report import synthetic

FLOATS = st.floats(-1e6, 1e6) | st.just(float("nan"))


@given(hnp.arrays(float, st.tuples(st.integers(1, 4), st.integers(0, 9)), elements=FLOATS))
def test_quartiles_are_numpys(values: np.ndarray) -> None:
    if values.shape[1] == 0:
        assert np.isnan(quartiles(values)).all()
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # all-NaN slices
        expected = np.nanpercentile(values, [25, 50, 75], axis=-1)
    # the interpolation's rounding: a few ulp of values up to 1e6
    np.testing.assert_allclose(quartiles(values), expected, rtol=1e-12, atol=1e-9)


def test_curves_have_each_run_at_its_own_measured_steps() -> None:
    tree = synthetic.tree(matrices=5, steps=(0, 10, 20, 30, 40))
    (stable,) = [v for v in key_variables(tree) if v.name == "stable_rank"]
    curves = {s.run: s for s in series_of(stable)}
    assert curves["full"].steps.tolist() == [0, 10, 20, 30, 40]
    assert curves["lora_r1"].steps.tolist() == [0, 20, 40]  # the synthetic run skips every second step
    expected = tree["weight_spectra/stable_rank"].sel(run="lora_r1", step=20).median().item()
    assert curves["lora_r1"].median[1] == expected


def test_variables_with_further_dims_are_shown_at_the_papers_convention() -> None:
    labels = {v.name: v.label for v in key_variables(synthetic.tree(matrices=2, steps=(0, 1)))}
    assert labels["n_intruders"] == "side = left, k = 10, ε = 0.5"
    assert labels["stable_rank"] == ""


def test_evenly_spaced_steps_are_linear_and_doubling_ones_logarithmic() -> None:
    assert not log_steps(np.arange(0, 10_001, 100))
    assert log_steps(np.array([0, 1, 2, 4, 8, 16, 32, 64, 128, 256]))
    assert not log_steps(np.array([0])) and not log_steps(np.array([5, 500]))


def test_totals_add_up_over_matrices() -> None:
    tree = synthetic.tree(matrices=6, steps=(0, 10, 20))
    totals, label = intruder_totals.over_steps(tree)
    at = {"side": "left", "k": 10, "epsilon": 0.5}
    node = tree["intruder_dimensions"].to_dataset()
    for one in totals:
        count = node["n_intruders"].sel(run=one.run, **at).sum("matrix").values
        np.testing.assert_array_equal(one.count, count)
        null = node["n_intruders_null"].sel(run=one.run, **at).sum("matrix").values
        np.testing.assert_allclose(one.excess, count - null, atol=1e-12)
        assert np.isnan(one.matched[:-1]).all()
        matched = node["n_intruders_matched"].sel(run=one.run, matched_to="geometric_mean", **at).sum("matrix")
        assert one.matched[-1] == float(matched)
    assert label == "side = left, k = 10, ε = 0.5"


def test_the_interval_of_the_total_is_that_of_the_draws() -> None:
    """The page states the analyzer's interval of the sum as it is, and a count outside is said to be."""
    dims = ("run", "step", "k")
    values = {"total_intruders_null": 5.5, "total_intruders_null_low": 2.0, "total_intruders_null_high": 9.0}
    coordinates = {"run": ["a"], "step": [1], "matrix": ["m0", "m1"], "k": [10]}
    names = ("n_intruders", "n_intruders_low", "n_intruders_null")
    counts = {name: (("run", "step", "matrix", "k"), np.full((1, 1, 2, 1), 6.0)) for name in names}
    totals = {name: (dims, np.full((1, 1, 1), value)) for name, value in values.items()}
    tree = xr.DataTree.from_dict({"/": xr.Dataset(), "/intruder_dimensions": xr.Dataset(counts | totals, coordinates)})
    ((one,), _) = intruder_totals.over_steps(tree)
    assert (one.count[0], one.null[0], one.null_low[0], one.null_high[0]) == (12.0, 5.5, 2.0, 9.0)
    assert one.verdict() == "no verdict: the report has no test of the sweep"


def sweep_test(p: float, corrected: float, sure: float, direction: int = 0) -> intruder_totals.SweepTest:
    """A test whose other direction says nothing."""

    def both(value: float) -> np.ndarray:
        return np.array([value, 1.0][:: -1 if direction else 1])

    return intruder_totals.SweepTest(both(p), both(p / 2), both(p * 2), both(corrected), both(sure), 400, 3)


def test_a_verdict_states_its_p_its_error_and_its_correction() -> None:
    more = sweep_test(0.0025, 0.0125, 0.0125).verdict()
    assert more == "more than chance: p = 0.0025 for more (0.0013 to 0.005, 400 draws), corrected 0.013"
    assert (
        sweep_test(0.0025, 0.0125, 0.0125, direction=1).verdict().startswith("fewer than chance: p = 0.0025 for fewer")
    )
    assert sweep_test(0.14, 0.84, 0.9).verdict().startswith("not distinguishable from chance: p = 0.14 for more (0.07")
    assert sweep_test(0.02, 0.12, 0.9).verdict().startswith("not distinguishable"), "the corrected p decides"


def test_a_verdict_that_hangs_on_rounding_says_so() -> None:
    assert "more than chance, unless rounding decides the undetermined ones" in sweep_test(0.003, 0.02, 0.2).verdict()


def test_sums_over_different_matrices_are_not_compared() -> None:
    tree = synthetic.tree(runs=("a", "b"), matrices=3, steps=(0, 10))
    tree["intruder_dimensions/n_intruders_null"].values[0, :, 2] = np.nan
    tree["intruder_dimensions/n_intruders_matched"].values[0, :, 2] = np.nan
    tree["intruder_dimensions/total_intruders_tested"].values[0] = 2
    first, second = intruder_totals.over_steps(tree)[0]
    assert first.verdict() == "no verdict: 1 of 3 matrices have no null"
    assert "no verdict" not in second.verdict()
    assert (first.matched_matrices, second.matched_matrices) == (2, 3)


def test_without_a_null_nothing_is_claimed() -> None:
    tree = synthetic.tree(matrices=3, steps=(0, 10))
    node = tree["intruder_dimensions"].to_dataset()
    keep = ["n_intruders"]
    tree["intruder_dimensions"] = xr.DataTree(node[keep])
    totals, _ = intruder_totals.over_steps(tree)
    assert {one.verdict() for one in totals} == {"no null computed"}
    assert all(one.test is None and not one.at_common_norm for one in totals)
    assert all(np.isnan(one.excess).all() for one in totals)


def test_movers_are_ordered_by_relative_change_and_few_of_each_run() -> None:
    tree = synthetic.tree(matrices=30, steps=(0, 10, 20))
    table = most_moved(tree, limit=12, per_run=5)
    assert table is not None and len(table.movers) == 12
    moved = [m.moved for m in table.movers]
    assert moved == sorted(moved, reverse=True)
    change = tree["intruder_dimensions/relative_change"].isel(step=-1)
    assert moved[0] == float(change.max())
    assert max(sum(m.run == run for m in table.movers) for run in ("full", "lora_r64")) <= 5
    first = table.movers[0]
    assert set(first.counts) == {"n_intruders", "n_intruders_null", "excess_intruders", "n_intruders_matched"}


def test_without_a_base_movement_is_that_of_the_spectrum() -> None:
    tree = synthetic.tree(matrices=4, steps=(0, 10), intruders=False)
    table = most_moved(tree)
    assert table is not None and table.measure.startswith("‖σ(last) − σ(first)‖")
    top = table.movers[0]
    spectrum = spectrum_of(tree, top.run, top.matrix)
    assert spectrum is not None
    expected = np.linalg.norm(spectrum.sigma[-1] - spectrum.sigma[0]) / np.linalg.norm(spectrum.sigma[0])
    assert np.isclose(top.moved, expected, rtol=1e-14)


@given(st.integers(0, 2**32 - 1))
def test_spectral_movement_never_exceeds_that_of_the_weights(seed: int) -> None:
    """Mirsky: ‖σ(A) − σ(B)‖ ≤ ‖A − B‖_F."""
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(5, 3))
    last = first + rng.normal(size=(5, 3)) * rng.lognormal(0, 2)
    sigma = np.stack([np.linalg.svd(w, compute_uv=False) for w in (first, last)])[:, None, :]
    dataset = xr.Dataset({"sigma": (("step", "matrix", "rank"), sigma)}, {"step": [0, 1], "matrix": ["W"]})
    assert spectral_changes(dataset)["W"] <= np.linalg.norm(last - first) / np.linalg.norm(first) * (1 + 1e-12)
