"""Computing: nothing twice, nothing lost, and a failure costs the unit that fails."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from analyzers.contract import Context, Result, Statistic, Sum, Unit
from pipeline.compute.cluster import ThreadCluster
from pipeline.compute.events import ComputeEvent, GroupFinished, Planned, UnitFailed, UnitRetried
from pipeline.compute.plan import plan
from pipeline.compute.run import Summary, compute, iter_rounds, run_groups
from pipeline.compute.work import run_group
from pipeline.report.view import StoreView
from pipeline.store import Store
from pipeline.store.statistics import StatisticTable
from tests.pipeline.compute.plugins import (
    Bisect,
    Everything,
    Fragile,
    Norm,
    OnFragile,
    TopEntries,
    Trace,
    calls,
)
from tests.pipeline.compute.stores import LAYERS, ingest, small_store, weights, write_full


def run(store: Store, *statistics: object, progress: object = None) -> Summary:
    with ThreadCluster(2) as cluster:
        return compute(store, [Everything(*statistics)], cluster, progress or (lambda event: None))  # type: ignore


def test_a_second_call_computes_nothing(tmp_path: Path) -> None:
    store = small_store(tmp_path)
    first = run(store)
    assert first.complete and first.measured > 0
    files = sorted(store.path.rglob("*"))
    second = run(Store.open(store.path, "a"))
    assert (second.measured, second.unmeasurable, second.failures, second.blocked) == (0, 0, (), ())
    assert second.present > 0
    assert sorted(store.path.rglob("*")) == files


def test_a_new_checkpoint_costs_the_work_of_one(tmp_path: Path) -> None:
    log = str(tmp_path)
    root = tmp_path / "runs"
    for step in (1, 2):
        write_full(root / "run" / f"checkpoint-{step}", weights(step))
    run(ingest(root, tmp_path / "S.zarr"), Norm(log), Trace(log))
    assert len(calls(log)) == 2 * 3 + 3 * 2
    (tmp_path / "calls").unlink()
    write_full(root / "run" / "checkpoint-3", weights(3))
    grown = ingest(root, tmp_path / "S.zarr")
    run(grown, Norm(log), Trace(log))
    assert sorted(calls(log))[-3:] == ["trace 3"] * 3
    assert len(calls(log)) == 6, "three norms, and three runs that grew by one step each"

    for step in (1, 2, 3):
        write_full(tmp_path / "again" / "run" / f"checkpoint-{step}", weights(step))
    anew = ingest(tmp_path / "again", tmp_path / "T.zarr")
    run(anew, Trace())
    for matrix in StoreView(anew, [Everything(Trace())]).matrices:
        a = StoreView(grown, [Everything(Trace())]).get(Trace(), "runs/run", matrix=matrix)
        b = StoreView(anew, [Everything(Trace())]).get(Trace(), "again/run", matrix=matrix)
        assert a is not None and b is not None
        np.testing.assert_array_equal(a["rows"], b["rows"])


def test_a_larger_extent_recomputes_and_a_smaller_one_does_not(tmp_path: Path) -> None:
    store = small_store(tmp_path, steps=(10,))
    units = run(store, TopEntries(3)).measured
    assert run(store, TopEntries(2)).measured == 0
    assert run(store, TopEntries(5)).measured == units
    assert run(store, TopEntries(3)).measured == 0
    found = StoreView(store, [Everything(TopEntries(3))]).get(TopEntries(3), "runs/full", 10, "layers.0.mlp.up_proj")
    assert found is not None and len(found["top"]) == 5


def test_of_two_extents_asked_for_at_once_the_larger_is_computed(tmp_path: Path) -> None:
    store, log = small_store(tmp_path, steps=(10,)), str(tmp_path)
    with ThreadCluster(1) as cluster:
        compute(store, [Everything(TopEntries(2, log)), Everything(TopEntries(4, log))], cluster)
    assert set(calls(log)) == {"top 4"}


def test_a_unit_that_fails_is_tried_three_times_then_recorded_and_the_rest_goes_on(tmp_path: Path) -> None:
    store, log = small_store(tmp_path, steps=(10,)), str(tmp_path)
    events: list[ComputeEvent] = []
    summary = run(store, Fragile(log=log), Norm(), progress=events.append)
    failing = [("runs/base", 0), ("runs/full", 10), ("runs/lora", 10)]
    for where, step in failing:
        assert calls(log).count(f"fragile {where} {step} layers.1.mlp.up_proj") == 3
        assert calls(log).count(f"fragile {where} {step} layers.0.mlp.up_proj") == 1
    assert sorted((f.run, f.step) for f in summary.failures) == failing
    assert summary.measured == 3 + 8, "the other layer, and every norm"
    assert not summary.complete
    failure = store.failures()[0]
    assert failure.matrix == "layers.1.mlp.up_proj" and failure.error == "ArithmeticError: cannot do layer 1"
    assert "plugins.py" in failure.traceback and "raise ArithmeticError" in failure.traceback
    assert sum(isinstance(event, UnitFailed) for event in events) == 3
    assert sum(isinstance(event, UnitRetried) for event in events) == 6
    assert isinstance(events[0], Planned)
    finished = [event for event in events if isinstance(event, GroupFinished)]
    assert sum(e.measured for e in finished) == 11 and sum(e.failed for e in finished) == 3


def test_a_unit_that_fails_once_is_measured(tmp_path: Path) -> None:
    store, log = small_store(tmp_path, steps=(10,)), str(tmp_path)
    summary = run(store, Fragile(times=1, log=log))
    assert summary.complete and summary.measured == 6 and not store.failures()


def test_a_recorded_failure_is_tried_again_by_the_next_call(tmp_path: Path) -> None:
    store, log = small_store(tmp_path, steps=(10,)), str(tmp_path)
    assert len(run(store, Fragile(times=3, log=log)).failures) == 3
    assert len(StoreView(store, [Everything(Fragile())]).failures) == 3
    again = run(store, Fragile(times=3, log=log))
    assert (again.measured, again.failures) == (3, ()) and not store.failures()


def test_what_needs_a_failed_unit_waits_for_it_and_is_not_stored(tmp_path: Path) -> None:
    store, log = small_store(tmp_path, steps=(10,)), str(tmp_path)
    first = run(store, OnFragile(log))
    assert (first.measured, len(first.failures), len(first.blocked)) == (3 + 3, 3, 3)
    assert not first.complete
    assert all("layers.1" in str(blocked) for blocked in first.blocked)
    fixed = run(store, OnFragile(log, times=3))
    assert fixed.complete and fixed.measured == 3 + 3
    found = StoreView(store, [Everything(OnFragile())]).get(OnFragile(), "runs/full", 10, "layers.1.mlp.up_proj")
    assert found is not None and int(found["layer"]) == 2


def test_a_matrix_of_nan_is_known_from_the_ingest_and_the_rest_is_measured(tmp_path: Path) -> None:
    broken = weights(0)
    broken[LAYERS[0]][3, 2] = np.nan
    write_full(tmp_path / "runs" / "run" / "checkpoint-1", broken)
    store, log = ingest(tmp_path / "runs", tmp_path / "S.zarr"), str(tmp_path)
    first = run(store, Norm(log))
    assert (first.measured, first.unmeasurable, first.complete) == (2, 0, True)
    assert len(calls(log)) == 2, "not tried"
    view = StoreView(store, [Everything(Norm())])
    assert view.get(Norm(), "runs/run", 1, "layers.0.mlp.up_proj") is None
    reason = f"its tensor {LAYERS[0]} is not finite: it holds NaN or infinity"
    assert [(s.matrix, s.reason, s.wrong) for s in view.skips] == [("layers.0.mlp.up_proj", reason, True)]


def test_a_matrix_of_nan_in_a_store_that_does_not_know_it_is_unmeasurable_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.store.writing.all_finite", lambda values: True)  # as the first stores were written
    broken = weights(0)
    broken[LAYERS[0]][3, 2] = np.nan
    write_full(tmp_path / "runs" / "run" / "checkpoint-1", broken)
    store, log = ingest(tmp_path / "runs", tmp_path / "S.zarr"), str(tmp_path)
    first = run(store, Norm(log))
    assert (first.measured, first.unmeasurable, first.complete) == (2, 1, True)
    assert run(store, Norm(log)).measured == 0 and len(calls(log)) == 3, "found once, not tried again"
    view = StoreView(store, [Everything(Norm())])
    assert [(s.matrix, s.reason) for s in view.skips] == [
        ("layers.0.mlp.up_proj", "layers.0.mlp.up_proj has NaN entries")
    ]


def test_a_search_that_was_interrupted_goes_on_with_the_trials_that_are_done(tmp_path: Path) -> None:
    store, log = small_store(tmp_path, steps=(10,)), str(tmp_path)
    planned = plan(store, [Everything(Bisect(log=log))])
    with ThreadCluster(1) as cluster:
        for count, one in enumerate(iter_rounds(store, planned)):
            if count == 2:
                break
            run_groups(store, one.groups, cluster)
    done = len(calls(log))
    assert done == 2 * 8
    run(store, Bisect(log=log))
    # 64 halves six times: every unit tries six numbers, none of them twice
    assert len(calls(log)) == 6 * 8


def test_provenance_says_how_every_result_came_about(tmp_path: Path) -> None:
    store = small_store(tmp_path, steps=(10,))
    run(store, TopEntries(4))
    table = store.statistic("test_top")
    provenance = table.provenance(next(iter(table.keys())))
    assert provenance["version"] == 1 and provenance["extent"] == 4 and provenance["device"] == "cpu"
    assert {"varve", "torch", "numpy", "python"} <= provenance["software"].keys()
    assert provenance["class"].endswith("plugins.TopEntries")


def test_a_table_of_results_is_looked_at_once_a_round_however_many_units_need_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    look = StatisticTable.refresh

    def counted(table: StatisticTable) -> None:
        looks.append(table.name)
        look(table)

    counts = []
    for steps in ((10,), (10, 20, 30, 40)):
        store = small_store(tmp_path / str(len(steps)), steps=steps)
        planned = plan(store, [Everything(Fragile(), OnFragile())])
        monkeypatch.setattr(StatisticTable, "refresh", counted)
        looks.clear()
        assert sum(len(group.units) for one in iter_rounds(store, planned) for group in one.groups)
        monkeypatch.setattr(StatisticTable, "refresh", look)
        counts.append(len(looks))
    assert counts[0] == counts[1], "as many for four checkpoints as for one"


def test_many_small_batches_are_merged_at_the_end(tmp_path: Path) -> None:
    store = small_store(tmp_path, steps=(10,))
    (one,) = iter_rounds(store, plan(store, [Everything(Norm())]))
    table = store.statistic("test_norm")
    with ThreadCluster(1) as cluster:
        for _ in range(6):
            for group in one.groups:
                for single in group.alone():
                    run_groups(store, [single], cluster)
    before = sum(1 for path in (store.path / "statistics" / "test_norm").iterdir() if path.is_dir())
    assert before >= 32
    write_full(tmp_path / "runs" / "more" / "checkpoint-1", weights(9))
    events: list[ComputeEvent] = []
    run(ingest(tmp_path / "runs", store.path), Norm(), progress=events.append)
    after = sum(1 for path in (store.path / "statistics" / "test_norm").iterdir() if path.is_dir())
    assert after < before / 4
    table.refresh()
    assert len(table.keys()) == 8 + 3


@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_work_is_in_flight_than_the_workers_need(tmp_path: Path, workers: int) -> None:
    store = small_store(tmp_path, steps=tuple(range(1, 12)))

    class Watched(ThreadCluster):
        most = 0

        def submit(self, function: object, *arguments: object, device: str = "cpu") -> object:
            handle = super().submit(function, *arguments, device=device)  # type: ignore[arg-type]
            self.most = max(self.most, len(self._pending))
            return handle

    (one,) = iter_rounds(store, plan(store, [Everything(Norm())]))
    with Watched(workers) as cluster:
        run_groups(store, [single for group in one.groups for single in group.alone()], cluster)
    assert cluster.most <= 2 * workers + 1


@dataclass(frozen=True)
class Both(Statistic):
    """pair with the base: whether W stands on the very tensor that W0 is."""

    name, version, scope, against = "test_both", 1, "pair", "base"

    def compute(self, unit: Unit, context: Context) -> Result:
        assert unit.only.matrix is not None and unit.only.reference is not None
        base, tuned = unit.only.reference.content(), unit.only.matrix.content()
        return {"shared": np.bool_(isinstance(tuned, Sum) and tuned.base is base)}


def test_an_adapter_and_its_base_are_read_once_for_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W = W0 + Δ is compared with W0: a second copy of W0 was read, and held beside the first."""
    store = small_store(tmp_path, steps=(10,))
    (group,) = (g for g in plan(store, [Everything(Both())]).groups if "lora" in str(g.units[0].run))
    read: list[str] = []
    one = Store.read_tensor

    def counting(self: Store, digest: str, rows: tuple[int, int] | None = None) -> np.ndarray:
        read.append(digest)
        return one(self, digest, rows)

    monkeypatch.setattr(Store, "read_tensor", counting)
    outcomes = run_group(store.path, group)
    assert all(outcome.result is not None and outcome.result["shared"] for outcome in outcomes)
    assert len(outcomes) == 2 and len(read) == len(set(read)) == 3 * 2  # A, B and W0 of two matrices
