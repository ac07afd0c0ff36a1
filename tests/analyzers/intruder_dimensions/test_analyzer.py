"""From stored results to the report's variables: counts, controls, missing results, larger extents."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from analyzers.contract import Content, LowRank, Sum
from analyzers.intruder_dimensions import IntruderDimensions
from analyzers.intruder_dimensions.counts import count_below, null_summary, prediction_interval, spectral_ranks
from analyzers.intruder_dimensions.intruders import Intruders
from analyzers.intruder_dimensions.null import IntruderNull
from analyzers.intruder_dimensions.variables import VARIABLES
from analyzers.linalg.scores import chance_similarity
from tests.analyzers.intruder_dimensions.memory import MemoryView
from tests.analyzers.intruder_dimensions.test_intruders import random

BASES = {"q": random(24, 24, 1, torch.float32), "up": random(40, 24, 2, torch.float32)}


def lora(strength: float) -> dict[str, Content]:
    factors = {n: LowRank(random(w.shape[0], 2, 3), random(2, w.shape[1], 4), strength) for n, w in BASES.items()}
    return {name: Sum(BASES[name], delta) for name, delta in factors.items()}


def full(strength: float) -> dict[str, Content]:
    return {name: w + strength * random(*w.shape, 5).float() for name, w in BASES.items()}


@pytest.fixture(scope="module")
def view() -> MemoryView:
    runs = {"full": {0: full(0.0), 10: full(0.1)}, "lora": {5: {"q": lora(0.5)["q"]}, 10: lora(3.0)}}
    return MemoryView(runs, BASES)


@pytest.fixture(scope="module")
def derived(view: MemoryView):
    return IntruderDimensions(IntruderDimensions.Parameters(draws=6, most_draws=6)).derive(view)


def test_every_variable_is_documented_and_has_the_dimensions_it_states(derived) -> None:
    dims = {variable.name: variable.dims for variable in VARIABLES}
    assert set(derived.dataset.data_vars) == set(dims)
    for name, array in derived.dataset.data_vars.items():
        assert array.dims == dims[name]
    assert list(derived.dataset["matched_to"].values) == ["geometric_mean", "full", "lora"]
    assert list(derived.dataset["side"].values) == ["left", "right"]


def test_a_missing_step_or_matrix_is_nan_and_a_measured_one_is_not(derived) -> None:
    counts = derived.dataset["n_intruders"]
    assert counts.sel(run="lora", step=0).isnull().all() and counts.sel(run="lora", step=5, matrix="up").isnull().all()
    assert counts.sel(run="lora", step=5, matrix="q").notnull().all()
    assert (counts.sel(run="full", step=0) == 0).all()
    assert derived.dataset["best_match"].sel(run="lora", step=0).isnull().all()


def test_excess_is_count_minus_the_nulls_mean_and_the_mean_lies_in_its_interval(derived) -> None:
    d = derived.dataset
    assert ((d["excess_intruders"] == d["n_intruders"] - d["n_intruders_null"]) | d["n_intruders"].isnull()).all()
    measured = d["n_intruders_null"].notnull()
    inside = (d["n_intruders_null_low"] <= d["n_intruders_null"]) & (
        d["n_intruders_null"] <= d["n_intruders_null_high"]
    )
    # a mean can leave a quantile interval only when nearly all draws agree; with six it cannot
    assert bool((inside | ~measured).all())
    strong = d["n_intruders_null"].sel(run="lora", step=10, side="left", k=10, epsilon=0.7)
    assert bool((strong >= 1).all())  # a rank-2 update of this strength makes intruders in any direction


def test_the_null_of_the_total_adds_draw_i_of_every_matrix(view: MemoryView, derived) -> None:
    d, where = derived.dataset, {"side": "left", "k": 5, "epsilon": 0.7}
    assert (d["total_intruders"] == d["n_intruders"].sum("matrix")).where(d["total_intruders"].notnull(), True).all()
    for run, step, names in (("lora", 10, ("q", "up")), ("lora", 5, ("q",)), ("full", 10, ("q", "up"))):
        scores = [view.get(IntruderNull(draws=6, k=10), run, step, name)["similarity"] for name in names]
        sums = [sum(int((one[draw, 0, :5] < 0.7).sum()) for one in scores) for draw in range(6)]
        at = d.sel(run=run, step=step, **where)
        assert float(at["total_intruders_null"]) == pytest.approx(np.mean(sums))
        half = 2.570582 * np.std(sums, ddof=1) * np.sqrt(7 / 6)  # t(0.975) with 5 degrees of freedom, from a table
        most = 5 * len(names)  # no draw can have more; and of six draws the least and the greatest are inside
        expected = [min(max(np.mean(sums) - half, 0), *sums), min(max(np.mean(sums) + half, *sums), most)]
        found = [float(at[f"total_intruders_null_{end}"]) for end in ("low", "high")]
        np.testing.assert_allclose(found, expected, rtol=1e-5)  # the table has seven digits
    most = d["k"] * d["n_intruders"].notnull().sum("matrix")
    ends = d["total_intruders_null_high"]
    assert ((ends <= most) | ends.isnull()).all(), "no interval reaches beyond the number of scores"
    assert d["total_intruders_null"].sel(run="lora", step=0).isnull().all()
    assert d["total_intruders_null_high"].sel(run="lora", step=0).isnull().all()
    assert d["total_intruders"].sel(run="lora", step=0).isnull().all()


def test_a_sum_that_lacks_a_matrix_tells_how_many_it_has(derived) -> None:
    d = derived.dataset
    assert d["total_intruders_matrices"].sel(run="lora").values[1:].tolist() == [1, 2]
    assert d["total_intruders_null_matrices"].sel(run="full").values[::2].tolist() == [2, 2]
    assert d["total_matched_tested"].sel(run="lora").values.tolist() == [2, 2]
    (note,) = (note for note in derived.notes if "fewer matrices" in note)
    assert "1 of 2 at step 5 of lora" in note and "of full" not in note


def test_every_variable_that_names_its_count_has_it(derived) -> None:
    counted = {variable.name: variable.counted_by for variable in VARIABLES if variable.counted_by}
    assert {name for name in derived.dataset.data_vars if name.startswith("total_")} == {
        *counted,
        *counted.values(),
    } | {"total_intruders_draws"}
    for name, counter in counted.items():
        assert set(derived.dataset[counter].dims) <= set(derived.dataset[name].dims)


def test_the_interval_of_a_sum_holds_95_percent_of_further_sums() -> None:
    rng = np.random.default_rng(0)
    sums = rng.binomial(600, 0.05, size=(4000, 20))
    _, low, high = prediction_interval(sums.astype(float))
    more = rng.binomial(600, 0.05, size=4000)
    covered = np.mean((low <= more) & (more <= high))
    assert 0.935 < covered < 0.97  # 4000 trials: standard error .0035; the sum is a whole number


def test_what_one_of_twenty_draws_gives_is_chance() -> None:
    sixes = np.array([[6.0] * 19 + [5.0], [0.0] * 19 + [1.0], [6.0] * 20])
    mean, low, high = prediction_interval(sixes)
    np.testing.assert_allclose(mean, [5.95, 0.05, 6.0])
    assert low.tolist() == [5.0, 0.0, 6.0], "the normal band begins at 5.47, and 5 would be fewer than chance"
    assert high[1] == 1.0 and high[2] == 6.0, "the normal band of the second ends at .53"
    matrix = np.where(np.arange(20) == 7, 0.1, 0.9).reshape(1, 20, 1, 1).repeat(2, axis=2)
    _, low, high = null_summary(matrix, (1,), (0.5,))
    assert low[0, 0, 0, 0] == 0 and high[0, 0, 0, 0] == 1


def test_beyond_forty_draws_the_rarest_no_longer_widens_the_interval() -> None:
    hundred = np.array([[6.0] * 99 + [0.0]])
    _, low, _ = prediction_interval(hundred)
    assert 4 < low[0] < 5, "2.5 % of 100 draws are two: one of 0 among them is outside"


def test_a_score_within_its_uncertainty_of_epsilon_is_counted_high_and_not_low() -> None:
    bases = {name: base.bfloat16() for name, base in BASES.items()}
    settings = IntruderDimensions.Parameters(null=False, matched=False, across_runs=False)
    d = IntruderDimensions(settings).derive(
        MemoryView({"r": {1: {n: w.bfloat16() for n, w in full(0.2).items()}}}, bases)
    )
    slack = d.dataset["score_error"] + d.dataset["storage_uncertainty"]
    for epsilon in (0.5, 0.7, 0.9):
        low, high = (
            d.dataset[f"n_intruders_{which}"].sel(epsilon=epsilon, k=10, drop=True) for which in ("low", "high")
        )
        assert ((d.dataset["similarity"] + slack < epsilon).sum("rank") == low).all()
        assert ((d.dataset["similarity"] - slack < epsilon).sum("rank") == high).all()
    assert float((d.dataset["n_intruders_high"] - d.dataset["n_intruders_low"]).sum()) > 0


def test_matching_the_norm_of_the_own_run_changes_no_count(derived) -> None:
    d = derived.dataset
    for run in ("full", "lora"):
        own = d["n_intruders_matched"].sel(run=run, matched_to=run)
        assert (own == d["n_intruders"].sel(run=run, step=10)).all()
    norms = d["matched_norm"].sel(run="full")
    np.testing.assert_array_equal(norms, d["matched_norm"].sel(run="lora"))  # one group of runs, one set of norms
    np.testing.assert_allclose(norms[0], np.sqrt(norms.sel(matched_to="full") * norms.sel(matched_to="lora")))
    np.testing.assert_allclose(norms.sel(matched_to="lora"), d["delta_norm"].sel(run="lora", step=10), rtol=1e-12)


def test_scalars_of_the_change_are_those_of_the_dense_update(derived) -> None:
    at = derived.dataset.sel(run="lora", step=10, matrix="up")
    tuned = lora(3.0)["up"]
    assert isinstance(tuned, Sum)
    delta, base = tuned.delta.dense(), BASES["up"].double()
    sigma = np.linalg.svd(delta.numpy(), compute_uv=False)[:2]
    share = sigma / sigma.sum()
    assert float(at["relative_change"]) == pytest.approx(float(delta.norm() / base.norm()), rel=1e-12)
    cosine = float(((base + delta) * base).sum() / base.norm() / (base + delta).norm())
    assert float(at["cosine_to_base"]) == pytest.approx(cosine, rel=1e-12)
    assert float(at["delta_effective_rank"]) == pytest.approx(np.exp(-(share * np.log(share)).sum()))
    assert float(at["delta_stable_rank"]) == pytest.approx((sigma**2).sum() / sigma[0] ** 2)
    assert float(at["delta_rank_above_noise"]) == 2
    sigma0 = np.linalg.svd(base.numpy(), compute_uv=False)
    np.testing.assert_allclose(at["spectral_ratio"], sigma[0] / sigma0[[0, 1, 4, 9]], rtol=1e-7)
    assert float(at["chance_similarity"].sel(side="left")) == chance_similarity(40, 24)
    assert float(at["chance_similarity"].sel(side="right")) == chance_similarity(24, 24)
    np.testing.assert_allclose(at["window_chance"].sel(side="left"), np.sqrt(at["window_size"].sel(side="left") / 40))
    np.testing.assert_allclose(derived.runs["lora"]["delta_sigma"].sel(step=10, matrix="up"), sigma, rtol=1e-10)
    assert derived.runs["full"]["delta_sigma"].sizes == {"step": 2, "matrix": 2, "mode": 24}
    np.testing.assert_allclose(at["delta_in_base_subspace_chance"].sel(side="left")[:3], np.array([1, 5, 10]) / 40)
    assert np.isnan(at["delta_in_base_subspace_chance"][:, 3]).all()  # there is no top-50 subspace of 24


def test_runs_are_compared_with_each_other(derived) -> None:
    d = derived.dataset.sel(matrix="q")
    a, b = lora(3.0)["q"], full(0.1)["q"]
    assert isinstance(a, Sum) and isinstance(b, torch.Tensor)
    delta, other = a.delta.dense(), b.double() - BASES["q"].double()
    expected = float((delta * other).sum() / delta.norm() / other.norm())
    assert float(d["delta_cosine"].sel(run="full", other_run="lora")) == pytest.approx(expected, abs=1e-12)
    assert float(d["mask_iou_chance"]) == pytest.approx(0.01 / 1.99)
    assert float(d["lora_phi"].sel(run="lora", other_run="lora", phi_i=2, phi_j=2)) == pytest.approx(1.0)
    assert float(d["lora_phi_chance"].sel(phi_i=1, phi_j=4)) == pytest.approx(4 / 24)


def test_a_larger_stored_extent_serves_and_gives_the_same_report(view: MemoryView, derived) -> None:
    larger = {"intruders": Intruders(14), "intruder_null": IntruderNull(9, 10)}
    again = IntruderDimensions(IntruderDimensions.Parameters(draws=6, most_draws=6)).derive(
        MemoryView(view.tuned, view.bases, larger=larger)
    )
    for name in (
        "similarity",
        "n_intruders",
        "n_intruders_high",
        "n_intruders_null_high",
        "spectral_ratio",
        "principal_angle",
    ):
        np.testing.assert_allclose(again.dataset[name], derived.dataset[name], atol=1e-9)


def test_controls_can_be_switched_off_and_the_report_says_what_that_means(view: MemoryView) -> None:
    off = IntruderDimensions.Parameters(null=False, matched=False, across_runs=False, births=False)
    analyzer = IntruderDimensions(off)
    assert {s.name for s in analyzer.statistics()} == {"intruders", "update_spectrum", "change"}
    derived = analyzer.derive(view)
    assert not {"excess_intruders", "birth_step"} & set(derived.dataset) and "n_intruders" in derived.dataset
    assert any("null is switched off" in note for note in derived.notes)


def test_one_run_alone_is_told_that_there_is_nothing_to_match() -> None:
    derived = IntruderDimensions(IntruderDimensions.Parameters(draws=2)).derive(
        MemoryView({"lora": {1: lora(1.0)}}, BASES, base_kind="first_step")
    )
    assert derived.dataset["n_intruders_matched"].isnull().all()
    assert any("no other norm to match" in note for note in derived.notes)
    assert any("its own first saved step" in note for note in derived.notes)
    assert derived.dataset["base_kind"].values.tolist() == ["first_step"]


def test_k_beyond_k_max_asks_for_more_vectors_and_wrong_settings_fail() -> None:
    statistics = IntruderDimensions(IntruderDimensions.Parameters(ks=(20, 1))).statistics()
    assert next(s for s in statistics if s.name == "intruders").extent == 20
    assert IntruderDimensions.Parameters(ks=(20, 1)).ks == (1, 20)
    for wrong in ({"ks": (0,)}, {"epsilons": (1.5,)}, {"epsilon": (0.5,)}, {"draws": 0}, {"top_fraction": 0}):
        with pytest.raises(ValidationError):
            IntruderDimensions.Parameters(**wrong)


def test_counting_is_cumulative_and_ignores_absent_scores() -> None:
    scores = np.array([[0.1, 0.6, np.nan, 0.2]])
    np.testing.assert_array_equal(
        count_below(scores, (1, 2, 4, 9), (0.15, 0.5, 0.9))[0], [[1, 1, 1], [1, 1, 2], [1, 2, 3], [1, 2, 3]]
    )
    mean, low, high = null_summary(np.array([[[[0.1], [0.9]], [[0.6], [0.9]]]]), (1,), (0.5,))
    assert mean.shape == (1, 2, 1, 1) and mean[0, 0, 0, 0] == 0.5 and mean[0, 1, 0, 0] == 0
    assert 0 <= low[0, 0, 0, 0] < 0.5 < high[0, 0, 0, 0] <= 1


def test_ranks_of_nothing_above_the_floor_are_zero() -> None:
    effective, stable, number = spectral_ranks(np.array([[3.0, 3.0, 1.0], [0.5, 0.1, 0.0]]), np.array([[2.0], [1.0]]))
    np.testing.assert_allclose(effective, [2.0, 0.0])
    np.testing.assert_allclose(stable, [2.0, 0.0])
    assert number.tolist() == [2, 0]
