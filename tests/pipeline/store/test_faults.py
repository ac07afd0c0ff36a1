"""Killed, crowded out, or in two at a time: an ingest leaves a store that the next one completes."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from analyzers.errors import StoreError
from pipeline.store import Store, verify
from pipeline.store.documents import FILE
from tests.pipeline.store.samples import files_under, put

STEPS = 4
INGEST = f"""
import sys
import numpy as np
from pipeline.store import Store
from tests.pipeline.store.samples import put
from tests.pipeline.store.test_faults import archive_at
store = Store.open(sys.argv[1], "a")
print("ready", flush=True)
for step in range({STEPS}):
    put(store, archive_at(step), step=step)
    store.statistic("s").write([(f"{{step:032x}}", {{"x": np.arange(100.0) + step}})])
"""


def archive_at(step: int) -> dict[str, np.ndarray]:
    """Checkpoints with frozen and trained tensors, large and small."""
    frozen, trained = np.random.default_rng(0), np.random.default_rng(1 + step)
    return {
        "frozen": frozen.standard_normal((400, 400)),
        "trained": trained.standard_normal((1500, 400)),
        **{f"small.{i}": (trained if i % 2 else frozen).standard_normal((16, 16)) for i in range(40)},
    }


def content(path: Path) -> dict[object, object]:
    """What a reader sees: manifests, tensors by digest, results. Not the times, nor in which pack a tensor lies."""
    store = Store.open(path)
    seen: dict[object, object] = {}
    for checkpoint in store.checkpoints("run"):
        data = checkpoint.to_json()
        for name in ("ingested", "places", "document_digest"):
            data.pop(name, None)
        seen["manifest", checkpoint.step] = data
        for digest in checkpoint.digests:
            seen["tensor", digest] = store.read_tensor(digest or "").tobytes()
    table = store.statistic("s")
    for key, value in table.read(table.keys()).items():
        assert not isinstance(value, str)
        seen["result", key] = value["x"].tobytes()
    return seen


def start(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", INGEST, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def kill_and_complete(folder: Path, kills: int, seed: int) -> None:
    """Kills an ingest `kills` times at random moments, completes it, and compares with an undisturbed one."""
    draw = random.Random(seed)
    Store.create(folder / "calm.zarr")
    began = time.monotonic()
    with start(folder / "calm.zarr") as process:
        process.wait()
        assert process.returncode == 0
    lasted = time.monotonic() - began
    store = Store.create(folder / "S.zarr")
    for _ in range(kills):
        with start(store.path) as process:
            time.sleep(draw.uniform(0, 0.7 * lasted))
            process.send_signal(signal.SIGKILL)
        problems = [problem for problem in verify(store) if "tmp" not in problem.path]
        assert not problems, "whatever has its final name is whole, at any moment"
    with start(store.path) as process:
        process.wait()
        assert process.returncode == 0
    assert not verify(store)
    assert [path.name for path in (store.path / "tmp").iterdir()] == [FILE], "the leftovers are gone"
    assert content(store.path) == content(folder / "calm.zarr")


def test_an_ingest_killed_at_random_moments_completes_to_the_same_store(tmp_path: Path) -> None:
    kill_and_complete(tmp_path, kills=3, seed=0)


@pytest.mark.slow
def test_an_ingest_killed_often_completes_to_the_same_store(tmp_path: Path) -> None:
    kill_and_complete(tmp_path, kills=25, seed=1)


def test_two_processes_ingesting_the_same_archive_make_one_store(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "S.zarr")
    with start(store.path) as one, start(store.path) as two:
        assert (one.wait(), two.wait()) == (0, 0)
    assert not verify(store)
    assert [(c.step, c.revision) for c in store.checkpoints("run")] == [(step, 0) for step in range(STEPS)]
    large = [path for path in (store.path / "tensors").iterdir() if path.name != FILE]
    assert len(large) == 1 + STEPS, "each large tensor once, whoever wrote it"


def test_threads_share_one_store(store: Store) -> None:
    def work(step: int) -> None:
        put(store, archive_at(step), step=step)
        store.statistic("s").write([(f"{step:032x}", {"x": np.arange(3.0)})])

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(10)))
    assert [(c.step, c.revision) for c in store.checkpoints("run")] == [(step, 0) for step in range(10)]
    assert len(store.statistic("s").keys()) == 10
    assert not verify(store)


def test_a_tensor_written_but_not_yet_in_a_manifest_is_not_written_again(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "S.zarr")
    put(store, archive_at(0), step=0)
    for manifest in (store.path / "runs").glob("*/0.0"):
        shutil.rmtree(manifest)
    before = {path: path.stat().st_mtime_ns for path in files_under(store.path / "tensors")}
    packs = files_under(store.path / "packs")
    put(Store.open(store.path, "a"), archive_at(0), step=0)
    assert {path: path.stat().st_mtime_ns for path in files_under(store.path / "tensors")} == before
    assert files_under(store.path / "packs") == packs


@pytest.fixture
def tiny_disk() -> Iterator[Path]:
    """A file system of 4 MiB of its own."""
    folder = Path(tempfile.mkdtemp())
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(command, check=False).returncode:
        folder.rmdir()
        pytest.skip("mounting a small tmpfs needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
    folder.rmdir()


def test_a_full_disk_is_named_and_what_was_ingested_before_stays(tiny_disk: Path) -> None:
    store = Store.create(tiny_disk / "S.zarr")
    noise = np.random.default_rng(0)
    put(store, {"w": noise.standard_normal((300, 500))}, step=0)
    with pytest.raises(StoreError, match=r"S\.zarr.*disk is full.*free some space"):
        put(store, {"w": noise.standard_normal((2000, 500))}, step=1)
    with pytest.raises(StoreError, match="disk is full"):
        store.statistic("s").write([("a" * 32, {"x": noise.standard_normal(10**6)})])
    assert [path.name for path in (store.path / "tmp").iterdir()] == [FILE], "the half-written tensor is gone"
    again = Store.open(store.path, "a")
    assert [c.step for c in again.checkpoints("run")] == [0]
    assert not verify(again)
    put(again, {"w": noise.standard_normal((20, 50))}, step=2)


@pytest.mark.parametrize("stream_above", [2**20, 2**40])
def test_a_disk_that_fills_at_any_write_is_reported_once_as_such(
    store: Store, monkeypatch: pytest.MonkeyPatch, stream_above: int
) -> None:
    """The error of the store's disk is never taken for a tensor that cannot be read."""
    monkeypatch.setattr("pipeline.store.writing.STREAM_ABOVE", stream_above)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.store.tensors.create_array", full)
    with pytest.raises(StoreError, match="disk is full"):
        put(store, {"w": np.ones((600, 600))})


