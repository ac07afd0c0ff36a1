"""Groups shared out to workers: nothing is lost or done twice, and none waits long for another's last group."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyzers.intruder_dimensions.null import IntruderNull
from pipeline.archive import open_archive
from pipeline.compute.groups import Group, shared_out
from pipeline.compute.plan import Plan, plan
from tests.pipeline.compute.plugins import Bisect, Everything, Norm
from tests.pipeline.compute.stores import LAYERS, ingest, small_store, weights, write_adapter, write_full


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return plan(small_store(tmp_path_factory.mktemp("groups")), [Everything(Norm())])


def long(planned: Plan, seconds: float) -> Group:
    """All the units in one group that takes so long."""
    units = planned.jobs
    return Group(units[0].statistic, units, seconds, 0, "any")


def makespan(groups: tuple[Group, ...], workers: int) -> float:
    """When the last worker ends, each taking the next group when it is free."""
    busy = [0.0] * workers
    for group in groups:
        busy[busy.index(min(busy))] += group.seconds
    return max(busy)


@given(seconds=st.lists(st.floats(0.01, 50.0), min_size=1, max_size=6), workers=st.integers(1, 8))
def test_every_unit_stays_and_so_do_the_seconds(planned: Plan, seconds: list[float], workers: int) -> None:
    groups = [long(planned, one) for one in seconds]
    parts = shared_out(groups, workers)
    assert sorted(key for part in parts for key in part.keys) == sorted(key for group in groups for key in group.keys)
    assert sum(part.seconds for part in parts) == pytest.approx(sum(seconds))
    if workers > 1:
        assert [part.seconds for part in parts] == sorted((part.seconds for part in parts), reverse=True)


def test_two_workers_end_together_where_four_groups_would_leave_one_waiting(planned: Plan) -> None:
    groups = tuple(long(planned, seconds) for seconds in (1.5, 1.5, 1.5, 0.6))
    assert makespan(groups, 2) == 3.0
    assert makespan(shared_out(groups, 2), 2) <= 1.1 * sum(group.seconds for group in groups) / 2


def test_short_work_is_not_cut_into_messages(planned: Plan) -> None:
    assert len(shared_out([long(planned, 0.09)], 8)) == 1


def test_adapters_of_two_ranks_are_priced_apart(tmp_path: Path) -> None:
    """One price for both, that of the first, made the plan of a run of rank 64 that of rank 4."""
    write_full(tmp_path / "runs" / "base", weights(0, (512, 512)))
    for rank in (2, 32):
        a, b = np.ones((rank, 512), "f4"), np.ones((512, rank), "f4")
        factors = {name.removesuffix(".weight"): (a, b) for name in LAYERS}
        write_adapter(tmp_path / "runs" / f"lora{rank}" / "checkpoint-1", factors, alpha=rank, rank=rank)
    names = [run.id for run in open_archive(tmp_path / "runs").runs]
    base = next(name for name in names if name.endswith("base"))
    bases = {name: (f"{base}@0", "sibling") for name in names if name != base}
    store = ingest(tmp_path / "runs", tmp_path / "S.zarr", bases)
    seconds: dict[str, float] = {}
    for group in plan(store, [Everything(IntruderNull())]).groups:
        if group.statistic.name == "intruder_null":
            run = str(group.units[0].run)
            seconds[run[-6:]] = seconds.get(run[-6:], 0.0) + group.seconds
    assert seconds["lora32"] > 2 * seconds["/lora2"]


def test_trials_that_are_trained_together_stay_together(tmp_path: Path) -> None:
    (group, *_) = plan(small_store(tmp_path, steps=(10,)), [Everything(Bisect())]).groups
    together = Group(group.statistic, tuple(group.units) * 4, 60.0, 0, "any")
    assert shared_out([together], 4) == (together,)
