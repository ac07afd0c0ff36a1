"""Checkpoints go in once, whole, and what is already there is neither read nor written again."""

from __future__ import annotations

import fcntl
import os
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from analyzers.errors import ArchiveError, StoreError
from pipeline.archive.recipes import Dense
from pipeline.archive.types import FileStamp, MatrixSpec, Problem, Run
from pipeline.store import CheckpointRecord, Store, ingest_checkpoint, mark_gone, record_run, verify
from pipeline.store.documents import FILE
from pipeline.store.packs import pack_index
from tests.pipeline.store.samples import (
    MemoryArchive,
    bits,
    bytes_on_disk,
    checkpoint_of,
    files_under,
    layout_of,
    put,
)

RNG = np.random.default_rng(0)
LARGE = RNG.standard_normal((600, 600)).astype(np.float32)
SMALL = RNG.standard_normal((8, 4)).astype(np.float32)
MIXED = {
    "large": LARGE,
    "small": SMALL,
    "bf16": LARGE.astype(ml_dtypes.bfloat16),
    "fp8": SMALL.astype(ml_dtypes.float8_e4m3fn),
    "empty": np.zeros((0, 7), np.float32),
    "scalar": np.array(3.5),
    "steps": np.arange(5),
}


def tensors_in(store: Store) -> int:
    return sum(1 for path in (store.path / "tensors").iterdir() if path.name != FILE)


def test_every_tensor_comes_back_bit_for_bit(store: Store) -> None:
    record = put(store, MIXED)
    reader = Store.open(store.path)
    assert reader.checkpoints("run") == (record,)
    digests = reader.digests(record)
    for name, value in MIXED.items():
        back = reader.read_tensor(digests[name] or "")
        assert (back.dtype, back.shape, bits(back)) == (value.dtype, value.shape, bits(value)), name
        assert reader.shape_of(digests[name] or "") == value.shape
    assert tensors_in(store) == 1, "only the float32 tensor has a mebibyte"
    assert np.array_equal(reader.read_tensor(digests["large"] or "", (3, 9)), LARGE[3:9])
    assert np.array_equal(reader.read_tensor(digests["small"] or "", (3, 9)), SMALL[3:9])


def test_an_unchanged_checkpoint_is_not_read_again_and_rehash_reads_it(store: Store) -> None:
    archive, checkpoint, layout = MemoryArchive(MIXED), checkpoint_of(MIXED), layout_of(MIXED)
    first = ingest_checkpoint(store, checkpoint, layout, open_tensors=archive)
    before = {path: path.stat().st_mtime_ns for path in files_under(store.path)}
    archive.reads.clear()
    assert ingest_checkpoint(store, checkpoint, layout, open_tensors=archive) == first
    assert not archive.reads
    assert {path: path.stat().st_mtime_ns for path in files_under(store.path)} == before
    assert ingest_checkpoint(store, checkpoint, layout, rehash=True, open_tensors=archive) == first
    assert set(archive.reads) == set(MIXED)


def test_a_touched_file_with_the_same_content_is_read_once_and_makes_no_revision(store: Store) -> None:
    put(store, MIXED, mtime_ns=1)
    assert put(store, MIXED, mtime_ns=2).revision == 0
    archive = MemoryArchive(MIXED)
    ingest_checkpoint(store, checkpoint_of(MIXED, mtime_ns=2), layout_of(MIXED), open_tensors=archive)
    assert not archive.reads


def test_a_rewritten_step_gets_a_revision_and_the_newest_is_shown(store: Store) -> None:
    put(store, {"w": SMALL}, step=10, mtime_ns=1)
    put(store, {"w": SMALL}, step=20, mtime_ns=1)
    again = put(store, {"w": SMALL + 1}, step=10, mtime_ns=2)
    assert [(c.step, c.revision) for c in store.checkpoints("run")] == [(10, 1), (20, 0)]
    assert store.checkpoints("run")[0] == again
    assert [record.revision for record in store.revisions("run", 10)] == [0, 1]
    back = put(store, {"w": SMALL}, step=10, mtime_ns=1)
    assert back.revision == 2, "restored from a backup, old mtime and all: the newest is what the archive has now"


