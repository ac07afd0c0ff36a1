"""Small checkpoints in memory, and a reader of them that counts what is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from pipeline.archive.recipes import Dense
from pipeline.archive.types import Checkpoint, FileStamp, Layout, MatrixSpec, TensorHeader, Unmeasured
from pipeline.store import CheckpointRecord, Store, ingest_checkpoint

Tensors = Mapping[str, np.ndarray]


class MemoryReader:
    """What `open_tensors` gives, over arrays in memory. An exception in place of an array is raised."""

    def __init__(self, tensors: Mapping[str, np.ndarray | Exception], reads: Counter[str]) -> None:
        self.tensors = tensors
        self.reads = reads

    def read(self, name: str) -> np.ndarray:
        self.reads[name] += 1
        value = self.tensors[name]
        if isinstance(value, Exception):
            raise value
        return value

    def blocks(self, name: str, max_bytes: int) -> Iterator[np.ndarray]:
        value = self.read(name)
        rows = max(1, max_bytes // max(1, value.nbytes // len(value)))
        for start in range(0, len(value), rows):
            yield value[start : start + rows]


class MemoryArchive:
    """Opens any checkpoint with the same tensors; `reads` counts them."""

    def __init__(self, tensors: Mapping[str, np.ndarray | Exception]) -> None:
        self.tensors = tensors
        self.reads: Counter[str] = Counter()

    @contextmanager
    def __call__(self, checkpoint: Checkpoint) -> Iterator[MemoryReader]:
        yield MemoryReader(self.tensors, self.reads)


def header(name: str, value: np.ndarray) -> TensorHeader:
    return TensorHeader(name, value.dtype.name, value.shape, value.nbytes)


def layout_of(tensors: Tensors) -> Layout:
    """Every 2-D tensor is a matrix as it is; the others are unmeasured."""
    matrices = tuple(
        MatrixSpec(name, (value.shape[0], value.shape[1]), Dense(name), dtype=value.dtype.name)
        for name, value in tensors.items()
        if value.ndim == 2
    )
    rest = tuple(Unmeasured(name, f"{value.ndim}-D") for name, value in tensors.items() if value.ndim != 2)
    return Layout(tuple(header(name, value) for name, value in tensors.items()), matrices, rest)


def checkpoint_of(tensors: Tensors, run: str = "run", step: int = 10, mtime_ns: int = 1, **more: object) -> Checkpoint:
    folder = f"{run}/checkpoint-{step}"
    given: dict[str, object] = {
        "run": run,
        "step": step,
        "step_source": "name",
        "path": Path("/nowhere") / folder,
        "format": "safetensors",
        "files": (FileStamp(f"{folder}/model.safetensors", 1, mtime_ns),),
        "tensors": tuple(header(name, value) for name, value in tensors.items()),
    }
    return Checkpoint(**{**given, **more})  # type: ignore[arg-type]  # the fields are Checkpoint's own


def put(store: Store, tensors: Tensors, run: str = "run", step: int = 10, **more: object) -> CheckpointRecord:
    """Ingests tensors in memory as a checkpoint."""
    checkpoint = checkpoint_of(tensors, run, step, **more)  # type: ignore[arg-type]  # see checkpoint_of
    return ingest_checkpoint(store, checkpoint, layout_of(tensors), open_tensors=MemoryArchive(tensors))


def bytes_on_disk(path: Path) -> int:
    return sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())


def files_under(path: Path) -> list[Path]:
    return sorted(entry for entry in path.rglob("*") if entry.is_file())


def bits(array: np.ndarray) -> bytes:
    """The exact content: NaN payloads and signed zeros count."""
    return np.ascontiguousarray(array).tobytes()
