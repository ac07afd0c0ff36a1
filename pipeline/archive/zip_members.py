"""Where the members of a zip file lie: torch's .pt files are zips whose members are mostly stored uncompressed."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from analyzers.errors import ArchiveError

_LOCAL_HEADER = struct.Struct("<4s22xHH")


def open_zip(path: Path) -> zipfile.ZipFile:
    """The zip file, or ArchiveError: the list of members is at the end, so a truncated one has none."""
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, OverflowError, struct.error) as error:
        raise ArchiveError(f"{path}: a zip file without a readable end: truncated or half-written ({error})") from error


def data_offset(file: IO[bytes], path: Path, info: zipfile.ZipInfo, file_size: int) -> int:
    """Byte of the file at which a member's data starts; its local header says so, not the list at the end."""
    file.seek(max(0, info.header_offset))
    raw = file.read(_LOCAL_HEADER.size) if info.header_offset >= 0 else b""
    if len(raw) < _LOCAL_HEADER.size or raw[:4] != b"PK\x03\x04":
        raise ArchiveError(f"{path}: {info.filename}: no member at byte {info.header_offset}, where the list has it")
    _, name_length, extra_length = _LOCAL_HEADER.unpack(raw)
    start = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
    if start + info.compress_size > file_size:
        raise ArchiveError(f"{path}: {info.filename}: ends behind the end of the file: truncated")
    return start


def is_stored(info: zipfile.ZipInfo) -> bool:
    """Whether the member's bytes stand in the file as they are."""
    return info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1


def read_member(file: zipfile.ZipFile, path: Path, info: zipfile.ZipInfo, limit: int) -> bytes:
    """The bytes of a small member, at most `limit` of them whatever it claims. A CRC of 0 is one not computed."""
    if info.file_size > limit:
        raise ArchiveError(f"{path}: {info.filename}: claims {info.file_size} bytes; more than {limit} is refused")
    if is_stored(info):
        with path.open("rb") as raw:
            raw.seek(data_offset(raw, path, info, path.stat().st_size))
            data = raw.read(info.file_size)
        if len(data) < info.file_size or (info.CRC and zlib.crc32(data) != info.CRC):
            raise ArchiveError(f"{path}: {info.filename}: damaged: its bytes do not have the CRC-32 the file says")
        return data
    try:
        with file.open(info) as member:
            data = member.read(limit + 1)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise ArchiveError(f"{path}: {info.filename}: cannot be unpacked: {error}") from error
    if len(data) > limit:
        raise ArchiveError(f"{path}: {info.filename}: unpacks to more than {limit} bytes")
    return data


@contextmanager
def open_member(path: Path, member: str) -> Iterator[IO[bytes]]:
    """A compressed member as a seekable stream of its unpacked bytes (seeking back unpacks it again)."""
    with open_zip(path) as file:
        try:
            stream = file.open(member)
        except (NotImplementedError, RuntimeError, zipfile.BadZipFile) as error:
            raise ArchiveError(f"{path}: {member}: cannot be unpacked: {error}") from error
        with stream:
            yield stream
