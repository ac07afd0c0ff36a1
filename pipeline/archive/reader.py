"""Values of a checkpoint's tensors, read on request: `with open_tensors(checkpoint) as tensors: tensors.read(name)`.

Files are read, not mapped: a file that is cut short meanwhile is an ArchiveError, not a dead process.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np

from analyzers.errors import ArchiveError
from pipeline.archive.dtypes import NUMPY
from pipeline.archive.formats import scan
from pipeline.archive.formats.contents import BytePlace, FileContents
from pipeline.archive.guarded import open_regular
from pipeline.archive.types import Checkpoint, TensorHeader
from pipeline.archive.zip_members import open_member

# A strided read takes the whole span of bytes when the span is short or mostly wanted.
SHORT_SPAN = 1 << 20
WASTE = 4


def open_tensors(checkpoint: Checkpoint) -> TensorReader:
    """A reader of the checkpoint's values, to be used as a context manager.

    Headers are read again and compared: ArchiveError when the file has changed since it was listed.
    """
    contents = scan(checkpoint.path, checkpoint.format)
    for listed in checkpoint.tensors:
        place = contents.places.get(listed.name)
        if place is None or place.header != listed:
            now = "gone" if place is None else f"{place.header.dtype} {list(place.header.shape)}"
            raise ArchiveError(
                f"{checkpoint.path}: {listed.name}: was {listed.dtype} {list(listed.shape)} when it was listed and is "
                f"now {now}: the file has changed; run the command again"
            )
    return TensorReader(checkpoint.path, contents)


class TensorReader(AbstractContextManager["TensorReader"]):
    """Reads tensors by name, whole or in row blocks. Not for several threads at once: open one each."""

    def __init__(self, path: Path, contents: FileContents) -> None:
        self.path = path
        self._contents = contents
        self._open = ExitStack()
        self._files: dict[tuple[Path, str | None], IO[bytes]] = {}

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the files; reading again opens them anew."""
        self._open.close()
        self._files.clear()

    @property
    def headers(self) -> tuple[TensorHeader, ...]:
        """All tensors that can be read, in file order."""
        return tuple(place.header for place in self._contents.places.values())

    @property
    def tied(self) -> tuple[tuple[str, ...], ...]:
        """Groups of names that share one storage, shape and strides: equal without reading them."""
        return self._contents.tied

    def read(self, name: str) -> np.ndarray:
        """The whole tensor, a new C-contiguous array of its shape in its storage dtype (ml_dtypes for bf16, fp8)."""
        place = self._place(name)
        values = self._rows(place, place)
        if place.crc32 is not None:
            self._check(place, zlib.crc32(_raw(values)))
        return _as_values(values, place)

    def blocks(self, name: str, max_bytes: int) -> Iterator[np.ndarray]:
        """Consecutive blocks along axis 0 of at most `max_bytes` bytes each, and of one row at least.

        Concatenated along axis 0 they are `read(name)`. A 0-d tensor and one without rows come as one block.
        """
        place = self._place(name)
        shape = place.header.shape
        if not shape or place.header.nbytes <= max_bytes or shape[0] == 0:
            yield self.read(name)
            return
        rows = max(1, max_bytes // (place.header.nbytes // shape[0]))
        crc = 0
        itemsize = NUMPY[place.header.dtype].itemsize
        for start in range(0, shape[0], rows):
            count = min(rows, shape[0] - start)
            part = replace(
                place,
                header=replace(place.header, shape=(count, *shape[1:]), nbytes=place.header.nbytes // shape[0] * count),
                offset=place.offset + start * place.strides[0] * itemsize,
            )
            values = self._rows(part, place)
            crc = zlib.crc32(_raw(values), crc) if place.crc32 is not None else crc
            yield _as_values(values, place)
        if place.crc32 is not None:
            self._check(place, crc)

    def _place(self, name: str) -> BytePlace:
        try:
            return self._contents.places[name]
        except KeyError:
            raise ArchiveError(
                f"{self.path}: {name}: not among the {len(self._contents.places)} that can be read"
            ) from None

    def _rows(self, part: BytePlace, whole: BytePlace) -> np.ndarray:
        """The stored bytes of a part as an array of its shape; errors name the file and the tensor."""
        try:
            file = self._file(part)
            return _gather(file, part)
        except (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile) as error:
            raise ArchiveError(f"{whole.path}: {whole.header.name}: cannot be read: {error}") from error

    def _file(self, place: BytePlace) -> IO[bytes]:
        key = (place.path, place.member)
        if key not in self._files:
            opened = open_member(place.path, place.member) if place.member else open_regular(place.path, buffering=0)
            self._files[key] = self._open.enter_context(opened)
        return self._files[key]

    @staticmethod
    def _check(place: BytePlace, crc: int) -> None:
        if crc != place.crc32:
            raise ArchiveError(
                f"{place.path}: {place.header.name}: damaged: its bytes have CRC-32 {crc:08x}, but the file says "
                f"{place.crc32:08x}"
            )


def read_place(place: BytePlace) -> np.ndarray:
    """The values of one place, its file opened for the purpose."""
    with TensorReader(place.path, FileContents({place.header.name: place}, (place.path,))) as reader:
        return reader.read(place.header.name)


def _raw(values: np.ndarray) -> memoryview:
    return values.reshape(-1).view(np.uint8).data


def _as_values(stored: np.ndarray, place: BytePlace) -> np.ndarray:
    """What the stored numbers mean: byte order, conjugation and negation applied."""
    if place.big_endian:
        stored = stored.byteswap()
    if place.conjugated:
        stored = np.conj(stored)
    return np.negative(stored) if place.negated else stored


def _gather(file: IO[bytes], place: BytePlace) -> np.ndarray:
    """Reads one strided place into a new contiguous array."""
    dtype = NUMPY[place.header.dtype]
    out = np.empty(place.header.shape, dtype)
    if place.contiguous:
        _read_into(file, place.offset, _raw(out))
    elif out.size:
        # As opaque bytes: numpy's strided views do not know every dtype of ml_dtypes.
        _gather_strided(file, place.offset, out.view(np.dtype((np.void, dtype.itemsize))), place.strides)
    return out


def _gather_strided(file: IO[bytes], offset: int, out: np.ndarray, strides: tuple[int, ...]) -> None:
    """Fills `out`: one read where the span is short or mostly wanted, else halves along the widest axis."""
    itemsize = out.itemsize
    reach = [(size - 1) * stride for size, stride in zip(out.shape, strides, strict=True)]
    span = (sum(reach) + 1) * itemsize
    if span <= max(SHORT_SPAN, WASTE * out.nbytes):
        buffer = np.empty(sum(reach) + 1, out.dtype)
        _read_into(file, offset, _raw(buffer))
        byte_strides = tuple(stride * itemsize for stride in strides)
        np.copyto(out, np.lib.stride_tricks.as_strided(buffer, out.shape, byte_strides))
        return
    axis = int(np.argmax(reach))
    half = out.shape[axis] // 2
    before = (slice(None),) * axis
    _gather_strided(file, offset, out[(*before, slice(None, half))], strides)
    _gather_strided(file, offset + half * strides[axis] * itemsize, out[(*before, slice(half, None))], strides)


def _read_into(file: IO[bytes], offset: int, target: memoryview) -> None:
    """Fills `target` from byte `offset`, or EOFError."""
    if not len(target):
        return
    file.seek(offset)
    done = 0
    while done < len(target):
        # One read of more than 2 GB is cut short by the kernel; compressed members come in smaller pieces.
        count = file.readinto(target[done : done + (1 << 30)])  # type: ignore[attr-defined]  # IO[bytes] hides it
        if not count:
            raise EOFError(f"the file ends at byte {offset + done:,}, {len(target) - done:,} bytes too early")
        done += count
