"""Metrics of runs from files that the user names (--metrics, or a catalog entry): which run each line belongs to.

Each run takes the column that counts what its checkpoints count: `step` (or `global_step`, `iteration`, ...), `epoch`
or `episode`. The other numbers are metrics; empty cells are left out. Of a number that two lines have at one step, the
later line counts.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path

from analyzers.errors import ArchiveError
from pipeline.archive.metric_files import COLUMNS, STEPS, LogLine, MetricFile, canonical, read_metrics
from pipeline.archive.metrics import Log
from pipeline.archive.types import Archive

NONE = "none"
"""Instead of a file: forget what was given before."""


@dataclass(frozen=True)
class Target:
    """A run that may get metrics, and what its steps count."""

    id: str
    unit: str = "step"
    is_base: bool = False


@dataclass(frozen=True)
class Given:
    """The logs that files give to runs, by run id, and notes about what of the files was left out."""

    logs: Mapping[str, Log] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def with_metrics(archive: Archive, files: Sequence[tuple[str | None, Path]], forget: bool = False) -> Archive:
    """The archive with the rows of metrics files, as `given` of its runs; a run that no file speaks of stays as it is.
    `files`: a glob on run ids (None: every run, as the file itself says) and a path. `forget`: runs without rows get an
    empty log, which replaces what was given before. Raises `ArchiveError`, see `logs_from`."""
    targets = [
        Target(run.id, run.checkpoints[0].step_unit if run.checkpoints else "step", run.role == "base")
        for run in archive.runs
    ]
    given = logs_from(files, targets)
    runs = tuple(replace(run, given=given.logs.get(run.id, Log() if forget else None)) for run in archive.runs)
    return replace(archive, runs=runs, hints=(*archive.hints, *given.notes))


def files_of(given: Sequence[str]) -> list[tuple[str | None, Path]]:
    """The globs and paths of --metrics: FILE, or RUN_GLOB=FILE; "none" is no file."""
    files: list[tuple[str | None, Path]] = []
    for text in given:
        glob, equals, path = text.partition("=")
        alone = not equals or Path(text).exists()
        if text != NONE:
            files.append((None, Path(text)) if alone else (glob, Path(path)))
    return files


def logs_from(files: Sequence[tuple[str | None, Path]], targets: Sequence[Target]) -> Given:
    """The rows of all files. Raises `ArchiveError` naming the file, line and column of what cannot be used: a cell, a
    run that is not there, a glob without a run, a file that does not tell which of several runs it is of."""
    logs: dict[str, Log] = {}
    notes: list[str] = []
    for glob, path in files:
        chosen = [target for target in targets if (not target.is_base if glob is None else _matches(target.id, glob))]
        if not chosen:
            ids = ", ".join(target.id for target in targets)
            raise ArchiveError(f"metrics {path}: no run matches {glob!r}; there are: {ids}")
        file = read_metrics(path)
        notes += [f"metrics {path}: column {name!r} holds no numbers and is left out" for name in file.ignored]
        rows: dict[str, list[Mapping[str, float]]] = {}
        skipped: set[int] = set()
        for line, its_targets in _assigned(file, glob, targets, chosen):
            for target in its_targets:
                row = _row(path, line, target)
                rows.setdefault(target.id, []).extend([row] if row is not None else [])
                skipped |= {line.number} if row is None else set()
        if skipped:
            notes.append(
                f"metrics {path}: {len(skipped)} lines between whole epochs are left out, first line {min(skipped)}"
            )
        for run, its_rows in rows.items():
            logs[run] = logs.get(run, Log()) + Log.of(its_rows, path.name)
    return Given(logs, tuple(notes))


def _assigned(
    file: MetricFile, glob: str | None, targets: Sequence[Target], chosen: Sequence[Target]
) -> list[tuple[LogLine, Sequence[Target]]]:
    """Each line with the runs that it belongs to."""
    if not file.lines:
        return []
    names = {line.run for line in file.lines}
    if names == {None}:
        if glob is None and len(chosen) > 1:
            chosen = _ending(file.run or "", chosen)
            if len(chosen) != 1:
                raise ArchiveError(_which(file.path, targets))
        return [(line, chosen) for line in file.lines]
    # A curve's title is the name that a tracker gave to the run, which need not be a folder's.
    only = len(names) == 1 and len(chosen) == 1 and not _ending(next(iter(names)) or "", targets)
    if only and (glob is not None or not file.runs_by_column):
        return [(line, chosen) for line in file.lines]
    return [(line, _named(file, line, targets, chosen)) for line in file.lines]


def _which(path: Path, targets: Sequence[Target]) -> str:
    ids = [target.id for target in targets if not target.is_base]
    return (
        f"metrics {path}: it does not say which of {len(ids)} runs it is of ({', '.join(ids)}): give it a column "
        f"'run', or write RUN_GLOB={path.name}"
    )


def _ending(name: str, targets: Sequence[Target]) -> list[Target]:
    """The runs that a name means: by their id, else by the end of it."""
    name = name.strip("/")
    exact = [target for target in targets if target.id == name]
    return exact or [target for target in targets if name and f"/{target.id}".endswith(f"/{name}")]


def _matches(run: str, glob: str) -> bool:
    return fnmatchcase(run, glob) or fnmatchcase(run.rsplit("/", 1)[-1], glob)


def _named(file: MetricFile, line: LogLine, targets: Sequence[Target], chosen: Sequence[Target]) -> list[Target]:
    """The run that a line names, if it is one of the chosen ones."""
    name = (line.run or "").strip("/")
    named = _ending(name, targets)
    if len(named) != 1:
        ids = [target.id for target in targets]
        which = f"may be {' or '.join(target.id for target in named)}" if named else "is not a run"
        close = difflib.get_close_matches(name, [*ids, *(run.rsplit("/", 1)[-1] for run in ids)], n=1)
        hint = f"; did you mean {close[0]!r}?" if close and not named else f"; there are: {', '.join(ids)}"
        where = f"line {line.number}, column 'run'" if file.runs_by_column else "line 1, a curve's title"
        way_out = (
            "" if file.runs_by_column else f". Rename it, or export one run a file and write RUN_GLOB={file.path.name}"
        )
        raise ArchiveError(f"{file.path}, {where}: {line.run!r} {which}{hint}{way_out}")
    return [target for target in named if target in chosen]


def _row(path: Path, line: LogLine, target: Target) -> dict[str, float] | None:
    """The numbers of a line, with the step on the run's clock; None between two epochs."""
    wanted = COLUMNS.get(target.unit, STEPS)
    column = next((name for column in wanted for name in line.values if canonical(name) == column), None)
    if column is None:
        raise ArchiveError(
            f"{path}, line {line.number}: {target.id} counts {target.unit}s, and the line has no {target.unit} "
            f"(column {' or '.join(map(repr, wanted[:4]))}); it has: {', '.join(line.values) or 'nothing'}. "
            f"Add a column {wanted[0]!r}"
        )
    step = line.values[column]
    if target.unit != "step" and 0 <= step < 2**62 and step != int(step):
        return None
    if not (0 <= step < 2**62 and step == int(step)):
        raise ArchiveError(f"{path}, line {line.number}, column {column!r}: {step:g} is no {target.unit}")
    others = {name: value for name, value in line.values.items() if name != column and canonical(name) != "step"}
    return {"step": step, **others}
