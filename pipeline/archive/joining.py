"""Finds runs of one checkpoint whose names differ only in a number, and the step pattern that would join them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from pipeline.archive.findings import Findings
from pipeline.archive.name_parts import describes_run, parse
from pipeline.archive.types import Run

MANY = 3


def note_joinable(runs: Sequence[Run], findings: Findings) -> None:
    """One hint for each set of runs that a step pattern would join."""
    sets: dict[tuple[str, str, str], dict[int, str]] = {}
    for run in runs:
        if [checkpoint.step_source for checkpoint in run.checkpoints] != ["none"]:
            continue
        parent, _, name = run.id.rpartition("/")
        parsed = parse(name)
        for slot in parsed.slots:
            value, token = slot.token.value, slot.token
            if (
                value is not None
                and token.text.isdigit()
                and slot.role != "measured"
                and not describes_run(parsed, slot)
            ):
                sets.setdefault((parent, name[: token.start], name[token.end :]), {})[value] = name
    for (parent, before, after), names in sorted(sets.items()):
        if len(names) >= MANY and parent:
            pattern = shlex.quote(f"^{_escaped(before)}(\\d+){_escaped(after)}$")
            shown = ", ".join(names[value] for value in sorted(names)[:MANY]) + (", …" if len(names) > MANY else "")
            findings.hint(
                f"{parent}: {len(names)} runs with one checkpoint each ({shown}) have names that differ only by a "
                f"number; if it is the training step, join them with --step-pattern {pattern}"
            )


def _escaped(text: str) -> str:
    """Literal text in a regular expression, with no more backslashes than it needs."""
    return re.sub(r"([.^$*+?{}\[\]\\|()])", r"\\\1", text)
