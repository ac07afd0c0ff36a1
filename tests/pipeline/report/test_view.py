"""The view: stored results as arrays over runs, steps and matrices, with what is missing left empty."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from analyzers.contract import (
    Context,
    IterativeStatistic,
    Result,
    RunInfo,
    Statistic,
    Trial,
    Unit,
    Variable,
    View,
)
from analyzers.errors import ContractError, Unmeasurable
from pipeline.analysis.findings import unmeasurable
from pipeline.compute.cluster import ThreadCluster
from pipeline.compute.plan import plan
from pipeline.compute.run import compute
from pipeline.report.view import StoreView
from pipeline.store import Store
from pipeline.units.selection import Selection, parse_steps
from tests.pipeline.compute.plugins import Bisect, Change, Everything, Norm, Series, Together, TopEntries, Total
from tests.pipeline.compute.stores import small_store

UP, DOWN = "layers.1.mlp.up_proj", "layers.0.mlp.down_proj"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = small_store(tmp_path_factory.mktemp("view"))
    with ThreadCluster(1) as cluster:
        compute(store, [Everything()], cluster)
    return store


@pytest.fixture
def view(store: Store) -> StoreView:
    return StoreView(store, [Everything()])


@dataclass(frozen=True)
class Hopeless(IterativeStatistic):
    """iterative: its second trial has no answer on the matrices of one layer."""

    name, version, scope = "test_hopeless", 1, "matrix"

    def propose(self, results: Sequence[tuple[Trial, Result | Unmeasurable]]) -> Sequence[Trial]:
        return [{"at": len(results)}] if len(results) < 2 else ()

    def compute(self, unit: Unit, context: Context) -> Result:
        info, trial = unit.only.info, unit.trial
        assert info is not None and trial is not None
        if info.layer == 1 and trial["at"] == 1:
            raise Unmeasurable("layer 1 has no second answer")
        return {"at": np.int64(trial["at"])}


def test_a_search_with_a_trial_that_has_no_answer_is_listed_with_the_reason(tmp_path: Path) -> None:
    store, asked = small_store(tmp_path, (10,)), [Everything(Hopeless())]
    compute(store, asked)
    listed = [skip for skip in StoreView(store, asked).skips if skip.statistic == "test_hopeless"]
    assert {(skip.reason, skip.matrix, skip.wrong) for skip in listed} == {("layer 1 has no second answer", UP, True)}
    found = unmeasurable(store, plan(store, asked))
    assert [(finding.reason, finding.statistics) for finding in found] == [
        ("layer 1 has no second answer", ("test_hopeless",))
    ]


def at(view: StoreView, run: str, step: int, matrix: str) -> tuple[int, int, int]:
    runs = [info.id for info in view.runs]
    return runs.index(run), view.steps.tolist().index(step), view.matrices.index(matrix)


def test_the_axes_are_the_union_over_runs(view: StoreView) -> None:
    contract: View = view  # the type checker holds the protocol
    assert [run.id for run in contract.runs] == ["runs/base", "runs/full", "runs/lora"]
    assert view.runs[2] == RunInfo("runs/lora", (10, 20, 30), "run", True, "runs/base@0", "sibling")
    assert view.steps.dtype == np.int64 and view.steps.tolist() == [0, 10, 20, 30]
    assert view.measured.tolist() == [[True, False, False, False], [False, True, True, True], [False, True, True, True]]
    assert set(view.matrices) == {DOWN, UP, "layers.0.mlp.up_proj"}


def test_infos_are_the_runs_own_and_the_base_s(view: StoreView) -> None:
    delta, weight = view.info("runs/lora", UP), view.reference_info("runs/lora", UP)
    assert delta is not None and weight is not None
    assert (delta.role, delta.layer, delta.shape) == ("delta", 1, (8, 6))
    assert weight.role == "weight"
    assert view.info("runs/lora", DOWN) is None
    assert view.reference_info("runs/base", DOWN) is None


def test_an_array_holds_what_get_gives_and_nan_elsewhere(view: StoreView) -> None:
    array = view.array(Norm(), "norm")
    assert array.shape == (3, 4, 3) and array.dtype == np.float64
    for run in view.runs:
        for step in view.steps:
            for matrix in view.matrices:
                found = view.get(Norm(), run.id, int(step), matrix)
                value = array[at(view, run.id, int(step), matrix)]
                assert np.isnan(value) if found is None else value == found["norm"]
    assert np.isfinite(array).sum() == 3 + 9 + 6


def test_a_vector_field_keeps_its_axis_and_integers_take_the_fill(view: StoreView) -> None:
    top = view.array(TopEntries(), "top")
    assert top.shape == (3, 4, 3, 3) and np.isnan(top[0, 1]).all()
    assert np.array_equal(np.isfinite(top[..., 0]), np.isfinite(view.array(Norm(), "norm")))
    assert view.array(Norm(), "no such field").shape == (3, 4, 3)
    assert (view.array(Norm(), "norm", fill=-1.0)[0, 1] == -1.0).all()


def test_stacks_hold_every_value_once(view: StoreView) -> None:
    filled = np.full((3, 4, 3), np.nan)
    for stack in view.stacks(Norm(), "norm"):
        assert np.isnan(filled[stack.run_index, stack.step_index, stack.matrix_index]).all()
        filled[stack.run_index, stack.step_index, stack.matrix_index] = stack.values
    np.testing.assert_array_equal(filled, view.array(Norm(), "norm"))


def test_an_array_is_the_same_after_its_batches_were_compacted_away(tmp_path: Path) -> None:
    store = small_store(tmp_path)
    with ThreadCluster(1) as cluster:
        compute(store, [Everything()], cluster)
    table = store.statistic(Norm().name)
    for key, value in table.read(table.keys()).items():  # one batch each, so that there is something to compact
        table.write([(key, value)])
    view = StoreView(Store.open(store.path), [Everything()])
    before = view.array(Norm(), "norm")
    assert Store.open(store.path, "a").statistic(Norm().name).compact(2) > 2
    np.testing.assert_array_equal(view.array(Norm(), "norm"), before)


def test_values_of_several_shapes_are_refused_with_the_way_out(view: StoreView, tmp_path: Path) -> None:
    class Whole(TopEntries):
        name = "test_whole"

        def compute(self, unit, context):  # type: ignore[no-untyped-def]
            return {"w": unit.only.matrix.dense().double().numpy()}

    store = small_store(tmp_path, steps=(10,))
    with ThreadCluster(1) as cluster:
        compute(store, [Everything(Whole())], cluster)
    uneven = StoreView(store, [Everything(Whole())])
    assert sorted(stack.values.shape[1:] for stack in uneven.stacks(Whole(), "w")) == [(6, 8), (8, 6)]
    with pytest.raises(ContractError, match=r"\(6, 8\) and \(8, 6\).*use `stacks`"):
        uneven.array(Whole(), "w")


def test_a_question_without_what_the_scope_needs_is_refused(view: StoreView) -> None:
    with pytest.raises(ContractError, match="scope matrix: say which run and step"):
        view.get(Norm(), matrix=UP)
    with pytest.raises(ContractError, match="scope checkpoint"):
        view.array(Total(), "total")
    with pytest.raises(ContractError, match="scope matrix"):
        view.reference(Change(), "runs/full", UP)
    assert view.get(Norm(), "runs/nowhere", 10, UP) is None
    assert view.get(Norm(), "runs/full", 15, UP) is None


def test_a_reference_is_the_base_s_own_result(view: StoreView) -> None:
    direct = view.get(Norm(), "runs/base", 0, UP)
    assert direct is not None
    for run in ("runs/full", "runs/lora"):
        assert view.reference(Norm(), run, UP) == direct
    assert view.reference(Norm(), "runs/base", UP) is None


def test_a_view_of_one_run_still_knows_its_base(store: Store) -> None:
    alone = StoreView(store, [Everything()], Selection(("runs/lora",), steps=parse_steps("20")))
    assert [run.id for run in alone.runs] == ["runs/lora"] and alone.steps.tolist() == [20]
    assert alone.matrices == ("layers.0.mlp.up_proj", UP)
    assert alone.reference(Norm(), "runs/lora", UP) is not None
    assert np.isfinite(alone.array(Norm(), "norm")).all(), "the base's own results do not stand among them"


def test_units_of_runs_are_found_by_any_of_their_runs(view: StoreView) -> None:
    found = [view.get(Together(), run=run, matrix=UP) for run in ("runs/full", "runs/lora", None)]
    assert [len(result["largest"]) for result in found if result is not None] == [2, 2, 2]
    assert view.get(Together(), run="runs/lora", matrix=DOWN) is None
    assert view.get(Series(), run="runs/base") is None
    assert view.members(Series(), run="runs/full")[0] == ("runs/full", 10, None)


def test_trials_are_given_in_the_order_they_were_proposed(view: StoreView) -> None:
    trials = [trial["at"] for trial, _ in view.trials(Bisect(), "runs/full", 10, UP)]
    assert trials[:3] == [32, 16, 8]
    assert view.trials(Bisect(), "runs/lora", 10, DOWN) == ()


def test_a_dataset_carries_coordinates_and_attributes(view: StoreView) -> None:
    made = view.dataset({"norm": view.array(Norm(), "norm")}, Everything.variables)
    assert dict(made.sizes) == {"run": 3, "step": 4, "matrix": 3}
    chosen = made.sel(run="runs/full", step=10, matrix=UP)
    assert (int(chosen.layer), str(chosen.role.item()), int(chosen.rows), int(chosen.cols)) == (1, "weight", 8, 6)
    assert made["norm"].attrs == {
        "long_name": "Frobenius norm",
        "units": "1",
        "source": "textbook",
        "key": 1,
        "log": 1,
    }
    assert "layer" not in view.dataset({"a": np.zeros(3)}, [Variable("a", ("run",), "a")]).coords


@pytest.mark.parametrize(
    ("arrays", "dims", "says"),
    [
        ({"other": np.zeros(3)}, ("run",), "'other' has no Variable"),
        ({"a": np.zeros(3)}, ("run", "step"), r"dims \('run', 'step'\), its array has shape \(3,\)"),
        ({"a": np.zeros(4)}, ("run",), "has 4 along 'run', there are 3"),
    ],
)
def test_an_array_that_does_not_fit_its_variable_is_refused(
    view: StoreView, arrays: dict[str, np.ndarray], dims: Sequence[str], says: str
) -> None:
    with pytest.raises(ContractError, match=says):
        view.dataset(arrays, [Variable("a", tuple(dims), "a")])


def test_a_statistic_that_no_analyzer_asked_for_can_still_be_read(store: Store) -> None:
    narrow = StoreView(store, [Everything(Total())])
    assert narrow.get(Norm(), "runs/full", 10, UP) is not None
    other: Statistic = Change()
    assert np.isfinite(narrow.array(other, "change")).sum() == 15


def test_scalars_of_many_checkpoints_are_read_in_seconds(tmp_path: Path) -> None:
    from tests.pipeline.compute.test_plan import Synthetic

    synthetic = Synthetic(tmp_path, 100, 300)  # a tenth of the promise, so that the suite stays quick
    units = StoreView(synthetic, [Everything(Norm())])._results.found(Norm())  # type: ignore[arg-type]
    table = synthetic.real.statistic("test_norm")
    by_step: dict[int | None, list[tuple[str, dict[str, np.ndarray]]]] = {}
    for (_, step, matrix), key in units.places.items():
        assert matrix is not None and step is not None
        value = {"norm": np.array(step * 1000.0 + int(matrix[1:])), "other": np.zeros(64)}
        by_step.setdefault(step, []).append((key, value))
    for batch in by_step.values():
        table.write(batch)
    started = time.process_time()
    view = StoreView(synthetic, [Everything(Norm())])  # type: ignore[arg-type]  # the part that a view asks
    array = view.array(Norm(), "norm")
    seconds = time.process_time() - started
    np.testing.assert_array_equal(array[0], np.arange(100)[:, None] * 1000.0 + np.arange(300))
    assert seconds < 10 / 10 * 3, f"{seconds:.1f} CPU s for a tenth of what should take about 10 s"
