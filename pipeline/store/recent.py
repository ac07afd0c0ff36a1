"""What a process has read last, kept within bounds: opened arrays, decoded chunks of packs, small tensors.

A group of units reads neighbours of one pack, and several statistics the same matrix; Zarr's own way to each costs
milliseconds. Whatever is kept goes under the stamp of its file, so a file that is replaced is read anew.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import zarr

from pipeline.store.clock import spend
from pipeline.store.documents import FILE
from pipeline.store.tensors import chunk_files, open_array, read_rows, row_blocks

Kept = TypeVar("Kept")

_ARRAYS = 256
_CHUNK_BYTES = 64 * 2**20
_TENSOR_BYTES = 32 * 2**20
_SMALL = 2**16
"""Bytes of a tensor up to which finding it costs more than its share of what is kept."""

Stamp = tuple[int, int, int]


class Recent(Generic[Kept]):
    """The values used last, of at most `limit` together by `size`. For many threads: two may make the same value."""

    def __init__(self, limit: int, size: Callable[[Kept], int]) -> None:
        self._limit = limit
        self._size = size
        self._kept: OrderedDict[Hashable, Kept] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Kept]) -> Kept:
        """The value of `key`, made when it is not kept."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        value = make()
        self.put(key, value)
        return value

    def put(self, key: Hashable, value: Kept) -> None:
        """Keeps a value, in place of any that the key had."""
        with self._lock:
            if key in self._kept:
                self._held -= self._size(self._kept.pop(key))
            if self._size(value) <= self._limit:
                self._kept[key] = value
                self._held += self._size(value)
                while self._held > self._limit:
                    self._held -= self._size(self._kept.popitem(last=False)[1])

    def peek(self, key: Hashable) -> Kept | None:
        """The value of `key` where it is kept."""
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key]

    def forget(self) -> None:
        """Drops all that is kept."""
        with self._lock:
            self._kept.clear()
            self._held = 0

    @property
    def held(self) -> int:
        """The size of all that is kept."""
        return self._held


_arrays: Recent[zarr.Array] = Recent(_ARRAYS, lambda _: 1)
_chunks: Recent[np.ndarray] = Recent(_CHUNK_BYTES, lambda chunk: chunk.nbytes)


@dataclass(frozen=True)
class _Small:
    """A tensor whose digest was checked, with the files that it was read from as they were then."""

    values: np.ndarray
    files: tuple[tuple[Path, Stamp], ...]


_tensors: Recent[_Small] = Recent(_TENSOR_BYTES, lambda small: small.values.nbytes + 1000)


def recalled(root: Path, digest: str) -> np.ndarray | None:
    """A new copy of a small tensor of the store at `root`, where it was read before and its files have not changed."""
    small = _tensors.peek((root, digest))
    if small is None or any(_stamp(file) != stamp for file, stamp in small.files):
        return None
    return small.values.copy()


def remember(root: Path, digest: str, values: np.ndarray, path: Path, start: int) -> None:
    """Keeps a copy of a small tensor, just read from bytes `start`.. of the array at `path` and checked."""
    if values.nbytes > _SMALL:
        return
    array = opened(path)
    blocks = row_blocks(array, start, start + values.nbytes)
    chunks = [chunk_files(path, array, first // array.chunks[0])[0] for first, _ in blocks]
    files = (path / FILE, *chunks)
    stamps = [(file, stamp) for file in files if (stamp := _stamp(file)) is not None]
    if len(stamps) == len(files):
        _tensors.put((root, digest), _Small(values.copy(), tuple(stamps)))


def forget() -> None:
    """Drops every chunk and tensor that is kept: for a process that goes on with something else."""
    _chunks.forget()
    _tensors.forget()


def opened(path: Path) -> zarr.Array:
    """`open_array`, of an array that never changes. StoreError as there."""
    stamp = _stamp(path / FILE)
    return open_array(path) if stamp is None else _arrays.get((path, stamp), lambda: open_array(path))


def read_bytes(path: Path, start: int, stop: int) -> np.ndarray:
    """Bytes start..stop of the 1-D uint8 array at `path`, a new array. StoreError names a damaged chunk."""
    array = opened(path)
    rows = array.chunks[0]
    out = np.empty(stop - start, np.uint8)
    for first, last in row_blocks(array, start, stop):
        index = first // rows
        chunk = _chunk(path, array, index)
        with spend("copy"):
            out[first - start : last - start] = chunk[first - index * rows : last - index * rows]
    return out


def _chunk(path: Path, array: zarr.Array, index: int) -> np.ndarray:
    def decode() -> np.ndarray:
        first = index * array.chunks[0]
        return read_rows(path, array, first, min(first + array.chunks[0], array.shape[0]))

    stamp = _stamp(chunk_files(path, array, index)[0])
    return decode() if stamp is None else _chunks.get((path, index, stamp), decode)


def _stamp(file: Path) -> Stamp | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
