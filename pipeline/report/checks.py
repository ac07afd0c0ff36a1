"""Whether a report's files are those that were written: names, sizes and checksums stand in the root's metadata."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from zarr.storage import LocalStore

from analyzers.errors import ReportError
from pipeline.archive.recipes import digest

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

ROOT = "zarr.json"
FILES, SEAL = "varve_files", "varve_seal"
_AGAIN = "`varve report STORE` recreates it"

Files = Mapping[str, tuple[int, int]]
"""Path below the report → bytes and crc32 of each file but the root's metadata."""


def seal(path: Path) -> None:
    """Notes all files of the report at `path` in its root's attributes, and the digest of these metadata."""
    files = {
        file.relative_to(path).as_posix(): (len(data := file.read_bytes()), zlib.crc32(data))
        for file in sorted(path.rglob("*"))
        if file.is_file() and file != path / ROOT
    }
    document = json.loads((path / ROOT).read_bytes())
    document["attributes"][FILES] = json.dumps(files, separators=(",", ":"))
    document["attributes"][SEAL] = digest(document)
    (path / ROOT).write_text(json.dumps(document, separators=(",", ":")))


def files_of(document: Mapping[str, object], path: Path) -> Files | None:
    """The files that a report's metadata name; None for a report of an older varve, which names none."""
    attributes = document.get("attributes")
    if not isinstance(attributes, dict) or (FILES not in attributes and SEAL not in attributes):
        return None
    plain = {**document, "attributes": {name: value for name, value in attributes.items() if name != SEAL}}
    try:
        if digest(plain) != attributes.get(SEAL):
            raise ReportError(f"{path / ROOT} is damaged: its content does not match its digest; {_AGAIN}")
        return {name: (size, crc) for name, (size, crc) in json.loads(attributes[FILES]).items()}
    except (ValueError, TypeError, KeyError) as error:
        raise ReportError(f"{path / ROOT} is damaged: {error!r:.200}; {_AGAIN}") from error


def damaged_files(path: Path, files: Files, contents: bool = True) -> list[str]:
    """What is wrong with each file that is missing, of another size, or of other bytes (without `contents`, those of
    chunks are not read)."""
    wrong = []
    for name, (size, crc) in files.items():
        file = path / name
        try:
            if file.stat().st_size != size:
                wrong.append(f"{file} has {file.stat().st_size:,} bytes, but {size:,} were written; {_AGAIN}")
            elif (contents or file.name == ROOT) and zlib.crc32(file.read_bytes()) != crc:
                wrong.append(f"{file} is damaged: its bytes do not match their checksum; {_AGAIN}")
        except FileNotFoundError:
            wrong.append(f"{file} is missing; {_AGAIN}")
        except OSError as error:
            wrong.append(f"{file} cannot be read: {error}")
    return wrong


class CheckedFiles(LocalStore):
    """A report's files for Zarr. Each is compared with its checksum when it is read, and a missing one is an error:
    Zarr alone reads a missing chunk as zeros. A report that is replaced while it is read is noticed in the same way."""

    def __init__(self, root: Path, files: Files) -> None:
        super().__init__(root, read_only=True)
        self.files = files

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """The bytes of one file. Raises `ReportError` unless they are those that were written."""
        known = self.files.get(key)
        if known is None:
            return await super().get(key, prototype, byte_range)
        whole = await super().get(key, prototype)
        if whole is None:
            raise ReportError(f"{self.root / key} is missing; {_AGAIN}")
        if zlib.crc32(whole.to_bytes()) != known[1]:
            raise ReportError(
                f"{self.root / key} is damaged, or the report was replaced during reading: open it again; {_AGAIN}"
            )
        return whole if byte_range is None else await super().get(key, prototype, byte_range)
