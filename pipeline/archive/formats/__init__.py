"""The formats that are read, one module each, and how a file's format is told. See docs/formats.md.

A new format: a module with `NAME` and `scan(path) -> Contents`, an entry in `_SCANNERS`, its marks in `recognise`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from analyzers.errors import ArchiveError
from pipeline.archive.formats import safetensors_file, sharded, torch_in_zip, torch_legacy, torch_zip
from pipeline.archive.formats.contents import BytePlace, FileContents
from pipeline.archive.formats.recognise import SHARDED, Recognised
from pipeline.archive.formats.recognise import recognise as _recognise
from pipeline.archive.guarded import boundary

READ = "safetensors and torch files (zip or legacy, under any name, or inside a zip), sharded ones, PEFT adapters"
"""What is read, in words, for messages."""


def recognise(path: Path) -> Recognised:
    """What a file is, by its first bytes. ArchiveError or OSError when it cannot be looked at."""
    with boundary(path):
        return _recognise(path)


def detect(path: Path) -> str:
    """The name of a weights file's format, by its first bytes. ArchiveError says why a file is none that is read."""
    recognised = recognise(path)
    if recognised.format:
        return recognised.format
    if recognised.unread is not None:
        raise ArchiveError(f"{path}: {recognised.unread.reason}: {recognised.unread.hint}")
    raise ArchiveError(f"{path}: {recognised.fault or 'not a format that is read'}")


def scan(path: Path, format_name: str | None = None) -> FileContents:
    """The contents of a weights file or index, from headers only."""
    with boundary(path):
        return _SCANNERS[format_name or detect(path)](path)


_SCANNERS: dict[str, Callable[[Path], FileContents]] = {
    safetensors_file.NAME: safetensors_file.scan,
    torch_zip.NAME: torch_zip.scan,
    torch_legacy.NAME: torch_legacy.scan,
    torch_in_zip.NAME: torch_in_zip.scan,
    # A shard is told by its own bytes, whatever the index is called.
    safetensors_file.NAME + SHARDED: partial(sharded.scan_shards, scan_one=scan),
    torch_zip.NAME + SHARDED: partial(sharded.scan_shards, scan_one=scan),
}

__all__ = ["READ", "BytePlace", "FileContents", "Recognised", "detect", "recognise", "scan"]
