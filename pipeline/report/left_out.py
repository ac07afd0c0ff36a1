"""What was not analysed, and why: what is wrong stands open, what is left out by design stands behind a click."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import xarray as xr

from pipeline.report.blocks import Block, Details, Prose, Section, from_rows, several
from pipeline.report.compare import analyzer_nodes, measured_nodes
from pipeline.report.contents import Contents, Rows
from pipeline.units import reasons
from pipeline.units.reasons import cause

LISTED = 50
"""Rows of a table on the page; report.zarr has all."""
WAYS_OUT = {
    "not finite": "the tensor itself holds NaN or infinity: save it again, or skip it with --exclude or --steps",
    "is not in the store": "give the base with --base; it must be in the archive or in the catalog",
    "has no such step": "give a step that the base has with --base run@step",
    "no matrix of this name": "give the base that this run was trained from with --base",
    "a counterpart of equal name": "give the base that this run was trained from with --base",
    "shape": "give the base of the same architecture with --base",
}
"""A part of a reason → what the reader can do."""


def not_analysed(tree: xr.DataTree, contents: Contents) -> Section:
    """Problems, failures and values that are missing because something is wrong; then what is so by design."""
    blocks = list(_wrong(tree, contents))
    if not blocks:
        blocks.append(Prose(("No problems: every file was read and every computation succeeded.",)))
    idle = tuple(_idle(tree))
    if idle:
        blocks.append(Prose(idle))
    blocks += _by_design(contents)
    return Section("not-analysed", "What was not analysed, and why", tuple(blocks))


def _idle(tree: xr.DataTree) -> Iterator[str]:
    """Analyzers that were asked for and measured nothing, with what they say of it."""
    for node in [name for name in analyzer_nodes(tree) if name not in measured_nodes(tree)]:
        notes = " ".join(str(tree[node].attrs.get("notes", "")).split("\n"))
        yield f"{node} gave no value. {notes}".strip()


def is_wrong(row: Mapping[str, Any]) -> bool:
    """Whether a row of /archive/skipped is about something amiss; reports without the column say nothing of it."""
    return bool(row.get("wrong", 0))


def _wrong(tree: xr.DataTree, contents: Contents) -> list[Block]:
    blocks: list[Block] = []
    said = tuple(line for line in str(tree.attrs.get("problems", "")).splitlines() if line.strip())
    if said:
        blocks.append(Prose(said))
    if contents.problems:
        columns = {"path": "file", "tensor": "tensor", "reason": "reason", "hint": "what to do"}
        blocks.append(from_rows("Files and tensors that could not be read.", contents.problems, columns, LISTED))
    missing = _merged(_with_causes(contents.skipped), ("file", "tensors", "reason"))
    if missing:
        columns = {
            "file": "file",
            "tensors": "tensor",
            "reason": "reason",
            "hint": "what to do",
            "count": "values",
            "example": "for example",
        }
        rows = [{**row, "hint": _way_out(str(row["reason"]))} for row in missing]
        blocks.append(from_rows("What has no value because of a problem.", rows, columns, LISTED))
    held = sum(int(row.get("count") or 0) for row in contents.skipped if row.get("code") == reasons.LISTED)
    if held:
        blocks.append(Prose((f"{several(held, 'value is', 'values are')} missing because of these files.",)))
    if contents.failures:
        columns = {"statistic": "statistic", "run": "run", "step": "step", "matrix": "matrix", "error": "error"}
        caption = "Computations that failed; running the same command again retries them."
        blocks.append(from_rows(caption, contents.failures, columns, LISTED))
    return blocks


def _with_causes(skipped: Rows) -> list[dict[str, Any]]:
    """The rows of what is wrong and not listed elsewhere; what follows from another row gets its reason and place, so
    that it is counted there and not told again."""
    wrong = [row for row in skipped if is_wrong(row) and row.get("code") != reasons.LISTED]
    places = {str(row["reason"]): {"file": row.get("file"), "tensors": row.get("tensors")} for row in wrong}
    rows = []
    for row in wrong:
        own = str(row.get("cause") or cause(str(row["reason"]))[0])
        rows.append(
            {**row, "reason": own, **places[own]} if own in places else {**row, "reason": cause(str(row["reason"]))[0]}
        )
    return rows


def _way_out(reason: str) -> str:
    return next((hint for part, hint in WAYS_OUT.items() if part in reason), "")


def _by_design(contents: Contents) -> list[Block]:
    blocks: list[Block] = []
    skipped = _merged([row for row in contents.skipped if not is_wrong(row)], ("reason",))
    if skipped:
        columns = {"reason": "reason", "statistics": "statistics", "count": "values", "example": "for example"}
        table = from_rows("Values that are not measured, by reason.", skipped, columns, LISTED)
        blocks.append(Details(f"By design: {several(len(skipped), 'reason')} why matrices have no value", (table,)))
    grouped = by_reason(contents.unmeasured)
    if grouped:
        tensors = sum(int(row["tensors"]) for row in grouped)
        columns = {"reason": "reason", "tensors": "tensors", "runs": "runs", "examples": "for example"}
        table = from_rows("Tensors that are not measured as a matrix, by reason.", grouped, columns, LISTED)
        blocks.append(
            Details(f"By design: {several(tensors, 'tensor is not a matrix', 'tensors are not matrices')}", (table,))
        )
    if contents.notes:
        noted = [{"run": row["run"] or "(the archive)", "note": row["note"]} for row in contents.notes]
        table = from_rows("What was ignored by design, by run.", noted, {"run": "run", "note": "note"}, LISTED)
        blocks.append(Details(f"By design: {several(len(noted), 'note')} on what was ignored in the runs", (table,)))
    return blocks


def _merged(rows: Rows, by: tuple[str, ...]) -> list[dict[str, Any]]:
    """One row for rows that agree in `by`: their statistics listed, their counts added, the first as the example."""
    groups: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
        group = groups.setdefault(
            tuple(str(row.get(name, "")) for name in by), {**row, "count": 0, "statistics": "", "names": {}}
        )
        group["count"] += int(row.get("count") or 0)
        group["names"][str(row.get("statistic", ""))] = None
        group["statistics"] = ", ".join(group["names"])
    return sorted(groups.values(), key=lambda group: -group["count"])


def by_reason(rows: Rows) -> list[dict[str, Any]]:
    """Unmeasured tensors by reason: how many distinct names and runs, and examples."""
    groups: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for row in rows:
        tensors, runs = groups.setdefault(str(row["reason"]), ({}, {}))
        tensors[str(row["tensor"])] = None
        runs[str(row.get("run", ""))] = None
    return [
        {
            "reason": reason,
            "tensors": len(tensors),
            "runs": len(runs),
            "examples": ", ".join(list(tensors)[:3]) + (", …" if len(tensors) > 3 else ""),
        }
        for reason, (tensors, runs) in sorted(groups.items(), key=lambda item: -len(item[1][0]))
    ]
