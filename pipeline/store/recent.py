"""What a process has read last, kept within bounds: opened arrays and decoded chunks of packs.

A group of units reads neighbours of one pack, and several statistics the same matrix; Zarr's own way to each costs
milliseconds. Whatever is kept goes under the stamp of its file, so a file that is replaced is read anew.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
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
        with self._lock:
            if key not in self._kept and self._size(value) <= self._limit:
                self._kept[key] = value
                self._held += self._size(value)
                while self._held > self._limit:
                    self._held -= self._size(self._kept.popitem(last=False)[1])
        return value

    @property
    def held(self) -> int:
        """The size of all that is kept."""
        return self._held


_arrays: Recent[zarr.Array] = Recent(_ARRAYS, lambda _: 1)
_chunks: Recent[np.ndarray] = Recent(_CHUNK_BYTES, lambda chunk: chunk.nbytes)


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


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