def test_ingesting_a_large_tensor_takes_little_memory(tmp_path: Path) -> None:
    """A tensor of 256 MiB goes in with little more than half of that in memory beside the interpreter."""
    code = f"""
from contextlib import contextmanager
from pathlib import Path
import numpy as np
from pipeline.archive.types import Checkpoint, Layout, TensorHeader
from pipeline.store import Store, ingest_checkpoint
header = TensorHeader("w", "float32", (4096, 16384), 4096 * 16384 * 4)
class Reader:
    def read(self, name): raise AssertionError("it is not read whole")
    def blocks(self, name, max_bytes):
        rows = max_bytes // (16384 * 4)
        for start in range(0, 4096, rows):
            yield np.random.default_rng(start).random((min(rows, 4096 - start), 16384), "f4")
@contextmanager
def opened(checkpoint):
    yield Reader()
def peak():
    # Not ru_maxrss: Linux carries the parent's over exec, and the parent is the whole test run.
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
store = Store.create({str(tmp_path / "S.zarr")!r})
before = peak()
checkpoint = Checkpoint("r", 0, "none", Path("/nowhere"), "f", (), (header,))
ingest_checkpoint(store, checkpoint, Layout((header,), ()), open_tensors=opened)
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    # A block of 32 MiB each in the reader, in Zarr's hands, compressed; the allocator keeps some more.
    assert int(done.stdout) * 1024 < 160 * 2**20, done.stdout
