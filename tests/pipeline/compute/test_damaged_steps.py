"""A damaged checkpoint loses its own statistics only, and its cause is reported once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from analyzers.contract import Analyzer, Context, Derived, Result, Statistic, Unit, View
from pipeline.analysis.findings import skipped
from pipeline.analysis.intake import ingest_one, plan_intake
from pipeline.archive.scan import scan
from pipeline.compute.cluster import ThreadCluster
from pipeline.compute.plan import plan
from pipeline.compute.run import compute
from pipeline.report.view import StoreView
from pipeline.store import Store
from pipeline.store.content_findings import content_findings
from tests.pipeline.compute.plugins import Norm

RUN, NAMES = "x", ("a", "b", "c")


@dataclass(frozen=True)
class Moved(Statistic):
    """W_t − W of the reference, one entry of it: the entries of step t are t."""

    name, version, scope, against = "test_moved", 1, "pair", "previous"

    def inputs(self) -> tuple[Statistic, ...]:
        return (Norm(),)

    def compute(self, unit: Unit, context: Context) -> Result:
        one = unit.only
        assert one.matrix is not None and one.reference is not None
        return {"by": (one.matrix.dense()[0, 0] - one.reference.dense()[0, 0]).numpy()}


@dataclass(frozen=True)
class MovedTwice(Moved):
    """The same, two steps back."""

    name, against = "test_moved_twice", "previous:2"


@dataclass(frozen=True)
class MovedFromBase(Moved):
    """The same, from the base."""

    name, against = "test_moved_from_base", "base"


class All(Analyzer):
    name, version = "all", 1

    def statistics(self) -> tuple[Statistic, ...]:
        return (Norm(), Moved(), MovedTwice(), MovedFromBase())

    def derive(self, view: View) -> Derived:
        return Derived(view.dataset({}, ()))


def write(root: Path, steps: tuple[int, ...] = (0, 1, 2, 3, 4)) -> Path:
    """A run of which every checkpoint has two shards, a and b in the first and c in the second."""
    for step in steps:
        folder = root / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        shards = {"model-00001-of-00002.safetensors": ("a", "b"), "model-00002-of-00002.safetensors": ("c",)}
        for file, names in shards.items():
            noise = np.random.default_rng(step).standard_normal((6, 4)).astype(np.float32)
            noise[0, 0] = step
            save_file({f"{name}.weight": noise + NAMES.index(name) for name in names}, folder / file)
        weight_map = {f"{name}.weight": file for file, names in shards.items() for name in names}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return root


def spoil(folder: Path, name: str = "a") -> None:
    """Writes a NaN into a tensor of the first shard."""
    file = folder / "model-00001-of-00002.safetensors"
    tensors = {key: value.copy() for key, value in load_file(file).items()}
    tensors[f"{name}.weight"][2, 1] = np.nan
    save_file(tensors, file)


def ingested(root: Path, tmp_path: Path) -> Store:
    store = Store.create(tmp_path / "S.zarr")
    intake = plan_intake(store, scan(root))
    for checkpoint in intake.items:
        ingest_one(store, intake, checkpoint)
    return store


def by(view: StoreView, statistic: Statistic, name: str) -> dict[int, float]:
    read = {step: view.get(statistic, RUN, step, name) for step in range(5)}
    return {step: float(value["by"]) for step, value in read.items() if value is not None}


def lines(store: Store) -> list[str]:
    return [str(finding) for finding in skipped(plan(store, [All()]).skips)]


def notes(store: Store) -> list[str]:
    runs = store.runs()
    every = content_findings(store, runs, {run.id: store.checkpoints(run.id) for run in runs})
    return [str(one) for one in every if one.code == "previous_step"]


@pytest.mark.parametrize("damage", ["shard", "nan"])
def test_later_steps_are_compared_with_the_last_one_that_holds_the_matrix(tmp_path: Path, damage: str) -> None:
    root = write(tmp_path / RUN)
    if damage == "shard":
        (root / "checkpoint-2/model-00001-of-00002.safetensors").unlink()
    else:
        spoil(root / "checkpoint-2")
    store = ingested(root, tmp_path)
    with ThreadCluster(1) as cluster:
        assert compute(store, [All()], cluster).complete
    view = StoreView(store, [All()])
    assert by(view, Moved(), "a") == {1: 1, 3: 2, 4: 1}
    assert by(view, MovedTwice(), "a") == {3: 3, 4: 3}
    assert by(view, MovedFromBase(), "a") == {1: 1, 3: 3, 4: 4}
    assert by(view, Moved(), "c") == {1: 1, 2: 1, 3: 1, 4: 1}
    assert by(view, Moved(), "b") == ({1: 1, 3: 2, 4: 1} if damage == "shard" else {1: 1, 2: 1, 3: 1, 4: 1})
    assert len(lines(store)) == (0 if damage == "shard" else 1)  # a missing shard is listed with the files
    (note,) = notes(store)
    assert note.startswith("At step 3 of x, the step before is taken to be 1 for")


def test_nan_in_the_base_is_one_line_that_counts_what_follows(tmp_path: Path) -> None:
    root = write(tmp_path / RUN)
    spoil(root / "checkpoint-0")
    store = ingested(root, tmp_path)
    (line,) = lines(store)
    assert line.startswith("x, step 0: a: its tensor a.weight is not finite: it holds NaN or infinity (")
    assert "therefore also missing: " in line and "4 test_moved_from_base" in line


def test_a_checkpoint_that_cannot_be_read_at_all_is_passed_over_and_named(tmp_path: Path) -> None:
    root = write(tmp_path / RUN)
    for file in (root / "checkpoint-2").glob("*.safetensors"):
        file.write_bytes(b"no weights")
    store = ingested(root, tmp_path)
    with ThreadCluster(1) as cluster:
        assert compute(store, [All()], cluster).complete
    assert by(StoreView(store, [All()]), Moved(), "a") == {1: 1, 3: 2, 4: 1}
    assert notes(store) == ["Step 2 of x could not be read, so step 3 is compared with step 1."]
    assert lines(store) == []


def test_a_checkpoint_of_one_series_that_cannot_be_read_is_no_step_of_another_in_the_folder(tmp_path: Path) -> None:
    root = tmp_path / RUN
    root.mkdir()
    for series in ("actor", "critic"):
        for step in (200, 300):
            save_file({"a.weight": np.ones((3, 2), np.float32) * step}, root / f"{series}_step_{step}.safetensors")
    (root / "actor_step_100.safetensors").write_bytes(b"no weights")
    store = ingested(root, tmp_path)
    assert [text for text in notes(store) if "could not be read" in text] == [
        "Step 100 of x/actor could not be read, so its first step is now 200, which the run is compared with."
    ]


def test_a_new_head_is_no_problem(tmp_path: Path) -> None:
    root = write(tmp_path / RUN, (0, 1))
    file = root / "checkpoint-1/model-00001-of-00002.safetensors"
    tensors = {"score.weight": np.ones((2, 4), np.float32), **load_file(file)}
    save_file(tensors, file)
    weight_map = dict.fromkeys(tensors, file.name) | {"c.weight": "model-00002-of-00002.safetensors"}
    (root / "checkpoint-1/model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    store = ingested(root, tmp_path)
    assert [skip for skip in plan(store, [All()]).skips if "score" in (skip.matrix or "")]
    assert lines(store) == []
