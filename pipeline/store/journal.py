"""What the store should hold: a line for each document and batch that was added or removed.

Only `verify` reads it, to notice what was deleted; a store without it (the first ones) works as well. A line is added
after its folder is visible, and a removal is noted before the folder goes, so a kill in between raises no false alarm.
The file is inside an empty Zarr array, where a Zarr reader does not stumble over it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import zlib
from pathlib import Path

_LOG = logging.getLogger(__name__)
ROOM = "journal"
_LINES = "lines"
_ROOMS = ("runs", "statistics", "layouts", "materials")
_ARRAY = {
    "zarr_format": 3,
    "node_type": "array",
    "shape": [0],
    "data_type": "uint8",
    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1]}},
    "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
    "fill_value": 0,
    "codecs": [{"name": "bytes"}],
    "attributes": {"varve": "journal"},
}


def added(root: Path, folder: Path) -> None:
    """Notes a document or batch that is now visible."""
    _note(root, "+", folder)


def removed(root: Path, folder: Path) -> None:
    """Notes a document or batch that is about to go, or that is known to have gone."""
    _note(root, "-", folder)


def expected(root: Path) -> tuple[set[str], int]:
    """The folders that should be there, relative to the root, and how many lines of the journal are damaged."""
    there: set[str] = set()
    damaged = 0
    try:
        lines = (root / ROOM / _LINES).read_bytes().split(b"\n")
    except FileNotFoundError:
        return there, 0
    for line in lines[:-1]:  # the last line ends with a line break, too, unless its writer was killed
        content, _, checksum = line.rpartition(b" ")
        if checksum != _checksum(content):
            damaged += 1
        elif content.startswith(b"+"):
            there.add(content[1:].decode())
        else:
            there.discard(content[1:].decode())
    return there, damaged


def rewrite(root: Path) -> None:
    """Starts the journal anew with what is there."""
    folder = root / ROOM
    folder.mkdir(exist_ok=True)
    fresh = folder / f"{_LINES}.{os.getpid()}"
    fresh.write_bytes(b"".join(_line("+", name) for name in _present(root)))
    fresh.replace(folder / _LINES)
    (folder / "zarr.json").write_text(json.dumps(_ARRAY))


def _note(root: Path, sign: str, folder: Path) -> None:
    parts = folder.relative_to(root).parts
    if len(parts) < 2 or parts[0] not in _ROOMS:
        return
    path = root / ROOM / _LINES
    try:
        if not path.exists():
            rewrite(root)
        with path.open("ab") as file:
            file.write(_line(sign, "/".join(parts)))
    except OSError as error:  # the store is whole without the line; only a later deletion may go unnoticed
        _LOG.warning("cannot record %s in the journal of %s: %s", folder, root, error)


def _line(sign: str, name: str) -> bytes:
    content = f"{sign}{name}".encode()
    return content + b" " + _checksum(content) + b"\n"


def _checksum(content: bytes) -> bytes:
    return f"{zlib.crc32(content):08x}".encode()


def _present(root: Path) -> list[str]:
    names: list[str] = []
    for room in _ROOMS:
        for pattern in ("*/zarr.json", "*/*/zarr.json"):
            with contextlib.suppress(FileNotFoundError):
                names += [path.parent.relative_to(root).as_posix() for path in (root / room).glob(pattern)]
    return names
