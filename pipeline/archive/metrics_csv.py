"""A run's log as a CSV that the catalog names: a column `step`, and any columns of numbers (loss, eval_loss, ...)."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from analyzers.errors import ArchiveError
from pipeline.archive.types import Archive


def with_metrics(archive: Archive, files: Mapping[str, str]) -> Archive:
    """The archive with the rows of CSV files added to its runs' logs.

    files: glob on run ids (or their last part) → path, relative to the archive's folder. Raises `ArchiveError` for a
    file that cannot be read and for a glob that no run matches.
    """
    runs = list(archive.runs)
    for glob, given in files.items():
        hits = [i for i, run in enumerate(runs) if _matches(run.id, glob)]
        if not hits:
            raise ArchiveError(f"metrics {given}: no run matches {glob!r}; there are: {', '.join(r.id for r in runs)}")
        rows = read_metrics_csv(archive.root / Path(given).expanduser())
        for i in hits:
            runs[i] = replace(runs[i], metrics=(*runs[i].metrics, *rows))
    return replace(archive, runs=tuple(runs))


def _matches(run: str, glob: str) -> bool:
    return fnmatchcase(run, glob) or fnmatchcase(run.rsplit("/", 1)[-1], glob)


def read_metrics_csv(path: Path) -> tuple[dict[str, float], ...]:
    """Rows of numbers with their step; empty cells are left out. Raises `ArchiveError` naming line and column."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as opened:
            reader = csv.DictReader(opened)
            names = reader.fieldnames or []
            if "step" not in names:
                raise ArchiveError(f"{path}: no column 'step'; it has: {', '.join(names) or 'nothing'}")
            return tuple(_row(path, reader.line_num, row) for row in reader)
    except OSError as error:
        raise ArchiveError(f"{path}: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ArchiveError(f"{path}: not a readable CSV: {error}") from error


def _row(path: Path, line: int, row: Mapping[str | None, object]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, text in row.items():
        if not isinstance(name, str) or not isinstance(text, str) or not text.strip():
            continue
        try:
            found[name.strip()] = float(text)
        except ValueError as error:
            raise ArchiveError(f"{path}, line {line}: {name} is {text!r}, not a number") from error
    if "step" not in found or not 0 <= found["step"] < 2**62:
        raise ArchiveError(f"{path}, line {line}: no step")
    return found