def test_a_frozen_tensor_is_stored_once(store: Store) -> None:
    put(store, {"frozen": LARGE, "small": SMALL, "trained": LARGE + 1}, step=0)
    before = bytes_on_disk(store.path)
    put(store, {"frozen": LARGE, "small": SMALL, "trained": LARGE + 2}, step=1)
    added = bytes_on_disk(store.path) - before
    alone = bytes_on_disk(store.path / "tensors") / 3
    assert tensors_in(store) == 3
    # The second checkpoint costs its one new tensor (within 20 %: lz4 packs them differently) and a manifest.
    assert added < 1.2 * alone + 4096
    put(store, {"frozen": LARGE, "small": SMALL, "trained": LARGE + 2}, run="other", step=7)
    assert len(files_under(store.path / "packs")) == 3, "one pack, with its zarr.json and the room's"


def test_a_tensor_equal_to_another_of_its_checkpoint_is_stored_once(store: Store) -> None:
    record = put(store, {"a": LARGE, "b": LARGE.copy(), "c": SMALL, "d": SMALL.copy()})
    assert tensors_in(store) == 1
    assert record.digests[0] == record.digests[1] and record.digests[2] == record.digests[3]
    assert [m.spec.name for m in store.matrices(record)] == ["a", "c"]
    assert [(u.tensor, u.reason) for u in store.unmeasured(record)] == [("b", "tied to a"), ("d", "tied to c")]


