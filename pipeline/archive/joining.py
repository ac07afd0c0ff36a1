"""Finds runs of one checkpoint whose names differ only in a number or a date, and says how to join them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from pipeline.archive.findings import Findings
from pipeline.archive.name_parts import CLOCKS, Name, Slot, describes_run, is_mark, parse
from pipeline.archive.types import Run

MANY = 3


def note_joinable(runs: Sequence[Run], findings: Findings) -> None:
    """One hint for each set of runs that a step pattern would join, or that could be joined under other names."""
    numbered: dict[tuple[str, str, str], dict[int, str]] = {}
    marked: dict[tuple[str, str, str], list[str]] = {}
    for run in runs:
        parent, _, name = run.id.rpartition("/")
        if len(run.checkpoints) != 1 or not parent or (source := run.checkpoints[0].step_source) == "name":
            continue
        parsed = parse(name)
        for slot in parsed.slots:
            value, token = slot.token.value, slot.token
            key = (parent, name[: token.start], name[token.end :])
            if is_mark(slot) or _is_fraction(parsed, slot):
                marked.setdefault(key, []).append(name)
            elif (
                source == "none"
                and value is not None
                and token.text.isdigit()
                and slot.role != "measured"
                and not describes_run(parsed, slot)
            ):
                numbered.setdefault(key, {})[value] = name
    for (parent, before, after), names in sorted(numbered.items()):
        if len(names) >= MANY:
            pattern = shlex.quote(f"^{_escaped(before)}(\\d+){_escaped(after)}$")
            findings.hint(
                f"{_of_one_checkpoint(parent, [names[value] for value in sorted(names)])} have names that differ only "
                f"by a number; if it is the training step, join them with --step-pattern {pattern}"
            )
    for (parent, before, after), marks in sorted(marked.items()):
        if len(marks) >= MANY:
            findings.hint(
                f"{_of_one_checkpoint(parent, sorted(marks))} have names that differ only by a date, a hash or "
                f"a fraction; if they are checkpoints of one run, rename them with their steps: {before}step100{after}"
            )


def _is_fraction(name: Name, slot: Slot) -> bool:
    """Whether a number is that of an epoch or a step, and written with a decimal point: epoch=0.5."""
    return slot.token.kind == "decimal" and slot.at > 0 and name.tokens[slot.at - 1].word in CLOCKS


def _of_one_checkpoint(parent: str, names: Sequence[str]) -> str:
    shown = ", ".join(names[:MANY]) + (", …" if len(names) > MANY else "")
    return f"{parent}: {len(names)} runs with one checkpoint each ({shown})"


def _escaped(text: str) -> str:
    """Literal text in a regular expression, with no more backslashes than it needs."""
    return re.sub(r"([.^$*+?{}\[\]\\|()])", r"\\\1", text)
