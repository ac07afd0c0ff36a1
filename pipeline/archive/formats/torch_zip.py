"""torch's zip files (since torch 1.6, under any name): a pickle of the structure, and one member per storage.

The pickle is read as data (`pickle_data`), so nothing in the file is ever executed; tensors are found in their
storages by offset, size and strides. torch itself is not needed. A TorchScript program has the same form, its
modules as objects of classes that its own code defines; that code is not looked at.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import IO

from analyzers.errors import ArchiveError
from pipeline.archive.formats.contents import FileContents
from pipeline.archive.formats.pickle_data import PickleError, read_pickle
from pipeline.archive.formats.state import find_weights
from pipeline.archive.formats.torch_tensors import StoredTensor, TorchFile, Unreadable
from pipeline.archive.zip_members import Region, check_ratio, data_offset, is_stored, open_zip, read_member

NAME = "torch-zip"

MAX_PICKLE_BYTES = 64 << 20


def scan(path: Path) -> FileContents:
    """The weights of one torch zip file, from its pickle and its list of members."""
    return scan_region(Region(path))


def scan_region(region: Region) -> FileContents:
    """The weights of a torch zip file that may itself be a member of a zip."""
    with open_zip(region) as archive:
        pickles = [name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            raise ArchiveError(
                f"{region}: a zip file with {len(pickles)} members */data.pkl: torch.save writes exactly one"
            )
        if (first := min(info.header_offset for info in archive.infolist())) > 0:
            raise ArchiveError(
                f"{region}: {first} bytes precede the zip data: several files in one, as in a distributed checkpoint, "
                "or damage"
            )
        prefix = pickles[0].removesuffix("data.pkl")
        members = {info.filename: info for info in archive.infolist()}
        data = read_member(archive, region, members[pickles[0]], MAX_PICKLE_BYTES)
        order = members.get(f"{prefix}byteorder")
        big_endian = order is not None and read_member(archive, region, order, 16).strip() == b"big"
    try:
        state = find_weights(read_pickle(data))
    except PickleError as error:
        raise ArchiveError(f"{region}: {pickles[0]} is not a readable pickle: {error}") from error
    with region.open() as file:
        return TorchFile(region, _storages(region, file, prefix, members), big_endian).contents(state)


def _storages(
    region: Region, file: IO[bytes], prefix: str, members: dict[str, zipfile.ZipInfo]
) -> Callable[[str], StoredTensor]:
    @cache
    def find(key: str) -> StoredTensor:
        info = members[f"{prefix}data/{key}"]
        # A CRC of 0 is one that torch was told not to compute.
        crc32 = info.CRC or None
        if is_stored(info) and region.member is None:
            return StoredTensor(region.start + data_offset(file, region, info), info.file_size, crc32=crc32)
        if is_stored(info):
            return StoredTensor(data_offset(file, region, info), info.file_size, region.member)
        check_ratio(info, region)
        if region.name:
            raise Unreadable(f"{info.filename} is compressed in a zip inside a zip: unpack {region.path.name}")
        return StoredTensor(0, info.file_size, info.filename)

    return find
