"""How the store stands 1000 checkpoints × 300 small matrices: `python tests/benchmarks/scale_store.py [checkpoints]`.

Prints files, bytes and seconds of: ingest, binding all recipes, one statistic written per checkpoint, opening it,
reading it whole, compacting it.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from pipeline.archive.recipes import Dense
from pipeline.archive.types import Checkpoint, FileStamp, Layout, MatrixSpec, Run, TensorHeader
from pipeline.store import Store, ingest_checkpoint, record_run

MATRICES, SIDE = 300, 16


class Synthetic:
    """The tensors of one synthetic checkpoint; every other matrix is frozen."""

    def __init__(self, step: int) -> None:
        self.step = step

    def read(self, name: str) -> np.ndarray:
        """A matrix drawn from its name and, unless frozen, its step."""
        index = int(name.split(".")[1])
        return np.random.default_rng((index, self.step * (index % 2))).standard_normal((SIDE, SIDE), dtype=np.float32)

    def blocks(self, name: str, max_bytes: int) -> Iterator[np.ndarray]:
        """The matrix in one block."""
        yield self.read(name)


@contextmanager
def open_synthetic(checkpoint: Checkpoint) -> Iterator[Synthetic]:
    """The reader of a synthetic checkpoint."""
    yield Synthetic(checkpoint.step)


def synthetic_layout(matrices: int = MATRICES) -> Layout:
    """Square float32 matrices, one per layer."""
    names = [f"layers.{index}.weight" for index in range(matrices)]
    headers = tuple(TensorHeader(name, "float32", (SIDE, SIDE), 4 * SIDE**2) for name in names)
    return Layout(headers, tuple(MatrixSpec(name, (SIDE, SIDE), Dense(name), layer=i) for i, name in enumerate(names)))


def synthetic_checkpoint(step: int, layout: Layout) -> Checkpoint:
    """A checkpoint of the run "synthetic" that only `open_synthetic` can read."""
    stamp = FileStamp(f"synthetic/checkpoint-{step}/model.safetensors", 1, step)
    path = Path(f"/nowhere/synthetic/checkpoint-{step}")
    return Checkpoint("synthetic", step, "name", path, "safetensors", (stamp,), layout.tensors)


def statistic_values(key: str) -> dict[str, np.ndarray]:
    """A spectrum and a few scalars."""
    rng = np.random.default_rng(int(key[:8], 16))
    scalars = {f"scalar_{index}": np.float64(value) for index, value in enumerate(rng.standard_normal(6))}
    return {"sigma": rng.standard_normal(SIDE), "n_tail": np.int64(7), "full_rank": np.bool_(True), **scalars}


def files_under(path: Path) -> int:
    """Number of files (folders not counted)."""
    return sum(1 for entry in path.rglob("*") if entry.is_file())


def main(checkpoints: int) -> None:
    """Builds the store and prints what it costs."""
    root = Path(tempfile.mkdtemp(prefix="varve-scale-"))
    store = Store.create(root / "S.zarr")
    layout = synthetic_layout()
    record_run(store, Run("synthetic", Path("/nowhere/synthetic"), ()))

    def now() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()

    def timed(what: str, since: tuple[float, float]) -> tuple[float, float]:
        wall, cpu = now()
        print(f"{what:<46}{wall - since[0]:8.2f} s {cpu - since[1]:8.2f} CPU s", flush=True)
        return now()

    at = now()
    for step in range(checkpoints):
        ingest_checkpoint(store, synthetic_checkpoint(step, layout), layout, open_tensors=open_synthetic)
    at = timed(f"ingest of {checkpoints} × {MATRICES}", at)
    for step in range(checkpoints):
        ingest_checkpoint(store, synthetic_checkpoint(step, layout), layout, open_tensors=open_synthetic)
    at = timed("ingest again, nothing new", at)
    store = Store.open(store.path, "a")
    records = store.checkpoints("synthetic")
    at = timed("open, read all manifests", at)
    keys = [[matrix.key for matrix in store.matrices(record)] for record in records]
    at = timed("bind all recipes", at)
    table = store.statistic("spectrum")
    seen: set[str] = set()
    for of_checkpoint in keys:
        new = [key for key in of_checkpoint if key not in seen]
        seen.update(new)
        table.write([(key, statistic_values(key)) for key in new], provenance={"version": 1})
    at = timed("statistic written, one batch per checkpoint", at)
    folder = store.path / "statistics" / "spectrum"
    print(f"{'files of the statistic':<46}{files_under(folder):8d}")
    print(f"{'files of the store':<46}{files_under(store.path):8d}")
    at = now()
    table = Store.open(store.path).statistic("spectrum")
    assert len(table.keys()) == len(seen)
    at = timed(f"open the statistic ({len(seen)} keys)", at)
    found = table.read(seen)
    assert len(found) == len(seen)
    at = timed("read all of it", at)
    table.read(seen, ["scalar_0"])
    at = timed("read one scalar of it", at)
    store.statistic("spectrum").compact()
    at = timed("compact", at)
    print(f"{'files of the statistic':<46}{files_under(folder):8d}")
    at = now()
    table = Store.open(store.path).statistic("spectrum")
    at = timed("open the compacted statistic", at)
    table.read(seen, ["scalar_0"])
    at = timed("read one scalar of it", at)
    shutil.rmtree(root)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
