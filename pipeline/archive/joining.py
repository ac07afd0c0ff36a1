"""Finds runs of one checkpoint whose names differ only in a number or a date, and says how to join them."""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pipeline.archive.findings import Findings
from pipeline.archive.name_parts import CLOCKS, Name, Slot, describes_run, is_mark, parse
from pipeline.archive.types import Run

MANY = 3
_TIME = re.compile(r"[\dT:+_\- ]+")
_Names = TypeVar("_Names", dict[int, str], dict[str, str])


@dataclass(frozen=True, order=True)
class _Place:
    """Where in its path a run's name differs from others': in a part below `parent`, between `before` and `after`."""

    parent: str
    before: str
    after: str


def note_joinable(runs: Sequence[Run], findings: Findings) -> None:
    """One hint for each set of runs that a step pattern would join, or that could be joined under other names."""
    numbered: dict[tuple[_Place, str], dict[int, str]] = defaultdict(dict)
    marked: dict[tuple[_Place, str], dict[str, str]] = defaultdict(dict)
    for run in runs:
        if len(run.checkpoints) != 1 or (source := run.checkpoints[0].step_source) == "name":
            continue
        parts = run.id.split("/")
        for at in range(1, len(parts)):
            name, below = parts[at], "/".join(parts[at + 1 :])
            parsed = parse(name)
            for slot in parsed.slots:
                value, token = slot.token.value, slot.token
                place = _Place("/".join(parts[:at]), name[: token.start], name[token.end :])
                if is_mark(slot) or _is_fraction(parsed, slot):
                    marked[place, below][name] = token.text
                elif source == "none" and value is not None and _may_be_step(parsed, slot):
                    numbered[place, below][value] = name
    for place, names in _by_place(numbered):
        pattern = shlex.quote(f"^{_escaped(place.before)}(\\d+){_escaped(place.after)}$")
        runs_of = _of_one_checkpoint(place.parent, [names[value] for value in sorted(names)])
        findings.hint(
            f"{runs_of} have names that differ only by a number; if it is the training step, join them with "
            f"--step-pattern {pattern}"
        )
    for place, marks in _by_place(marked):
        pattern = _pattern_of_times(place, list(marks.values()))
        option = f"join them with --step-pattern {shlex.quote(pattern)}, or " if pattern else ""
        findings.hint(
            f"{_of_one_checkpoint(place.parent, sorted(marks))} have names that differ only by a date, a hash or a "
            f"fraction; if they are checkpoints of one run, {option}rename them with their steps: "
            f"{place.before}step100{place.after}"
        )


def _by_place(groups: Mapping[tuple[_Place, str], _Names]) -> Iterator[tuple[_Place, _Names]]:
    """The groups of many names; those that differ only in what lies below (model, classifier) once."""
    told = set()
    for (place, _), names in sorted(groups.items(), key=lambda item: item[0]):
        if len(names) >= MANY and place not in told:
            told.add(place)
            yield place, names


def _pattern_of_times(place: _Place, times: Sequence[str]) -> str:
    """A step pattern that takes the first number in which dates and times differ, where it tells them all apart. Its
    empty series keeps the numbers after it from naming series of their own."""
    rows = [re.findall(r"\d+", text) for text in times]
    if len({len(row) for row in rows}) != 1 or not all(_TIME.fullmatch(text) for text in times):
        return ""
    for at, column in enumerate(zip(*rows, strict=True)):
        if len(set(column)) > 1:
            skipped = f"(?:\\d+\\D+){{{at}}}" if at else ""
            return (
                f"^{_escaped(place.before)}{skipped}(?P<step>\\d+)(?P<series>)"
                if len(set(map(int, column))) == len(times)
                else ""
            )
    return ""


def _may_be_step(name: Name, slot: Slot) -> bool:
    return slot.token.text.isdigit() and slot.role != "measured" and not describes_run(name, slot)


def _is_fraction(name: Name, slot: Slot) -> bool:
    """Whether a number is that of an epoch or a step, and written with a decimal point: epoch=0.5."""
    return slot.token.kind == "decimal" and slot.at > 0 and name.tokens[slot.at - 1].word in CLOCKS


def _of_one_checkpoint(parent: str, names: Sequence[str]) -> str:
    shown = ", ".join(names[:MANY]) + (", …" if len(names) > MANY else "")
    return f"{parent}: {len(names)} runs with one checkpoint each ({shown})"


def _escaped(text: str) -> str:
    """Literal text in a regular expression, with no more backslashes than it needs."""
    return re.sub(r"([.^$*+?{}\[\]\\|()])", r"\\\1", text)
