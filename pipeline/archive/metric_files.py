"""Reads a training log that the user names: CSV as loggers and spreadsheets write it, or JSON.

Each file becomes `LogLine`s: numbers by the names of their columns, the run where the file names one, and the line's
number for messages. `pipeline.archive.metrics_csv` decides what counts steps, and which run a line belongs to.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from analyzers.errors import ArchiveError
from pipeline.archive.metric_json import json_entries, looks_like_json

STEPS = (
    "step", "steps", "global_step", "train_step", "total_timesteps", "timesteps", "num_timesteps", "iteration",
    "iterations", "iter", "num_updates",
)  # fmt: skip
"""Columns that count steps, the surest first."""
COLUMNS = {"step": STEPS, "epoch": ("epoch", "epochs"), "episode": ("episode", "episodes")}
"""What the checkpoints of a run count → the columns that count the same."""
RUNS = ("run", "run_name", "run_id")
_CLOCK = ("wall_time", "walltime", "timestamp", "created_at", "date", "datetime")
"""Columns that tell when a line was written."""
_MISSING = {"", "na", "n/a", "#n/a", "<na>", "nan", "null", "none", "-"}
"""Cells that say that nothing was measured; a NaN would hide a number that another line has at its step."""
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(e[+-]?\d+)?", re.IGNORECASE)
_NUMBER_LIKE = re.compile(r"[+-]?[\d.,'\s]+(e[+-]?\d+)?\s*%?", re.IGNORECASE)
_WANDB_RANGE = ("__MIN", "__MAX")
"""Endings of the columns that a Weights & Biases export has beside each curve."""


@dataclass(frozen=True)
class LogLine:
    """A row: its number in the file, the run that it names, and its numbers."""

    number: int
    run: str | None
    values: Mapping[str, float]


@dataclass(frozen=True)
class MetricFile:
    """The lines of a file. `runs_by_column`: a column names the runs, not a curve's title. `run` is what the file's own
    name says. `ignored` are columns that hold no number."""

    path: Path
    lines: tuple[LogLine, ...]
    runs_by_column: bool = False
    run: str | None = None
    ignored: tuple[str, ...] = ()


def canonical(name: str) -> str:
    """A column's name for comparison: "trainer/Global Step" → "global_step"."""
    return re.sub(r"[\s-]+", "_", name.rpartition("/")[2].strip().lower()).strip("_")


def read_metrics(path: Path) -> MetricFile:
    """The numbers of a CSV or JSON log. Raises `ArchiveError` naming file, line and column, and what to change."""
    try:
        text = _text(path.read_bytes())
    except OSError as error:
        raise ArchiveError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ArchiveError(f"{path}: not a readable CSV: {error}; save it as UTF-8") from error
    if looks_like_json(text):
        entries = json_entries(path, text)
        names = list(dict.fromkeys(name for _, entry in entries for name in entry))
        return _file(path, names, entries, ",")
    delimiter = _delimiter(text)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        names = [name.strip() for name in next(reader, [])]
        rows = [(reader.line_num, cells) for cells in reader if any(map(str.strip, cells))]
    except csv.Error as error:
        raise ArchiveError(f"{path}: not a readable CSV: {error}") from error
    for number, cells in rows:
        _check_cells(path, number, names, cells)
    return _file(path, names, [(number, dict(zip(names, cells, strict=False))) for number, cells in rows], delimiter)


def _text(content: bytes) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # "Unicode text" of a spreadsheet
        return content.decode("utf-16")
    return content.decode("utf-8-sig")


def _delimiter(text: str) -> str:
    """The one that gives the first line a column that counts steps."""
    first = text.partition("\n")[0]
    known = {name for names in COLUMNS.values() for name in names}
    for delimiter in (",", ";", "\t", "|"):
        if known & {canonical(name.strip().strip('"')) for name in first.split(delimiter)}:
            return delimiter
    return ","


def _file(
    path: Path, names: Sequence[str], rows: Sequence[tuple[int, Mapping[str, str]]], delimiter: str
) -> MetricFile:
    """`rows`: number and cells by the names of their columns, as many as the row has."""
    _check_header(path, names)
    run_column = next((name for wanted in RUNS for name in names if canonical(name) == wanted), None)
    numeric = {n: _counts(n) for n in names if n and n != run_column and canonical(n) not in _CLOCK}
    texts = [{name: cell.strip() for name, cell in cells.items()} for _, cells in rows]
    numbers = [{n: _number(cell, delimiter, numeric[n]) for n, cell in row.items() if n in numeric} for row in texts]
    columns: dict[str, list[float | str]] = {name: [] for name in numeric}
    for values in numbers:
        for name, value in values.items():
            if value is not None:
                columns[name].append(value)
    ignored = {name for name, column in columns.items() if _is_text(column)}
    lines = []
    for (number, _), row, values in zip(rows, texts, numbers, strict=True):
        _check_numbers(path, number, row, {n: v for n, v in values.items() if n not in ignored}, delimiter)
        run = row.get(run_column, "") if run_column is not None else None
        if run == "":
            raise ArchiveError(f"{path}, line {number}, column {run_column!r}: it is empty; name the run")
        lines.append(
            LogLine(number, run, {n: v for n, v in values.items() if isinstance(v, float) and n not in ignored})
        )
    read = MetricFile(path, tuple(lines), run_column is not None, None, tuple(sorted(ignored)))
    if _is_tensorboard(names):
        return _named_by_file(read, names)
    return _by_title(read) if run_column is None else read


