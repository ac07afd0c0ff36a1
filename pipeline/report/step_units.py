"""What the steps of a report count: training steps, epochs or episodes, as the archive's table of runs says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import xarray as xr

from pipeline.report.contents import Rows, archive_rows

STEP = "step"
MIXED = "mixed"
_AXES = {STEP: "training step", MIXED: "step (the unit differs over runs)"}


def unit_of(rows: Rows) -> str:
    """ "step", "epoch" or "episode" where all runs count the same, else "mixed"; `rows` are those of /archive/runs."""
    units = set(_by_unit(rows))
    return units.pop() if len(units) == 1 else MIXED if units else STEP


def axis_label(unit: str) -> str:
    """The label of an axis of steps: "training step", "epoch", ..."""
    return _AXES.get(unit, unit)


def word_of(unit: str) -> str:
    """The word before a step's number in a sentence."""
    return STEP if unit == MIXED else unit


def mixed_units(rows: Rows) -> str:
    """A sentence that says which runs count what, "" where all count the same."""
    by_unit = _by_unit(rows)
    if len(by_unit) < 2:
        return ""
    parts = [f"{unit}s in {_few(runs)}" for unit, runs in sorted(by_unit.items())]
    return f"The runs do not count the same: their steps are {' and '.join(parts)}."


def mark_units(tree: xr.DataTree) -> None:
    """Writes the unit into the report: `step_unit` at the root, and the name of every coordinate `step`."""
    unit = unit_of(archive_rows(tree, "runs"))
    tree.attrs["step_unit"] = unit
    if unit == STEP:
        return
    for node in tree.subtree:
        if "step" in node.coords and "step" in node.dataset.coords:
            node.coords["step"].attrs["long_name"] = axis_label(unit)


def _by_unit(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    by_unit: dict[str, list[str]] = {}
    for row in rows:
        units = [unit for unit in str(row.get("step_unit") or "").split(", ") if unit]
        for unit in units if row.get("role") != "base" else ():
            by_unit.setdefault(unit, []).append(str(row["run"]))
    return by_unit


def _few(runs: Sequence[str], most: int = 3) -> str:
    return ", ".join(runs[:most]) + (f" and {len(runs) - most} more" if len(runs) > most else "")
