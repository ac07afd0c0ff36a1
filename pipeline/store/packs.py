"""Packs: the tensors under 1 MiB that one checkpoint brought, in one 1-D uint8 array (two files instead of hundreds).

A pack's attributes say what is in it, so a tensor is found by its digest without any manifest.
"""

from __future__ import annotations

import functools
import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analyzers.errors import DamageError
from pipeline.store.documents import REPAIR, damage
from pipeline.store.recent import read_bytes, remember
from pipeline.store.scratch import publish, scratch
from pipeline.store.tensors import create_array, logical_dtype, open_array, plain, tensor_digest

PACK_BELOW = 2**20
PACK_BYTES = 128 * 2**20
"""A pack is closed at this size, which bounds the memory of ingesting many small tensors."""
_CHUNK_BYTES = 2 * 2**20  # reading one small tensor decodes one chunk
_HEX = 32


@dataclass(frozen=True)
class Packed:
    """Where a tensor lies in a pack."""

    pack: str
    offset: int
    nbytes: int
    dtype: str
    shape: tuple[int, ...]


def write_pack(root: Path, tensors: Sequence[tuple[str, np.ndarray]]) -> dict[str, Packed]:
    """Writes (digest, values) pairs as a new pack, visible in one rename. Returns their places."""
    name = f"{time.time_ns():016x}-{secrets.token_hex(3)}"  # names sort by time: the newest are searched first
    parts = [plain(values).reshape(-1).view(np.uint8) for _, values in tensors]
    ends = np.cumsum([len(part) for part in parts])
    places = {
        digest: Packed(name, int(end) - values.nbytes, values.nbytes, values.dtype.name, values.shape)
        for (digest, values), end in zip(tensors, ends, strict=True)
    }
    itemsizes = {values.dtype.itemsize for _, values in tensors if values.nbytes}
    with scratch(root) as folder:
        array = create_array(
            folder / name,
            np.dtype(np.uint8),
            (int(ends[-1]) if len(ends) else 0,),
            _describe(places),
            _CHUNK_BYTES,
            typesize=max(itemsizes, default=1) if len(itemsizes) == 1 else 1,
        )
        if array.size:
            array[...] = np.concatenate(parts)
        publish(folder / name, root / "packs" / name)
    return places


def _describe(places: Mapping[str, Packed]) -> dict[str, Any]:
    """Columns, so that a thousand packs are read in a second."""
    dtypes = sorted({place.dtype for place in places.values()})
    return {
        "varve": "pack",
        "digests": "".join(places),
        "dtypes": dtypes,
        "dtype_index": [dtypes.index(place.dtype) for place in places.values()],
        "shapes": [list(place.shape) for place in places.values()],
        "offsets": [place.offset for place in places.values()],
        "nbytes": [place.nbytes for place in places.values()],
    }


def pack_contents(path: Path) -> dict[str, Packed]:
    """What lies in the pack at `path`, by digest."""
    attributes: Mapping[str, Any] = open_array(path).attrs.asdict()
    try:
        digests, dtypes = attributes["digests"], attributes["dtypes"]
        columns = zip(
            (digests[at : at + _HEX] for at in range(0, len(digests), _HEX)),
            attributes["offsets"],
            attributes["nbytes"],
            attributes["dtype_index"],
            attributes["shapes"],
            strict=True,
        )
        return {
            digest: Packed(path.name, offset, nbytes, dtypes[dtype], tuple(shape))
            for digest, offset, nbytes, dtype, shape in columns
        }
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise damage(path, error) from error


def read_packed(root: Path, digest: str, place: Packed) -> np.ndarray:
    """The tensor of this digest at `place`, in its logical dtype; DamageError where other bytes are there."""
    folder = root / "packs" / place.pack
    try:
        data = read_bytes(folder, place.offset, place.offset + place.nbytes)
        values = data.view(logical_dtype(place.dtype)).reshape(place.shape)
    except (ValueError, IndexError) as error:
        raise damage(folder, error) from error
    if tensor_digest(values) != digest:
        raise DamageError(f"{folder} does not have the bytes of tensor {digest} where its index names them: {REPAIR}")
    remember(root, digest, values, folder, place.offset)
    return values


class PackIndex:
    """digest → place, over all packs of a store. Packs are immutable, so each is read once; new ones when missed.

    `damage` has the packs whose index cannot be read: their tensors count as missing.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._places: dict[str, Packed] = {}
        self._read: set[str] = set()
        self._lock = threading.Lock()
        self.damage: dict[Path, DamageError] = {}

    def find(self, digest: str) -> Packed | None:
        """Where the tensor is; the newest packs are searched first."""
        with self._lock:
            found = self._places.get(digest)
            if found is not None and not (self._root / "packs" / found.pack).exists():
                self._forget(found.pack)  # a repair removed it, maybe in another process
                found = None
            if found is None:
                for _ in self._load():
                    if (found := self._places.get(digest)) is not None:
                        break
            return found

    def _forget(self, pack: str) -> None:
        self._places = {digest: place for digest, place in self._places.items() if place.pack != pack}

    def peek(self, digest: str) -> Packed | None:
        """As `find`, among the packs known as of the last `refresh`."""
        return self._places.get(digest)

    def refresh(self) -> None:
        """Reads the packs that are new."""
        with self._lock:
            for _ in self._load():
                pass

    def add(self, places: Mapping[str, Packed]) -> None:
        """Tells of a pack that was just written."""
        with self._lock:
            self._places.update(places)
            self._read.update(place.pack for place in places.values())

    def _load(self) -> Iterator[str]:
        names = {path.name for path in (self._root / "packs").iterdir() if path.name != "zarr.json"}
        for name in sorted(names - self._read, reverse=True):
            folder = self._root / "packs" / name
            try:
                self._places.update(pack_contents(folder))
            except DamageError as error:
                if folder.exists():
                    self.damage[folder] = error
            self._read.add(name)
            yield name


@functools.lru_cache(maxsize=8)
def pack_index(root: Path, identity: str) -> PackIndex:
    """One index per store and process, because workers open the store once per unit; `identity` tells re-creations."""
    return PackIndex(root)
