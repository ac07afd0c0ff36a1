"""Where the members of a zip file lie: torch's .pt files are zips whose members are mostly stored uncompressed.

A `Region` is what is read as one file: a file, or a member of a zip (a torch file in a Stable-Baselines3 zip).
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from analyzers.errors import ArchiveError
from pipeline.archive.guarded import open_regular

_LOCAL_HEADER = struct.Struct("<4s22xHH")

MAX_LIST_BYTES = 16 << 20
"""Of a zip file's list of members, and of any header of a tar file: 150 bytes each make 100 000 members."""
MAX_RATIO = 100
"""How many times its packed size a member may unpack to, where that is more than `SMALL_MEMBER` bytes."""
SMALL_MEMBER = 64 << 20


@dataclass(frozen=True)
class Region:
    """Bytes that are read as one file: those of `path`, or `length` of them from `start` on, or those that its
    compressed `member` unpacks to. `name` is the member's, for messages."""

    path: Path
    start: int = 0
    length: int | None = None
    member: str | None = None
    name: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.name}" if self.name else str(self.path)

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return self.path.stat().st_size if self.length is None else self.length

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """The bytes as a seekable file."""
        if self.member is not None:
            with open_member(self.path, self.member) as stream:
                yield stream
        else:
            with open_regular(self.path) as file:
                yield file if self.length is None else _window(file, self.start, self.length)


class _Window(io.RawIOBase):
    """A part of an open file as a file of its own."""

    def __init__(self, file: IO[bytes], start: int, length: int) -> None:
        self._file, self._start, self._length, self._at = file, start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence])
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # typeshed: any buffer
        self._file.seek(self._start + self._at)
        data = self._file.read(max(0, min(len(buffer), self._length - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


class BoundedReads(io.RawIOBase):
    """An open file that, while it has a `limit`, refuses a read of more bytes than the list of an archive's members
    may have."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.limit: int | None = MAX_LIST_BYTES

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int = -1) -> bytes:
        if self.limit is None:
            return self._file.read(size)
        data = self._file.read(self.limit + 1 if size < 0 else min(size, self.limit + 1))
        if len(data) > self.limit:
            raise ValueError(f"a list of members of more than {self.limit} bytes is refused")
        return data


def _window(file: IO[bytes], start: int, length: int) -> IO[bytes]:
    return cast(IO[bytes], io.BufferedReader(_Window(file, start, length)))


@contextmanager
def open_zip(region: Region) -> Iterator[zipfile.ZipFile]:
    """The zip file, or ArchiveError: the list of members is at the end, so a truncated one has none."""
    with region.open() as file:
        try:
            bounded = BoundedReads(file)
            archive = zipfile.ZipFile(cast(IO[bytes], bounded))
            bounded.limit = None
        except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, OverflowError, struct.error) as error:
            raise ArchiveError(
                f"{region}: a zip file without a readable end: truncated, or still being written ({error})"
            ) from error
        with archive:
            yield archive


def data_offset(file: IO[bytes], region: Region, info: zipfile.ZipInfo) -> int:
    """Byte of the region at which a member's data starts; its local header says so, not the list at the end."""
    file.seek(max(0, info.header_offset))
    raw = file.read(_LOCAL_HEADER.size) if info.header_offset >= 0 else b""
    if len(raw) < _LOCAL_HEADER.size or raw[:4] != b"PK\x03\x04":
        raise ArchiveError(
            f"{region}: {info.filename}: no member at byte {info.header_offset:,}, where the list puts it"
        )
    _, name_length, extra_length = _LOCAL_HEADER.unpack(raw)
    start = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
    if start + info.compress_size > region.size:
        raise ArchiveError(f"{region}: {info.filename}: ends after the end of the file: truncated")
    return start


def is_stored(info: zipfile.ZipInfo) -> bool:
    """Whether the member's bytes stand in the file as they are."""
    return info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1


def check_ratio(info: zipfile.ZipInfo, region: Region) -> None:
    """ArchiveError for a compressed member that claims to unpack to far more than its bytes are worth."""
    if not is_stored(info) and info.file_size > max(SMALL_MEMBER, MAX_RATIO * min(info.compress_size, region.size)):
        raise ArchiveError(
            f"{region}: {info.filename}: {info.compress_size} bytes that claim to unpack to {info.file_size}; more "
            f"than {MAX_RATIO} times is refused: unpack the zip file"
        )


def read_member(archive: zipfile.ZipFile, region: Region, info: zipfile.ZipInfo, limit: int) -> bytes:
    """The bytes of a small member, at most `limit` of them whatever it claims. A CRC of 0 is one not computed."""
    check_ratio(info, region)
    if info.file_size > limit:
        raise ArchiveError(f"{region}: {info.filename}: claims {info.file_size} bytes; more than {limit} is refused")
    if is_stored(info):
        with region.open() as raw:
            raw.seek(data_offset(raw, region, info))
            data = raw.read(info.file_size)
        if len(data) < info.file_size or (info.CRC and zlib.crc32(data) != info.CRC):
            raise ArchiveError(f"{region}: {info.filename}: damaged: its bytes do not have the CRC-32 the file says")
        return data
    try:
        with archive.open(info) as member:
            data = member.read(limit + 1)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise ArchiveError(f"{region}: {info.filename}: cannot be unpacked: {error}") from error
    if len(data) > limit:
        raise ArchiveError(f"{region}: {info.filename}: unpacks to more than {limit} bytes")
    return data


@contextmanager
def open_member(path: Path, member: str) -> Iterator[IO[bytes]]:
    """A compressed member as a seekable stream of its unpacked bytes (seeking back unpacks it again)."""
    with open_zip(Region(path)) as archive:
        try:
            stream = archive.open(member)
        except (NotImplementedError, RuntimeError, zipfile.BadZipFile) as error:
            raise ArchiveError(f"{path}: {member}: cannot be unpacked: {error}") from error
        with stream:
            yield stream
