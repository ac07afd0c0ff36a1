"""Metrics of runs from a CSV: a column that tells the step, optionally `run`, and columns of numbers (loss, accuracy).

Each run takes the column that counts what its checkpoints count: `step` (or `global_step`, `iteration`, ...), `epoch`
or `episode`. The other numbers are metrics; empty cells are left out.
"""

from __future__ import annotations

import csv
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from analyzers.errors import ArchiveError
from pipeline.archive.metrics import Log
from pipeline.archive.types import Archive

RUN = "run"
STEP_COLUMNS = ("step", "steps", "_step", "global_step", "train_step", "iteration", "iter", "num_updates")
"""Columns that count steps, the surest first."""
COLUMNS = {"step": STEP_COLUMNS, "epoch": ("epoch", "epochs"), "episode": ("episode", "episodes")}
"""What the checkpoints of a run count → the columns that count the same."""


@dataclass(frozen=True)
class Line:
    """A row: its number in the file, its run where there is such a column, and its numbers."""

    number: int
    run: str | None
    values: Mapping[str, float]


@dataclass(frozen=True)
class Target:
    """A run that may get metrics, and what its steps count."""

    id: str
    unit: str = "step"
    is_base: bool = False


def with_metrics(archive: Archive, files: Sequence[tuple[str | None, Path]]) -> Archive:
    """The archive with the rows of CSV files added to its runs' logs. `files`: a glob on run ids (None: every run, as
    the file's column `run` says) and a path. Raises `ArchiveError`, see `logs_from`."""
    targets = [
        Target(run.id, run.checkpoints[0].step_unit if run.checkpoints else "step", run.role == "base")
        for run in archive.runs
    ]
    logs = logs_from(files, targets)
    runs = []
    for run in archive.runs:
        log = Log(run.metrics, run.metric_sources) + logs.get(run.id, Log())
        runs.append(replace(run, metrics=log.rows, metric_sources=log.sources))
    return replace(archive, runs=tuple(runs))


def files_of(given: Sequence[str]) -> list[tuple[str | None, Path]]:
    """The globs and paths of --metrics: FILE, or RUN_GLOB=FILE."""
    files: list[tuple[str | None, Path]] = []
    for text in given:
        glob, equals, path = text.partition("=")
        alone = not equals or Path(text).exists()
        files.append((None, Path(text)) if alone else (glob, Path(path)))
    return files


def logs_from(files: Sequence[tuple[str | None, Path]], targets: Sequence[Target]) -> dict[str, Log]:
    """Run id → its rows of all files. Raises `ArchiveError` naming the file, line and column of what cannot be used: a
    cell, a run that is not there, a glob without a run, a file that does not tell which of several runs it is of."""
    logs: dict[str, Log] = {}
    for glob, path in files:
        chosen = [target for target in targets if (not target.is_base if glob is None else _matches(target.id, glob))]
        ids = ", ".join(target.id for target in targets)
        if not chosen:
            raise ArchiveError(f"metrics {path}: no run matches {glob!r}; there are: {ids}")
        lines = read_metrics_csv(path)
        if glob is None and len(chosen) > 1 and lines and lines[0].run is None:
            raise ArchiveError(
                f"metrics {path}: it does not say which of {len(chosen)} runs it is of ({ids}): give it a column "
                f"'{RUN}', or write RUN_GLOB={path.name}"
            )
        rows: dict[str, list[dict[str, float]]] = {}
        for line in lines:
            for target in chosen if line.run is None else _named(path, line, targets, chosen):
                rows.setdefault(target.id, []).append(_row(path, line, target))
        for run, its_rows in rows.items():
            logs[run] = logs.get(run, Log()) + Log.of(its_rows, path.name)
    return logs


def _matches(run: str, glob: str) -> bool:
    return fnmatchcase(run, glob) or fnmatchcase(run.rsplit("/", 1)[-1], glob)


def _named(path: Path, line: Line, targets: Sequence[Target], chosen: Sequence[Target]) -> list[Target]:
    """The run that a line names by its id, or by the end of it, if it is one of the chosen ones."""
    name = (line.run or "").strip("/")
    exact = [target for target in targets if target.id == name]
    named = exact or [target for target in targets if f"/{target.id}".endswith(f"/{name}")]
    if len(named) != 1:
        ids = [target.id for target in targets]
        which = f"may be {' or '.join(target.id for target in named)}" if named else "is not a run"
        close = difflib.get_close_matches(name, [*ids, *(run.rsplit("/", 1)[-1] for run in ids)], n=1)
        hint = f"; did you mean {close[0]!r}?" if close and not named else f"; there are: {', '.join(ids)}"
        raise ArchiveError(f"{path}, line {line.number}, column '{RUN}': {line.run!r} {which}{hint}")
    return [target for target in named if target in chosen]


def _row(path: Path, line: Line, target: Target) -> dict[str, float]:
    """The numbers of a line, with the step on the run's clock."""
    wanted = COLUMNS.get(target.unit, STEP_COLUMNS)
    column = next((name for name in wanted if name in line.values), None)
    if column is None:
        raise ArchiveError(
            f"{path}, line {line.number}: {target.id} counts {target.unit}s, and the line has no {target.unit} "
            f"(column {' or '.join(map(repr, wanted[:4]))}); it has: {', '.join(line.values) or 'nothing'}"
        )
    step = line.values[column]
    if not (0 <= step < 2**62 and step == int(step)):
        raise ArchiveError(f"{path}, line {line.number}, column {column!r}: {step:g} is no {target.unit}")
    others = {name: value for name, value in line.values.items() if name != column and name != "step"}
    return {"step": step, **others}


def read_metrics_csv(path: Path) -> tuple[Line, ...]:
    """The lines of a CSV, its numbers read. Raises `ArchiveError` naming file, line and column."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as opened:
            reader = csv.reader(opened, strict=True)
            names = [name.strip() for name in next(reader, [])]
            _check_header(path, names)
            return tuple(_line(path, reader.line_num, names, cells) for cells in reader if any(map(str.strip, cells)))
    except OSError as error:
        raise ArchiveError(f"{path}: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ArchiveError(f"{path}: not a readable CSV: {error}") from error


def _check_header(path: Path, names: Sequence[str]) -> None:
    known = [column for columns in COLUMNS.values() for column in columns]
    if not set(known) & set(names):
        raise ArchiveError(
            f"{path}, line 1: no column 'step', 'epoch' or 'global_step'; it has: {', '.join(names) or 'nothing'}"
        )
    for name in names:
        if name and names.count(name) > 1:
            raise ArchiveError(f"{path}, line 1: two columns are called {name!r}")


def _line(path: Path, number: int, names: Sequence[str], cells: Sequence[str]) -> Line:
    if len(cells) > len(names):
        raise ArchiveError(f"{path}, line {number}: {len(cells)} cells, and the first line names {len(names)} columns")
    run, values = None, {}
    for name, cell in zip(names, cells, strict=False):
        if name == RUN:
            run = cell.strip()
        elif name and cell.strip():
            try:
                values[name] = float(cell)
            except ValueError:
                raise ArchiveError(f"{path}, line {number}, column {name!r}: {cell!r} is not a number") from None
    if run == "" or (run is None and RUN in names):
        raise ArchiveError(f"{path}, line {number}, column '{RUN}': it is empty")
    return Line(number, run, values)
