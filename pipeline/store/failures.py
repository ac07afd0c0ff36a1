"""Units that failed, kept with their traceback until the same key has a result."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from analyzers.errors import DamageError
from pipeline.store.documents import FILE, create_document, ensure_group, read_document
from pipeline.store.scratch import withdraw
from pipeline.store.statistics import StatisticTable, table_folder

Note = Callable[[Path, DamageError], object]


@dataclass(frozen=True)
class Failure:
    """One unit that raised: which, of which run, step and matrix, the error in a line, and its traceback."""

    key: str
    error: str
    traceback: str = ""
    run: str | None = None
    step: int | None = None
    matrix: str | None = None
    statistic: str = ""


def write_failures(root: Path, statistic: str, entries: Sequence[Failure], table: StatisticTable) -> None:
    """Adds failures: one new document with those that still stand, then the documents it replaces go.

    In this order nothing is lost when the process dies in between, nor when two write at the same time.
    """
    folder = _folder(root, statistic)
    if not entries and not folder.exists():
        return
    ensure_group(root, folder)
    replaced = _documents(folder)
    damaged: dict[Path, DamageError] = {}
    standing = {f.key: f for f in _read_all(replaced, damaged.__setitem__) if table.extent(f.key) is None}
    standing |= {entry.key: replace(entry, statistic=statistic) for entry in entries}
    if standing:
        name = f"{time.time_ns():016x}-{secrets.token_hex(3)}"
        data = {"varve": "failures", "failures": [asdict(failure) for failure in standing.values()]}
        create_document(root, folder / name, data)
    for path in replaced:  # damaged ones, too: what they told of is tried again
        withdraw(root, path)


def read_failures(root: Path, note: Note) -> list[Failure]:
    """All recorded failures, the newest of each key. `note` is told of damaged documents, which are left out."""
    found: dict[tuple[str, str], Failure] = {}
    for group in sorted((root / "failures").iterdir()):
        if group.name != FILE:
            found |= {(failure.statistic, failure.key): failure for failure in _read_all(_documents(group), note)}
    return list(found.values())


def _read_all(documents: Sequence[Path], note: Note) -> list[Failure]:
    """The failures of one statistic, oldest first."""
    found: list[Failure] = []
    for path in documents:
        try:
            found += [Failure(**entry) for entry in read_document(path)["failures"]]
        except DamageError as error:
            if not path.exists():
                return _read_all(_documents(path.parent), note)  # replaced by a newer document just now: start again
            note(path / FILE, error)
    return found


def _folder(root: Path, statistic: str) -> Path:
    return root / "failures" / table_folder(root, statistic).name


def _documents(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name != FILE)
