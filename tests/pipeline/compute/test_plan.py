"""The plan: what is missing, once, in an order that works, and a reason for what has no unit."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from analyzers.contract import Context, Cost, MatrixInfo, Result, Statistic, Unit
from analyzers.errors import ParameterError
from pipeline.archive.types import Layout, MatrixSpec, TensorHeader
from pipeline.compute.groups import GROUP_BYTES, group_units
from pipeline.compute.plan import plan
from pipeline.compute.run import compute
from pipeline.store import Store
from pipeline.store.binding import bind
from pipeline.store.records import BoundMatrix, CheckpointRecord, RunRecord
from pipeline.units.addresses import Skip
from pipeline.units.selection import Selection, parse_steps
from tests.pipeline.compute.plugins import Change, Everything, Norm, Relative, Step, Together, Total
from tests.pipeline.compute.stores import LAYERS, ingest, small_store, weights, write_adapter, write_full


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small_store(tmp_path_factory.mktemp("plan"))


def reasons(skips: tuple[Skip, ...], **where: object) -> set[str]:
    return {s.reason for s in skips if all(getattr(s, name) == value for name, value in where.items())}


def test_a_base_that_several_runs_share_is_measured_once(tmp_path: Path) -> None:
    for run in ("a", "b", "c"):
        write_full(tmp_path / "runs" / run / "checkpoint-0", weights(0))
        write_full(tmp_path / "runs" / run / "checkpoint-1", weights(ord(run)))
    planned = plan(ingest(tmp_path / "runs", tmp_path / "S.zarr"), [Everything(Norm())])
    assert planned.missing == 3 * (1 + 3)


def test_analyzers_that_ask_for_the_same_statistic_share_its_units(store: Store) -> None:
    once = plan(store, [Everything(Norm())]).missing
    assert plan(store, [Everything(Norm()), Everything(Norm(), Total())]).missing == once + 7


def test_inputs_are_planned_only_for_the_units_that_need_them(store: Store) -> None:
    planned = plan(store, [Everything(Relative())])
    jobs = [{stage.prepared.name: len(stage.jobs) for stage in level} for level in planned.levels]
    tuned, bases = 3 * 3 + 3 * 2, 3
    assert jobs == [{"test_norm": tuned + bases, "test_change": tuned}, {"test_relative": tuned}]


def test_an_input_is_not_planned_where_what_needs_it_is_stored(tmp_path: Path) -> None:
    store = small_store(tmp_path, steps=(10,))
    compute(store, [Everything(Relative())])
    for batch in (store.path / "statistics" / "test_norm").iterdir():
        if batch.is_dir():
            batch.rename(tmp_path / batch.name)  # somebody removed the inputs
    assert plan(Store.open(store.path), [Everything(Relative())]).missing == 0


def test_a_stored_input_counts_as_present_only_while_a_missing_unit_needs_it(tmp_path: Path) -> None:
    made = small_store(tmp_path)
    everything = Everything(Relative())
    compute(made, [Everything(Change())])
    before = plan(made, [everything])
    changes = sum(job.statistic.name == "test_relative" for job in before.jobs)
    assert before.present == changes  # the Change of each Relative
    compute(made, [everything])
    after = plan(made, [everything])
    assert (after.present, after.missing) == (changes, 0)  # the Relatives alone


def test_globs_choose_by_canonical_or_tensor_name_and_the_rest_is_listed(store: Store) -> None:
    planned = plan(
        store, [Everything(Norm())], Selection(include=("*up_proj*",), exclude=("model.layers.1.*",))
    )  # a tensor
    assert {job.matrix for job in planned.jobs if job.run != "runs/lora"} == {"layers.0.mlp.up_proj"}
    listed = {(s.matrix, s.reason) for s in planned.skips if s.run == "runs/full"}
    assert ("layers.0.mlp.down_proj", "not among those included (*up_proj*)") in listed
    assert ("layers.1.mlp.up_proj", "excluded by 'model.layers.1.*'") in listed


def test_runs_and_steps_choose_and_the_base_comes_along(store: Store) -> None:
    planned = plan(store, [Everything(Norm(), Step())], Selection(("runs/full",), steps=parse_steps("first,last")))
    of_norm = {(job.run, job.step) for job in planned.jobs if job.statistic.name == "test_norm"}
    assert of_norm == {("runs/full", 10), ("runs/full", 30), ("runs/base", 0)}
    pairs = [job for job in planned.jobs if job.statistic.name == "test_step"]
    assert {job.step for job in pairs} == {30}, "the previous step is the previous chosen one"


def test_an_unknown_run_names_the_nearest(store: Store) -> None:
    with pytest.raises(ParameterError, match="did you mean 'runs/full'"):
        plan(store, [Everything(Norm())], Selection(("runs/ful",)))


def test_another_base_can_be_given(store: Store) -> None:
    usual = plan(store, [Everything(Change())], Selection(("runs/full",)))
    moved = plan(store, [Everything(Change())], Selection(("runs/full",), bases={"runs/full": "runs/full@10"}))
    assert {job.step for job in moved.jobs} == {20, 30}
    assert not {job.key for job in usual.jobs} & {job.key for job in moved.jobs}
    assert reasons(moved.skips, run="runs/full", step=10) == {"is the base itself"}
    absent = plan(store, [Everything(Change())], Selection(("runs/full",), bases={"runs/full": "runs/full@15"}))
    assert not absent.jobs
    assert "its base 'runs/full@15' has no such step in the store (there are: 10, 20, 30)" in reasons(absent.skips)


def test_what_cannot_be_compared_is_listed_and_marked_as_wrong(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    write_full(root / "base", {**weights(0), "model.layers.1.mlp.up_proj.weight": np.ones((4, 4), np.float32)})
    tuned = weights(1)
    del tuned["model.layers.0.mlp.down_proj.weight"]
    tuned["model.layers.2.mlp.up_proj.weight"] = np.ones((8, 6), np.float32)
    write_full(root / "full" / "checkpoint-1", tuned)
    factors = {LAYERS[0].removesuffix(".weight"): (np.ones((2, 5), np.float32), np.ones((8, 2), np.float32))}
    write_adapter(root / "lora" / "checkpoint-1", factors, 4, 2)
    write_adapter(root / "orphan" / "checkpoint-1", factors, 4, 2)
    base = ("runs/base@0", "given")
    store = ingest(root, tmp_path / "S.zarr", {"runs/full": base, "runs/lora": base})
    planned = plan(store, [Everything(Change(), Norm())])
    pairs = [job for job in planned.jobs if job.statistic.name == "test_change"]
    assert [(job.run, job.matrix) for job in pairs] == [("runs/full", "layers.0.mlp.up_proj")]
    wrong = {(s.run, s.matrix): s.reason for s in planned.skips if s.wrong}
    places = ("layers.1.mlp.up_proj", "layers.2.mlp.up_proj", "layers.0.mlp.down_proj")  # other shape, new, absent
    assert {wrong["runs/full", name] for name in places} == {
        "runs/base@0, which it is compared with, has a counterpart of equal name and shape for 1 of 3 matrices: "
        "layers.1.mlp.up_proj is (8, 6) here and (4, 4) there"
    }
    assert "(8, 5), but its base runs/base@0 has (8, 6)" in wrong["runs/lora", "layers.0.mlp.up_proj"]
    assert reasons(planned.skips, run="runs/orphan", statistic="test_change") == {"it has no base"}


def test_runs_with_different_bases_stand_in_different_units(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    for base in ("base-a", "base-b"):
        write_full(root / base, weights(ord(base[-1])))
    for run in ("r1", "r2", "r3"):
        write_full(root / run / "checkpoint-1", weights(ord(run[-1])))
    on = {"runs/r1": "runs/base-a@0", "runs/r2": "runs/base-b@0", "runs/r3": "runs/base-a@0"}
    store = ingest(root, tmp_path / "S.zarr", {run: (base, "given") for run, base in on.items()})
    planned = plan(store, [Everything(Together())], Selection(include=("layers.0.mlp.up_proj",)))
    together = [job for job in planned.jobs if job.statistic.name == "test_together"]
    assert {tuple(m.run for m in job.members) for job in together} == {("runs/r1", "runs/r3"), ("runs/r2",)}


@dataclass(frozen=True)
class Priced(Statistic):
    """Costs what a test says: one second for a matrix of 48 entries."""

    name, version, scope = "priced", 1, "matrix"
    seconds: float = 1.0

    def cost(self, infos: tuple[MatrixInfo, ...]) -> Cost:  # type: ignore[override]
        return Cost(self.seconds, 1000, "cpu")

    def compute(self, unit: Unit, context: Context) -> Result:
        raise NotImplementedError


def test_groups_hold_one_shape_and_about_a_second(store: Store) -> None:
    groups = plan(store, [Everything(Priced(0.4))]).groups
    assert all(len({u.members[0].matrix.info.shape for u in g.units if u.members[0].matrix}) == 1 for g in groups)
    assert all(group.seconds <= 1.5 for group in groups)
    assert max(len(group.units) for group in groups) == 3
    assert {len(group.units) for group in plan(store, [Everything(Priced(100.0))]).groups} == {1}
    assert [g.seconds for g in groups] == sorted((g.seconds for g in groups), reverse=True)


def test_a_group_of_large_matrices_stays_within_its_bytes(store: Store) -> None:
    from dataclasses import replace

    jobs = plan(store, [Everything(Priced(0.0))]).jobs
    member = jobs[0].members[0]
    assert member.matrix is not None
    info = replace(member.matrix.info, shape=(2048, 2048))  # 32 MiB in float64
    large = [replace(job, members=(replace(member, matrix=replace(member.matrix, info=info)),)) for job in jobs]
    for group in group_units(large):
        assert len(group.units) * 8 * 2048 * 2048 <= GROUP_BYTES


class Synthetic:
    """The documents of a large store, without the store: 1000 checkpoints of 300 matrices."""

    def __init__(self, tmp_path: Path, checkpoints: int, matrices: int) -> None:
        from pipeline.archive.recipes import Dense

        self.real = Store.create(tmp_path / "S.zarr")
        headers = tuple(TensorHeader(f"t{i}", "float32", (64, 64), 16384) for i in range(matrices))
        self.layout_of_all = Layout(headers, tuple(MatrixSpec(h.name, (64, 64), Dense(h.name)) for h in headers))
        self.records = tuple(
            CheckpointRecord(
                "run", step, 0, "layout", tuple(f"{step:08x}{i:024x}" for i in range(matrices)), (), (), "", ""
            )
            for step in range(checkpoints)
        )

    def runs(self) -> tuple[RunRecord, ...]:
        return (RunRecord("run", base="run@0", base_kind="first_step"),)

    def checkpoints(self, run: str) -> tuple[CheckpointRecord, ...]:
        return self.records

    def layout(self, layout_digest: str) -> Layout:
        assert layout_digest == "layout"
        return self.layout_of_all

    def matrices(self, record: CheckpointRecord) -> tuple[BoundMatrix, ...]:
        return bind(record, self.layout_of_all).matrices

    def twins(self, record: CheckpointRecord) -> tuple[BoundMatrix, ...]:
        return ()

    def statistic(self, name: str) -> object:
        return self.real.statistic(name)


def test_a_thousand_checkpoints_are_planned_in_seconds(tmp_path: Path) -> None:
    synthetic = Synthetic(tmp_path, 250, 300)  # a quarter of the promise, so that the suite stays quick
    started = time.process_time()
    planned = plan(synthetic, [Everything(Norm(), Change())])  # type: ignore[arg-type]  # the part that a plan asks
    groups = planned.groups
    seconds = time.process_time() - started
    assert planned.missing == 300 * (250 + 249)
    assert sum(len(group.units) for group in groups) == planned.missing
    assert seconds < 20 / 4 * 1.5, f"{seconds:.1f} CPU s for a quarter of what should take 20 s"


def test_skips_of_a_store_are_never_said_twice(store: Store) -> None:
    planned = plan(store, [Everything()])
    assert len(planned.skips) == len(set(planned.skips))


def test_a_file_that_is_not_a_checkpoint_does_not_matter_to_the_plan(tmp_path: Path) -> None:
    write_full(tmp_path / "runs" / "a" / "checkpoint-1", weights(0))
    save_file({"bias": np.ones(4, np.float32)}, tmp_path / "runs" / "a" / "checkpoint-1" / "extra.safetensors")
    assert plan(ingest(tmp_path / "runs", tmp_path / "S.zarr"), [Everything(Norm())]).missing == 3


def test_the_rank_of_an_adapter_is_known_without_reading_it(tmp_path: Path) -> None:
    """A plan that took one rank for all adapters was wrong by a factor of three for the null of rank 64."""
    write_full(tmp_path / "runs" / "base", weights(0))
    for rank in (2, 3):
        factors = {
            name.removesuffix(".weight"): (np.ones((rank, 6), "f4"), np.ones((8, rank), "f4")) for name in LAYERS
        }
        write_adapter(tmp_path / "runs" / f"lora{rank}" / "checkpoint-1", factors, alpha=rank, rank=rank)
    planned = plan(ingest(tmp_path / "runs", tmp_path / "S.zarr"), [Everything(Norm())])
    known = {(job.run, m.matrix.info.rank) for job in planned.jobs for m in job.members if m.matrix is not None}
    assert {(str(run).rsplit("/", 1)[-1], rank) for run, rank in known} == {("base", None), ("lora2", 2), ("lora3", 3)}
