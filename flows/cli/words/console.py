"""What a user sees: tables and progress bars on a terminal, plain lines in a log.

Results go to stdout, complaints to stderr. rich is imported only when a bar or a table is drawn.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pipeline.analysis.unchanged import Unchanged

_PLAINER = str.maketrans({"·": "-", "→": "->", "…": "...", "×": "x", "−": "-", "–": "-", "—": "-", "≤": "<="})
"""Replacements in our own lines where the terminal lacks a character."""

CONTENTS_LISTED = 10
"""Warnings and notes about contents on the screen; the report has all."""
LOG_EVERY_SECONDS = 10.0
"""How often a progress in plain lines writes one."""


def survive_any_text() -> None:
    """stdout and stderr write what their encoding lacks (ASCII, cp1252) as escapes, instead of raising."""
    codecs.register_error("varve", _escaped)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="varve")


def ensure_streams() -> None:
    """A closed stdout or stderr (`varve … >&-`) becomes one that takes everything."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - open to the end


def discard_output() -> None:
    """From now on stdout takes everything: its reader has gone, or its disk is full."""
    with contextlib.suppress(OSError, ValueError, io.UnsupportedOperation):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _escaped(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    from pipeline.archive.text import encodable

    text = encodable(error.object[error.start : error.end]).translate(_PLAINER)
    return text.encode("ascii", "backslashreplace").decode("ascii"), error.end


def printed(text: str) -> str:
    """The text as stdout shows it, for the widths of columns."""
    encoding = sys.stdout.encoding or "utf-8"
    return text if text.isascii() else text.encode(encoding, sys.stdout.errors or "strict").decode(encoding)


def json_text(data: Any) -> str:
    """Data as JSON for stdout, in ASCII where that has not every letter."""
    from pipeline.archive.text import encodable_data

    every_letter = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    return json.dumps(encodable_data(data), indent=2, ensure_ascii=not every_letter)


def say(text: str = "") -> None:
    """A line for the reader, at once (a pipe would otherwise hold it back). A reader who has seen enough, as in
    `varve analyze RUNS | head`, does not end the work."""
    try:
        print(_shown(text), flush=True)
    except BrokenPipeError:
        discard_output()


def complain(text: str) -> None:
    """A line on stderr; where that is full nobody can be told."""
    with contextlib.suppress(OSError):
        print(_shown(text), file=sys.stderr, flush=True)


def _shown(text: str) -> str:
    if text.isprintable():
        return text
    from pipeline.archive.text import shown

    return shown(text)


def is_terminal() -> bool:
    """Whether somebody watches."""
    return sys.stdout.isatty()


def size(count: float) -> str:
    """Bytes as people say them: 512 B, 1.5 MB, 2.0 GB (decimal)."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def duration(seconds: float) -> str:
    """Seconds as people say them: 0.4 s, 12 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


_ROUND_SECONDS = (10, 20, 30, 45, 60, 90)


def rough_duration(low: float, middle: float, high: float) -> str:
    """An estimate with no more precision than it has: about 5 min, or 3 to 8 min where its bounds lie far apart."""
    if high <= 1.5 * low or _rounded(low) == _rounded(high):
        return f"about {_rounded(middle)}"
    low_count, low_unit = _rounded(low).split(" ")
    high_count, high_unit = _rounded(high).split(" ")
    return f"{low_count}{'' if low_unit == high_unit else ' ' + low_unit} to {high_count} {high_unit}"


def _rounded(seconds: float) -> str:
    if seconds <= 75:
        return f"{min(_ROUND_SECONDS, key=lambda near: abs(near - seconds))} s"
    if seconds < 5400:
        minutes = round(seconds / 60)
        return f"{minutes if minutes < 20 else 5 * round(minutes / 5)} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 10 else f"{hours:.0f} h"


def number(count: float) -> str:
    """5521 as 5,521."""
    return f"{count:,.0f}"


def nothing_to_read(checkpoints: int) -> str:
    """That the store already holds every checkpoint of the archive."""
    return f"Nothing to read: the store already holds {plural(checkpoints, 'checkpoint')}, unchanged."


def nothing_to_compute(units: int) -> str:
    """That the store already holds every result."""
    return f"Nothing to compute: the store already holds the results of {plural(units, 'unit')}."


def content_lines(warnings: Sequence[str], notes: Sequence[str]) -> list[str]:
    """What the checkpoints' contents show, warnings first; nothing when there is nothing."""
    lines: list[str] = []
    for what, sentences in (("warning", warnings), ("note", notes)):
        if sentences:
            more = len(sentences) - CONTENTS_LISTED
            lines += ["", f"{plural(len(sentences), what)} about the checkpoints' contents:"]
            lines += [f"  {sentence}" for sentence in sentences[:CONTENTS_LISTED]]
            lines += [f"  and {number(more)} more, listed in the report"] if more > 0 else []
    return lines


def problem_lines(problems: Sequence[str]) -> list[str]:
    """Everything that could not be read or measured; nothing when there is nothing."""
    if not problems:
        return []
    return ["", f"{plural(len(problems), 'problem')}:", *(f"  {line}" for line in problems)]


def place(path: str | Path) -> str:
    """A path as it is shown: below the current folder relative to it, elsewhere absolute, never with `..` in it."""
    absolute = os.path.abspath(path)  # noqa: PTH100 - Path.absolute keeps `..`
    here = f"{os.getcwd().rstrip(os.sep)}{os.sep}"  # noqa: PTH109 - compared as text with the line above
    return absolute.removeprefix(here)


def nothing_new(earlier: Unchanged) -> list[str]:
    """What an analysis with nothing to add says."""
    done = earlier.done
    return [
        nothing_to_read(done.checkpoints),
        nothing_to_compute(done.units),
        *content_lines(done.warnings, done.notes),
        *problem_lines(done.problems),
        "",
        "The report is up to date.",
        report_lines(earlier.html, earlier.zarr),
    ]


def report_lines(html: Path, zarr: Path) -> str:
    """Where a report is, in two lines."""
    return f"report: {place(html)}\n        {place(zarr)}  (xarray.open_datatree)"


def plural(count: int, noun: str, plural_form: str | None = None) -> str:
    """1 run, 2 runs; 1 entry, 2 entries when the plural is given."""
    return f"{number(count)} {noun if count == 1 else plural_form or noun + 's'}"


def table(headers: Sequence[str], rows: Sequence[Sequence[Any]], right: Sequence[int] = ()) -> str:
    """An aligned plain-text table, the same on a terminal, in a log and in a mail. `right`: columns of numbers."""
    cells = [[str(h) for h in headers], *[["" if c is None else printed(str(c)) for c in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headers))]

    def line(row: Sequence[str]) -> str:
        parts = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        return "  ".join(parts).rstrip()

    rule = "  ".join("-" * w for w in widths)
    return "\n".join([line(cells[0]), rule, *(line(row) for row in cells[1:])])


class Advance(Protocol):
    """Moves a progress on; `done` is absolute. `total` corrects what it is of, where that was not known before.
    `to_go` says how long it still takes, for work whose pieces differ; None: by the pieces that are done."""

    def __call__(self, done: float, note: str = "", total: float | None = None, to_go: str | None = None) -> None: ...


@contextlib.contextmanager
def progress(label: str, total: float) -> Iterator[Advance]:
    """A bar on a terminal, a line every ten seconds and one at the end in a log. Nothing at all for `total` 0."""
    if total <= 0:
        yield lambda done, note="", total=None, to_go=None: None
    elif is_terminal():
        with _bar(label, total) as advance:
            yield advance
    else:
        with _lines(label, total) as advance:
            yield advance


def _by_pieces(started: float, done: float, total: float) -> str:
    """How long it still takes if every piece takes as long as those that are done."""
    if not done or done >= total:
        return ""
    seconds = (time.monotonic() - started) / done * (total - done)
    return rough_duration(seconds, seconds, seconds)


@contextlib.contextmanager
def _bar(label: str, total: float) -> Iterator[Advance]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[to_go]}", markup=False),
        TextColumn("{task.fields[note]}", markup=False),  # names of an archive, which may hold "[/b]"
    )
    started = time.monotonic()
    with Progress(*columns, transient=False) as bar:
        task = bar.add_task(label, total=total, note="", to_go="")

        def advance(done: float, note: str = "", total: float | None = None, to_go: str | None = None) -> None:
            whole = bar.tasks[0].total if total is None else total
            left = _by_pieces(started, done, whole or 0.0) if to_go is None else to_go
            bar.update(task, completed=done, note=note, total=total, to_go=f"{left} to go" if left else "")

        yield advance


@contextlib.contextmanager
def _lines(label: str, total: float) -> Iterator[Advance]:
    started = spoken = time.monotonic()
    last, whole = 0.0, total

    def advance(done: float, note: str = "", total: float | None = None, to_go: str | None = None) -> None:
        nonlocal spoken, last, whole
        whole = max(whole if total is None else total, done)
        last = done
        now = time.monotonic()
        if now - spoken >= LOG_EVERY_SECONDS and done < whole:
            spoken = now
            left = _by_pieces(started, done, whole) if to_go is None else to_go
            eta = f", {left} to go" if left else ""
            share = f"{100 * done / whole:.0f} %"
            say(f"{label}: {number(done)} of {number(whole)} ({share}){eta}{': ' + note if note else ''}")

    yield advance
    say(f"{label}: {number(last)} of {number(whole)} in {duration(time.monotonic() - started)}")
