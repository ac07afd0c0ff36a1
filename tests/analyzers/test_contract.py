"""A plugin of each scope gets what the contract promises, computed on threads and on processes alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from analyzers.contract import Result, Statistic, Unit
from analyzers.errors import ContractError
from pipeline.compute.cluster import ThreadCluster
from pipeline.compute.dask_cluster import local_cpu
from pipeline.compute.plan import plan
from pipeline.compute.run import compute
from pipeline.report.view import StoreView
from pipeline.store import Store
from pipeline.units.keys import seed_of
from tests.pipeline.compute.plugins import (
    Bisect,
    Change,
    Everything,
    Norm,
    Relative,
    Series,
    Step,
    Together,
    TopEntries,
    Total,
    Trace,
)
from tests.pipeline.compute.stores import LAYERS, small_store, weights

UP = ("layers.0.mlp.up_proj", "layers.1.mlp.up_proj")
DOWN = "layers.0.mlp.down_proj"
FULL, LORA, BASE = "runs/full", "runs/lora", "runs/base"


def full_weights(position: int) -> dict[str, np.ndarray]:
    """What `small_archive` wrote at the n-th step of the full run."""
    return {n: (w + 0.1 * position * weights(1)[n]).astype(np.float32) for n, w in weights(0).items()}


def delta(position: int, layer: int) -> np.ndarray:
    """The Δ that `small_archive` wrote at the n-th step of the adapter run: (α/r) B A."""
    draw = np.random.default_rng(position)
    for _ in range(layer + 1):
        a = draw.standard_normal((2, 6)).astype(np.float32)
        b = draw.standard_normal((8, 2)).astype(np.float32)
    return 2.0 * b.astype(np.float64) @ a.astype(np.float64)


@pytest.fixture(scope="module")
def on_threads(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = small_store(tmp_path_factory.mktemp("threads"))
    with ThreadCluster(2) as cluster:
        assert compute(store, [Everything()], cluster).complete
    return store


@pytest.fixture(scope="module")
def view(on_threads: Store) -> StoreView:
    return StoreView(on_threads, [Everything()])


def norm(array: np.ndarray) -> float:
    return float(np.linalg.norm(array.astype(np.float64)))


def value(view: StoreView, statistic: Statistic, field: str, run: str, step: int, matrix: str | None = None) -> float:
    result = view.get(statistic, run, step, matrix)
    assert result is not None, f"{statistic.name} of {run}@{step} {matrix} is not there"
    return float(result[field])


def test_a_matrix_statistic_sees_every_matrix_of_every_checkpoint(view: StoreView) -> None:
    # float64 sums of 48 squares agree to a few ulp whatever their order
    for position, step in enumerate((10, 20, 30), start=1):
        for name, tensor in full_weights(position).items():
            found = view.get(Norm(), FULL, step, name.removeprefix("model.").removesuffix(".weight"))
            assert found is not None and found["norm"] == pytest.approx(norm(tensor), rel=1e-14)
    found = view.get(Norm(), BASE, 0, DOWN)
    assert found is not None and found["norm"] == pytest.approx(norm(weights(0)[LAYERS[0].replace("up", "down")]))


def test_an_adapter_is_measured_by_its_delta(view: StoreView) -> None:
    found = view.get(Norm(), LORA, 20, UP[1])
    assert found is not None and found["norm"] == pytest.approx(norm(delta(2, 1)), rel=1e-12)
    assert view.get(Norm(), LORA, 20, DOWN) is None


def test_a_pair_compares_a_full_checkpoint_and_an_adapter_with_their_base(view: StoreView) -> None:
    full = view.get(Change(), FULL, 30, UP[0])
    assert full is not None
    assert full["change"] == pytest.approx(norm(full_weights(3)[LAYERS[0]].astype(float) - weights(0)[LAYERS[0]]))
    adapter = view.get(Change(), LORA, 30, UP[0])
    assert adapter is not None and adapter["change"] == pytest.approx(norm(delta(3, 0)), rel=1e-12)


def test_a_pair_compares_with_the_previous_step(view: StoreView) -> None:
    full = view.get(Step(), FULL, 20, UP[0])
    assert full is not None
    moved = full_weights(2)[LAYERS[0]].astype(float) - full_weights(1)[LAYERS[0]]
    assert full["change"] == pytest.approx(norm(moved))
    adapter = view.get(Step(), LORA, 20, UP[0])
    assert adapter is not None and adapter["change"] == pytest.approx(norm(delta(2, 0) - delta(1, 0)), rel=1e-12)
    assert view.get(Step(), FULL, 10, UP[0]) is None
    assert any(s.statistic == "test_step" and s.step == 10 and "first step" in s.reason for s in view.skips)


def test_a_statistic_of_statistics_gets_those_of_the_matrix_and_of_its_reference(view: StoreView) -> None:
    for run, step in ((FULL, 20), (LORA, 10)):
        ratio, change = view.get(Relative(), run, step, UP[1]), view.get(Change(), run, step, UP[1])
        reference = view.reference(Norm(), run, UP[1])
        assert ratio is not None and change is not None and reference is not None
        assert ratio["ratio"] == change["change"] / reference["norm"]


def test_a_checkpoint_statistic_sees_all_matrices_with_their_inputs(view: StoreView) -> None:
    total = view.get(Total(), FULL, 10)
    expected = np.sqrt(sum(norm(tensor) ** 2 for tensor in full_weights(1).values()))
    assert total is not None and total["total"] == pytest.approx(expected)


def test_a_run_statistic_sees_the_steps_in_order(view: StoreView) -> None:
    trace = view.get(Trace(), LORA, matrix=UP[0])
    assert trace is not None and trace["rows"][:, 0].tolist() == [10, 20, 30]
    series = view.get(Series(), FULL)
    assert series is not None and series["step"].tolist() == [10, 20, 30]
    assert [value(view, Total(), "total", FULL, step) for step in (10, 20, 30)] == series["total"].tolist()


def test_a_runs_statistic_sees_runs_that_share_a_base_side_by_side(view: StoreView) -> None:
    together = view.get(Together(), matrix=UP[0])
    largest = [max(value(view, Change(), "change", run, s, UP[0]) for s in (10, 20, 30)) for run in (FULL, LORA)]
    assert together is not None and together["largest"].tolist() == largest
    assert [run for run, _, _ in view.members(Together(), matrix=UP[0])] == [FULL] * 3 + [LORA] * 3
    alone = view.get(Together(), matrix=DOWN)
    assert alone is not None and len(alone["largest"]) == 1, "only the full run has this matrix"


def test_an_iterative_statistic_goes_on_until_it_proposes_nothing(view: StoreView) -> None:
    for name in UP:
        trials = view.trials(Bisect(), FULL, 10, name)
        low = max((trial["at"] for trial, result in trials if result["above"]), default=0)
        found = view.get(Norm(), FULL, 10, name)
        assert found is not None and low == int(found["norm"])
        assert next(trial["at"] for trial, _ in trials) == 32


def test_the_seed_is_the_units_own(view: StoreView, on_threads: Store) -> None:
    seeds = {value(view, Norm(), "draw", FULL, step, UP[0]) for step in (10, 20, 30)}
    assert len(seeds) == 3
    keys = {float(np.float64(seed_of(key))) for key in table_keys(on_threads, "test_norm")}
    assert seeds < keys


def table_keys(store: Store, statistic: str) -> frozenset[str]:
    return store.statistic(statistic).keys()


def test_processes_give_what_threads_give(on_threads: Store, tmp_path: Path) -> None:
    other = small_store(tmp_path)
    with local_cpu(2, 2 * 2**30) as cluster:
        assert compute(other, [Everything()], cluster).complete
    for name in on_threads.statistics():
        here, there = on_threads.statistic(name), other.statistic(name)
        assert here.keys() == there.keys(), "content keys do not depend on the machine, the order or the cluster"
        a, b = here.read(here.keys()), there.read(there.keys())
        for key, result in a.items():
            same(result, b[key])


def same(a: Result | str, b: Result | str) -> None:
    assert not isinstance(a, str) and not isinstance(b, str)
    for field, values in a.items():
        np.testing.assert_array_equal(values, b[field])


@pytest.mark.parametrize(
    ("result", "says"),
    [
        (None, "must return a mapping"),
        ({}, "must return a mapping"),
        ({"x": 1.0}, "must be a numpy array, got float"),
        ({"x": [1.0]}, "must be a numpy array, got list"),
        ({"x": np.array([object()])}, "dtype object"),
        ({3: np.zeros(2)}, "must be a string"),
    ],
)
def test_a_result_that_breaks_the_contract_is_a_failure_that_says_how(
    tmp_path: Path, result: object, says: str
) -> None:
    class Wrong(Statistic):
        name, version, scope = "test_wrong", 1, "matrix"

        def compute(self, unit: Unit, context: object) -> Result:
            return result  # type: ignore[return-value]  # what this is about

    store = small_store(tmp_path, steps=(10,))
    with ThreadCluster(1) as cluster:
        summary = compute(store, [Everything(Wrong())], cluster)
    assert summary.measured == 0 and not summary.complete
    assert all(says in failure.error for failure in summary.failures)


def test_a_tensor_as_result_is_told_how_to_become_an_array(tmp_path: Path) -> None:
    class Lazy(Statistic):
        name, version, scope = "test_lazy", 1, "matrix"

        def compute(self, unit: Unit, context: object) -> Result:
            return {"x": torch.zeros(3)}  # type: ignore[dict-item]  # what this is about

    store = small_store(tmp_path, steps=(10,))
    with ThreadCluster(1) as cluster:
        failures = compute(store, [Everything(Lazy())], cluster).failures
    assert ".cpu().numpy()" in failures[0].error


def of_scope(scope: str, needs: tuple[Statistic, ...] = (), against: str | None = None, name: str = "x") -> Statistic:
    """A statistic of a scope with inputs, for checks of what may be declared."""
    body = {
        "scope": scope,
        "name": name,
        "version": 1,
        "against": against,
        "inputs": lambda self: needs,
        "compute": lambda self, unit, context: {},
    }
    made: Statistic = type("Made", (Statistic,), body)()
    return made


@pytest.mark.parametrize(
    ("statistic", "says"),
    [
        (of_scope("planet"), "scope 'planet' is none of"),
        (of_scope("pair"), "does not say `against` what"),
        (of_scope("pair", against="yesterday"), "'yesterday' is none of"),
        (of_scope("matrix", (Change(),)), "cannot have the input 'test_change' of scope 'pair'"),
        (of_scope("matrix", (Bisect(),)), "iterative"),
        (of_scope("matrix", (TopEntries(k=1), TopEntries(k=2))), "two inputs called 'test_top'"),
        (of_scope("matrix", (), name="test_norm"), "two statistics are called 'test_norm'"),
    ],
)
def test_a_statistic_that_cannot_be_planned_is_refused_by_name(
    on_threads: Store, statistic: Statistic, says: str
) -> None:
    with pytest.raises(ContractError, match=says):
        plan(on_threads, [Everything(Norm(), statistic)])