def _check_header(path: Path, names: Sequence[str]) -> None:
    known = {column for columns in COLUMNS.values() for column in columns}
    if not known & set(map(canonical, names)):
        raise ArchiveError(
            f"{path}, line 1: no column 'step', 'epoch' or 'global_step'; it has: {', '.join(names) or 'nothing'}"
        )
    for name, count in Counter(names).items():
        if name and count > 1:
            raise ArchiveError(f"{path}, line 1: two columns are called {name!r}; rename one")


def _check_cells(path: Path, number: int, names: Sequence[str], cells: Sequence[str]) -> None:
    if len(cells) > len(names) and any(cell.strip() for cell in cells[len(names) :]):
        raise ArchiveError(
            f"{path}, line {number}: {len(cells)} cells, and the first line names {len(names)} columns; quote "
            "cells that hold the separator"
        )


def _check_numbers(
    path: Path, number: int, row: Mapping[str, str], values: Mapping[str, float | str | None], delimiter: str
) -> None:
    for name, value in values.items():
        if isinstance(value, str):
            comma = "," in value and delimiter == ","
            way_out = "write decimals with a point" if comma else "write a number, or leave the cell empty"
            raise ArchiveError(f"{path}, line {number}, column {name!r}: {row[name]!r} is not a number; {way_out}")


def _number(cell: str, delimiter: str, is_step: bool) -> float | str | None:
    """A cell's number; None where it is missing, the text where it is neither. A step that is NaN is not missing."""
    if cell.lower() in _MISSING and not (is_step and cell.lower() == "nan"):
        return None
    if delimiter != "," and _DECIMAL_COMMA.fullmatch(cell):
        cell = cell.replace(",", ".")
    try:
        return float(cell)
    except ValueError:
        return cell


def _is_text(column: Sequence[float | str]) -> bool:
    """Whether a column holds no number, not even one that is written in an unusual way: phases, host names, times."""
    return bool(column) and all(isinstance(cell, str) and not _NUMBER_LIKE.fullmatch(cell) for cell in column)


def _is_tensorboard(names: Sequence[str]) -> bool:
    return sorted(map(canonical, names)) == ["step", "value", "wall_time"]


def _named_by_file(read: MetricFile, names: Sequence[str]) -> MetricFile:
    """TensorBoard writes a curve a file: "Value" is of the tag in the file's name, run-RUN-tag-TAG.csv."""
    parts = re.fullmatch(r"(?:run-(?P<run>.+?)-tag-)?(?P<tag>.+)", read.path.stem)
    assert parts is not None
    value = next(name for name in names if canonical(name) == "value")
    lines = [
        LogLine(line.number, None, {parts["tag"] if name == value else name: v for name, v in line.values.items()})
        for line in read.lines
    ]
    return MetricFile(read.path, tuple(lines), run=parts["run"], ignored=read.ignored)


def _by_title(read: MetricFile) -> MetricFile:
    """Weights & Biases titles a curve "RUN - METRIC" and adds the ends of its range: a line for each run."""
    names = list(dict.fromkeys(name for line in read.lines for name in line.values))
    curves = [name for name in names if " - " in name]
    others = set(names).difference(curves)
    ranged = any(name.endswith(_WANDB_RANGE) for name in curves)
    if not curves or not (ranged or all(_counts(name) for name in others)):
        return read
    return MetricFile(read.path, tuple(_split(read.lines, set(curves))), ignored=read.ignored)


def _counts(name: str) -> bool:
    return any(canonical(name) in columns for columns in COLUMNS.values())


def _split(lines: Sequence[LogLine], curves: set[str]) -> Iterator[LogLine]:
    for line in lines:
        shared = {name: value for name, value in line.values.items() if name not in curves}
        by_run: dict[str, dict[str, float]] = {}
        for title in curves & set(line.values):
            run, _, metric = title.partition(" - ")
            if not metric.endswith(_WANDB_RANGE) and not _counts(metric):
                by_run.setdefault(run.strip(), {})[metric.strip()] = line.values[title]
        for run in sorted(by_run):
            yield LogLine(line.number, run, {**shared, **by_run[run]})
