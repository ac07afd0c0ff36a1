"""torch's format before 1.6: five pickles one after another, then the storages in the order of their keys.

The pickles are a magic number, a protocol version, the writing machine's sizes, the object, and the list of storage
keys. Each storage is a count of elements (8 bytes) and its bytes, little-endian whatever machine wrote it. All are
read as data (`pickle_data`): nothing in the file is ever executed.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

from analyzers.errors import ArchiveError
from pipeline.archive.dtypes import NUMPY
from pipeline.archive.formats.contents import FileContents
from pipeline.archive.formats.pickle_data import (
    MAX_OPCODES,
    Global,
    PickleCutError,
    Pickled,
    PickleError,
    read_pickle_at,
)
from pipeline.archive.formats.state import find_weights
from pipeline.archive.formats.torch_tensors import STORAGES, StoredTensor, TorchFile
from pipeline.archive.guarded import short
from pipeline.archive.zip_members import Region

NAME = "torch-legacy"

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
MAX_PICKLE_BYTES = 64 << 20
# The pickles of most files are shorter. What is read grows by eight as long as they are cut off.
FIRST_READ = 1 << 20

# Bytes per element; storages of quantised tensors, which are not read, have to be passed over.
_ITEM_BYTES = {name: NUMPY[dtype].itemsize for name, dtype in STORAGES.items()} | {
    "QInt8Storage": 1,
    "QUInt8Storage": 1,
    "QInt32Storage": 4,
    "QUInt4x2Storage": 1,
    "QUInt2x4Storage": 1,
}


_EXPECTED = ((MAGIC, 1000), (PROTOCOL, 1000), (None, 1000), (None, MAX_OPCODES), (None, MAX_OPCODES // 4))
"""The five pickles: what each must be, and how many opcodes it may have."""


def is_legacy(first: bytes) -> bool:
    """Whether a file's first bytes are the pickle of torch's magic number, in any protocol."""
    number = MAGIC.to_bytes(10, "little")
    in_text = (b"L%dL\n" % MAGIC, b"I%d\n" % MAGIC)
    return (first[:1] == b"\x80" and number in first[:32]) or first.startswith(in_text)


def scan(path: Path) -> FileContents:
    """The weights of one legacy file, from its pickles and the sizes of its storages."""
    return scan_region(Region(path))


def scan_region(region: Region) -> FileContents:
    """The weights of a legacy file that may itself be a member of a zip."""
    with region.open() as file:
        root, keys, start = _read_pickles(region, file)
        stored = _storages(region, file, start, keys.value, _described(root))
        return TorchFile(region, stored.__getitem__).contents(find_weights(root.value))


def _read_pickles(region: Region, file: IO[bytes]) -> tuple[Pickled, Pickled, int]:
    """The object, the keys of its storages, and the byte at which the storages begin."""
    size, limit = region.size, FIRST_READ
    while True:
        file.seek(0)
        data = file.read(limit)
        try:
            pickles = _five(data, region)
        except PickleCutError as error:
            if limit >= size:
                raise ArchiveError(f"{region}: truncated: {error}") from error
            if limit >= MAX_PICKLE_BYTES:
                raise ArchiveError(f"{region}: more than {MAX_PICKLE_BYTES} bytes of pickle are refused") from error
            limit = min(8 * limit, MAX_PICKLE_BYTES)
        except PickleError as error:
            raise ArchiveError(f"{region}: not a readable pickle: {error}") from error
        else:
            return pickles[3], pickles[4], pickles[4].end


def _five(data: bytes, region: Region) -> list[Pickled]:
    pickles: list[Pickled] = []
    for expected, opcodes in _EXPECTED:
        pickles.append(read_pickle_at(data, pickles[-1].end if pickles else 0, opcodes))
        value = pickles[-1].value
        if expected is not None and (type(value) is not int or value != expected):
            raise ArchiveError(f"{region}: {short(value):.40} where torch's legacy format has {expected}")
    return pickles


def _described(root: Pickled) -> dict[str, tuple[str, Any]]:
    """Storage key → the name of its type and its number of elements, as the object's pickle has them."""
    described: dict[str, tuple[str, Any]] = {}
    for persistent in root.persistent:
        match persistent.id:
            case ("storage", Global() as storage_type, str(key), _, count, *_):
                described.setdefault(key, (storage_type.name, count))
    return described


def _storages(
    region: Region, file: IO[bytes], start: int, keys: Any, described: dict[str, tuple[str, Any]]
) -> dict[str, StoredTensor]:
    """Storage key → where its bytes lie. ArchiveError when they reach beyond the end of the file."""
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ArchiveError(f"{region}: damaged: no list of storage keys after the object")
    stored: dict[str, StoredTensor] = {}
    size = region.size
    for number, key in enumerate(keys, 1):
        type_name, expected = described.get(key, ("none", None))
        if type_name not in _ITEM_BYTES:
            raise ArchiveError(f"{region}: storage {key!r:.40} has the unknown type {type_name:.40}")
        file.seek(start)
        count = int.from_bytes(file.read(8), "little", signed=True)
        nbytes = count * _ITEM_BYTES[type_name]
        if count < 0 or start + 8 + nbytes > size:
            raise ArchiveError(
                f"{region}: truncated or damaged: storage {number} of {len(keys)} ends at byte {start + 8 + nbytes}, "
                f"but the file has {size}"
            )
        if count != expected:
            raise ArchiveError(
                f"{region}: damaged: storage {number} of {len(keys)} has {count} elements, but its "
                f"description says {short(expected)}"
            )
        begins = start + 8 if region.member else region.start + start + 8
        stored[key] = StoredTensor(begins, nbytes, region.member)
        start += 8 + nbytes
    return stored