def test_many_small_tensors_are_split_over_packs_of_bounded_size(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.store.writing.PACK_BYTES", 1000)
    tensors = {f"t{index}": RNG.standard_normal(50) for index in range(10)}  # 400 bytes each
    record = put(store, tensors)
    assert len(record.places) == 5
    pack_index.cache_clear()  # as a new process finds them, whichever it asks for first
    for name, digest in sorted(store.digests(record).items(), key=lambda item: item[0] != "t5"):
        assert np.array_equal(Store.open(store.path).read_tensor(digest or ""), tensors[name])


def test_a_large_tensor_streams_in_blocks(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.store.writing.STREAM_ABOVE", 2**20)
    monkeypatch.setattr("pipeline.store.writing.CHUNK_BYTES", 100_000)
    archive = MemoryArchive({"w": LARGE})
    record = ingest_checkpoint(store, checkpoint_of({"w": LARGE}), layout_of({"w": LARGE}), open_tensors=archive)
    assert archive.reads["w"] == 2, "hashed, then written"
    assert np.array_equal(store.read_tensor(record.digests[0] or ""), LARGE)
    monkeypatch.undo()
    assert put(store, {"w": LARGE}, step=11).digests == record.digests, "however it is read, it has one digest"


def test_a_tensor_that_cannot_be_read_costs_itself(store: Store) -> None:
    archive = MemoryArchive({"good": SMALL, "bad": ArchiveError("the file ends at byte 7"), "odd": SMALL[:2]})
    listed = {"good": SMALL, "bad": SMALL, "odd": SMALL}
    record = ingest_checkpoint(store, checkpoint_of(listed), layout_of(listed), open_tensors=archive)
    assert [m.spec.name for m in store.matrices(record)] == ["good"]
    bad, odd = record.problems
    assert bad.tensor == "bad" and "byte 7" in bad.reason
    assert odd.tensor == "odd" and "[2, 4]" in odd.reason and "[8, 4]" in odd.reason
    assert {u.tensor for u in store.unmeasured(record)} == {"bad", "odd"}
    assert store.digests(Store.open(store.path).checkpoints("run")[0])["bad"] is None


def test_a_checkpoint_of_which_nothing_can_be_read_is_not_recorded(store: Store) -> None:
    archive = MemoryArchive({"w": OSError(5, "Input/output error")})
    with pytest.raises(ArchiveError, match=r"none of the 1 tensors.*Input/output"):
        ingest_checkpoint(store, checkpoint_of({"w": SMALL}), layout_of({"w": SMALL}), open_tensors=archive)
    assert not store.has_run("run")


def test_a_checkpoint_without_tensors_is_recorded(store: Store) -> None:
    assert put(store, {}).digests == ()
    assert Store.open(store.path).checkpoints("run")[0].step == 10


def real_file(folder: Path, content: bytes = b"1234") -> FileStamp:
    file = folder / "run" / "checkpoint-10" / "model.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    status = file.stat()
    return FileStamp("run/checkpoint-10/model.safetensors", status.st_size, status.st_mtime_ns)


def test_a_file_that_changes_while_it_is_read_is_not_recorded(store: Store, tmp_path: Path) -> None:
    stamp = real_file(tmp_path)
    checkpoint = checkpoint_of({"w": SMALL}, path=tmp_path / "run" / "checkpoint-10", files=(stamp,))

    class Changing(MemoryArchive):
        def __call__(self, checkpoint):  # type: ignore[no-untyped-def,override]  # a context manager of a reader
            real_file(tmp_path, b"123456789")
            return super().__call__(checkpoint)

    with pytest.raises(ArchiveError, match=r"changed while it was read.*size 4 → 9"):
        ingest_checkpoint(store, checkpoint, layout_of({"w": SMALL}), open_tensors=Changing({"w": SMALL}))
    assert not store.has_run("run")
    with pytest.raises(ArchiveError, match="changed since it was listed"):
        ingest_checkpoint(store, checkpoint, layout_of({"w": SMALL}), open_tensors=MemoryArchive({"w": SMALL}))


def test_a_new_layout_of_unchanged_files_is_recorded_without_reading_them(store: Store) -> None:
    put(store, {"qkv": SMALL})
    layout = layout_of({"qkv": SMALL})
    halves = tuple(MatrixSpec(n, (4, 4), Dense("qkv", (("slice", 0, a, a + 4, 1),))) for n, a in (("q", 0), ("k", 4)))
    archive = MemoryArchive({"qkv": SMALL})
    checkpoint = checkpoint_of({"qkv": SMALL})
    record = ingest_checkpoint(store, checkpoint, replace(layout, matrices=halves), open_tensors=archive)
    assert not archive.reads and record.revision == 1
    assert [m.spec.name for m in store.matrices(store.checkpoints("run")[0])] == ["q", "k"]


def root_of(run: str, tensors: dict[str, np.ndarray], step: int) -> dict[str, object]:
    return {"path": Path("/nowhere") / run, "files": (FileStamp(f"{run}/model.safetensors", 1, 5),), "step": step}


def test_an_output_root_that_repeats_the_last_step_is_its_alias(store: Store) -> None:
    put(store, {"w": SMALL}, step=10)
    last = put(store, {"w": SMALL + 1}, step=20)
    root = checkpoint_of({"w": SMALL + 1}, **root_of("run", {}, 21))  # type: ignore[arg-type]  # Checkpoint's fields
    archive, layout = MemoryArchive({"w": SMALL + 1}), layout_of({"w": SMALL})
    for _ in range(2):
        record = ingest_checkpoint(store, root, layout, open_tensors=archive)
        assert (record.step, record.digests, len(record.aliases)) == (20, last.digests, 1)
    assert archive.reads["w"] == 1, "the alias is remembered with its files"
    assert [c.step for c in store.checkpoints("run")] == [10, 20]


def test_an_output_root_with_weights_of_its_own_is_a_step_of_its_own(store: Store) -> None:
    put(store, {"w": SMALL}, step=10)
    root = checkpoint_of({"w": SMALL + 2}, **root_of("run", {}, 21))  # type: ignore[arg-type]  # Checkpoint's fields
    ingest_checkpoint(store, root, layout_of({"w": SMALL}), open_tensors=MemoryArchive({"w": SMALL + 2}))
    assert [c.step for c in store.checkpoints("run")] == [10, 21]


def test_two_steps_with_equal_weights_stay_two_checkpoints(store: Store) -> None:
    """A frozen run is measured at every step: equal content alone makes no alias."""
    for step in (10, 20):
        put(store, {"w": SMALL}, step=step)
        path, stamp = Path(f"/nowhere/flat/step{step}.pt"), FileStamp(f"flat/step{step}.pt", 1, 1)
        put(store, {"w": SMALL}, run="flat", step=step, path=path, files=(stamp,))
    assert [c.step for c in store.checkpoints("run")] == [10, 20]
    assert [c.step for c in store.checkpoints("flat")] == [10, 20]


def run_of(run_id: str = "run", **more: object) -> Run:
    return Run(**{"id": run_id, "path": Path("/nowhere") / run_id, "checkpoints": (), **more})  # type: ignore[arg-type]


def test_a_default_base_never_moves_by_itself(store: Store) -> None:
    assert record_run(store, run_of()).base is None
    assert record_run(store, run_of(), "base@0", "sibling").base == "base@0"
    kept = record_run(store, run_of(), "other@0", "hf_cache")
    assert (kept.base, kept.base_kind) == ("base@0", "sibling")
    assert record_run(store, run_of()).base == "base@0"
    assert record_run(store, run_of(), "other@0", "given", force=True).base == "other@0"


def test_a_run_keeps_its_metrics_and_problems(store: Store) -> None:
    put(store, {"w": SMALL})
    problem = Problem("run/x.pt", "truncated")
    record_run(store, run_of(metrics=({"step": 1, "loss": float("nan")},)), problems=(problem,))
    kept = record_run(Store.open(store.path, "a"), run_of())
    assert kept.metrics[0]["step"] == 1 and np.isnan(kept.metrics[0]["loss"])
    assert Store.open(store.path).run("run").problems == ()


def test_two_archives_with_one_run_id_are_not_mixed(store: Store, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    record_run(store, run_of(path=tmp_path / "one"))
    with pytest.raises(StoreError, match=r"'run'.*one.*still exists.*two.*--name.*--store"):
        record_run(store, run_of(path=tmp_path / "two"))
    (tmp_path / "one").rmdir()
    assert record_run(store, run_of(path=tmp_path / "two")).source == str(tmp_path / "two"), "an archive may move"


def test_a_checkpoint_deleted_from_the_archive_stays_marked(store: Store) -> None:
    for step in (10, 20, 30):
        put(store, {"w": SMALL + step}, step=step)
    assert [record.step for record in mark_gone(store, "run", [10, 30])] == [20]
    assert mark_gone(store, "run", [10, 30]) == ()
    assert [record.source_gone for record in Store.open(store.path).checkpoints("run")] == [False, True, False]
    assert put(store, {"w": SMALL + 20}, step=20).source_gone is False, "it is back"
    assert not verify(store)


def test_progress_names_each_tensor_with_its_bytes(store: Store) -> None:
    told: list[tuple[str, int]] = []
    archive, layout = MemoryArchive(MIXED), layout_of(MIXED)
    ingest_checkpoint(store, checkpoint_of(MIXED), layout, lambda *what: told.append(what), open_tensors=archive)
    assert told == [(name, value.nbytes) for name, value in MIXED.items()]


def test_ten_files_or_fewer_hold_three_hundred_small_matrices(store: Store) -> None:
    before = len(files_under(store.path))
    record: CheckpointRecord = put(store, {f"layers.{i}": RNG.standard_normal((16, 16)) for i in range(300)})
    assert len(store.matrices(record)) == 300
    assert len(files_under(store.path)) - before <= 5, "pack (2), layout, run, manifest"


def test_whoever_holds_a_lock_on_a_readable_folder_delays_nobody(store: Store) -> None:
    record_run(store, run_of())
    for folder in (store.path, store.path / "runs", store.run_folder("run")):
        holder = os.open(folder, os.O_RDONLY)
        fcntl.flock(holder, fcntl.LOCK_EX)
        record_run(store, run_of(), base="other")
        os.close(holder)
