"""One checkpoint's tensors on their way into the store: hashed, written if new, small ones gathered into packs."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from analyzers.errors import VarveError
from pipeline.archive.types import TensorHeader
from pipeline.archive.unmeasured import is_parameter
from pipeline.store.documents import FILE
from pipeline.store.packs import PACK_BELOW, PACK_BYTES, Packed, write_pack
from pipeline.store.records import Container
from pipeline.store.scratch import publish, scratch
from pipeline.store.sketches import Sketch, all_finite
from pipeline.store.tensors import CHUNK_BYTES, TensorDigest, logical_dtype, plain, tensor_digest, write_tensor

if TYPE_CHECKING:
    from pipeline.store.store import Store

STREAM_ABOVE = 2 * CHUNK_BYTES
"""A larger tensor is read twice (hashed, then written if it is new) in blocks, and is never whole in memory."""


class Tensors(Protocol):
    """What `pipeline.archive.open_tensors` gives: values by name, whole or in row blocks."""

    def read(self, name: str) -> np.ndarray:
        """The whole tensor."""
        ...

    def blocks(self, name: str, max_bytes: int) -> Iterator[np.ndarray]:
        """Consecutive rows in blocks of at most `max_bytes`, or of one row."""
        ...


class UnreadableTensorError(Exception):
    """A source tensor could not be read; its text is the reason. It never leaves the ingest."""


class TensorWriter:
    """Collects the digests (by name) and places (by digest; None: an array of its own) of one checkpoint's tensors.

    `not_finite` are the names of tensors that hold NaN or infinity; `sketch` is of all parameters.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._small: dict[str, np.ndarray] = {}
        self._small_bytes = 0
        self.digests: dict[str, str] = {}
        self.places: dict[str, Packed | None] = {}
        self.not_finite: set[str] = set()
        self.sketch = Sketch()
        store.packs.refresh()

    def add(self, header: TensorHeader, tensors: Tensors) -> None:
        """Takes one tensor; UnreadableTensorError when the archive does not yield what its header announces."""
        if header.nbytes > STREAM_ABOVE and header.shape:
            digest = self._stream(header, tensors)
        else:
            values = _read(header, tensors)
            self._note(header, [values])
            digest = tensor_digest(values)
            if not self._find(digest):
                if header.nbytes < PACK_BELOW:
                    self._pack(digest, values)
                else:
                    self._write(digest, header, [values])
        self.digests[header.name] = digest

    def finish(self) -> None:
        """Writes the pack that is still open."""
        if self._small:
            packed = write_pack(self._store.path, list(self._small.items()))
            self._store.packs.add(packed)
            self.places.update(packed)
            self._small, self._small_bytes = {}, 0

    def containers(self, digests: Sequence[str | None]) -> tuple[Container, ...]:
        """Where the tensors of these digests are, grouped."""
        groups: dict[str | None, list[int]] = {}
        for index, digest in enumerate(digests):
            if digest is not None:
                packed = self.places[digest]
                groups.setdefault(packed.pack if packed else None, []).append(index)
        found = []
        for pack, members in groups.items():
            places = [self.places[digest] for index in members if (digest := digests[index]) is not None]
            packed_places = [place for place in places if place is not None]
            offsets, sizes = (tuple(p.offset for p in packed_places), tuple(p.nbytes for p in packed_places))
            kind, name = ("array", "tensors") if pack is None else ("pack", pack)
            found.append(Container(kind, name, tuple(members), offsets, sizes))
        return tuple(found)

    def _find(self, digest: str) -> bool:
        """Whether the tensor is stored, or about to be; notes its place."""
        if digest in self.places or digest in self._small:
            return True
        if (self._store.path / "tensors" / digest / FILE).exists():
            self.places[digest] = None
            return True
        packed = self._store.packs.peek(digest)
        if packed is not None:
            self.places[digest] = packed
        return packed is not None

    def _pack(self, digest: str, values: np.ndarray) -> None:
        if self._small_bytes + values.nbytes > PACK_BYTES:
            self.finish()
        self._small[digest] = values
        self._small_bytes += values.nbytes

    def _stream(self, header: TensorHeader, tensors: Tensors) -> str:
        running = TensorDigest(header.dtype, header.shape)

        def hashed() -> Iterator[np.ndarray]:
            for block in _blocks(header, tensors):
                running.update(plain(block))
                yield block

        self._note(header, hashed())
        digest = running.hexdigest()
        if not self._find(digest):
            self._write(digest, header, _blocks(header, tensors))
        return digest

    def _note(self, header: TensorHeader, blocks: Iterable[np.ndarray]) -> None:
        """Takes what the report says of values without reading them again. All blocks are consumed."""

        def checked() -> Iterator[np.ndarray]:
            for block in blocks:
                if not all_finite(block):
                    self.not_finite.add(header.name)
                yield block

        if is_parameter(header):
            self.sketch.add(header.name, math.prod(header.shape), checked())
        else:
            for _ in checked():
                pass

    def _write(self, digest: str, header: TensorHeader, blocks: Iterable[np.ndarray]) -> None:
        root = self._store.path
        with scratch(root) as folder:
            made = folder / secrets.token_hex(4)
            written = write_tensor(
                made, logical_dtype(header.dtype), header.shape, blocks, {"varve": "tensor", "digest": digest}
            )
            if written != digest:
                raise UnreadableTensorError("its values changed between two reads: the file is still being written")
            publish(made, root / "tensors" / digest)
        self.places[digest] = None


def _reason(error: Exception) -> str:
    """Our own errors explain themselves, others are prefixed with their type."""
    return str(error) if isinstance(error, VarveError) else f"{type(error).__name__}: {error}"


def _read(header: TensorHeader, tensors: Tensors) -> np.ndarray:
    try:
        values = tensors.read(header.name)
    except MemoryError:
        raise
    except Exception as error:  # whatever a damaged or hostile file provokes costs this tensor, and is reported
        raise UnreadableTensorError(_reason(error)) from error
    if values.dtype.name != header.dtype or values.shape != header.shape:
        raise UnreadableTensorError(
            f"it is {values.dtype.name} {list(values.shape)}, but its header says {header.dtype} {list(header.shape)}"
        )
    return values


def _blocks(header: TensorHeader, tensors: Tensors) -> Iterator[np.ndarray]:
    """The tensor's row blocks, checked; the archive's errors and the store's are kept apart."""
    rows = 0
    blocks = iter(tensors.blocks(header.name, CHUNK_BYTES))
    while True:
        try:
            block = next(blocks, None)
        except MemoryError:
            raise
        except Exception as error:  # see _read
            raise UnreadableTensorError(_reason(error)) from error
        if block is None:
            break
        if block.dtype.name != header.dtype or block.shape[1:] != header.shape[1:]:
            raise UnreadableTensorError(
                f"a block is {block.dtype.name} {list(block.shape)}, but the header says "
                f"{header.dtype} {list(header.shape)}"
            )
        rows += len(block)
        yield block
    if rows != header.shape[0]:
        raise UnreadableTensorError(f"only {rows} of its {header.shape[0]} rows arrived")
