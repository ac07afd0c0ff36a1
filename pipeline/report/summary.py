"""The first paragraph: what was analysed and what the numbers say, in plain words, nothing dressed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from pipeline.report import intrinsic_text, intruder_totals, pathway_text
from pipeline.report.blocks import number, several
from pipeline.report.compare import KeyVariable, analyzer_nodes, compares, measured_nodes, series_of
from pipeline.report.contents import Contents
from pipeline.report.look import Look
from pipeline.report.movers import MoverTable
from pipeline.report.step_units import mixed_units

SAID = 3
"""Variables and runs that the paragraph speaks of; the figures show the rest."""


def sentences(
    tree: xr.DataTree, contents: Contents, variables: Sequence[KeyVariable], movers: MoverTable | None, look: Look
) -> tuple[str, ...]:
    """The sentences, in order: what there is, what could not be done, how medians moved, the top mover, intruders."""
    return tuple(
        sentence
        for sentence in (
            _what(tree, contents, look),
            mixed_units(contents.run_rows),
            _missing(contents, compares(tree)),
            _moved(variables, look),
            _top(movers, look),
            _intruders(tree, look),
            _intrinsic(tree),
            pathway_text.sentence(tree, look),
        )
        if sentence
    )


def _what(tree: xr.DataTree, contents: Contents, look: Look) -> str:
    nodes = measured_nodes(tree)
    without = [node for node in analyzer_nodes(tree) if node not in nodes]
    steps = contents.steps
    span = (
        f" between {look.steps.at(int(steps[0]))} and {look.steps.at(int(steps[-1]))}"
        if steps.size > 1
        else f" at {look.steps.at(int(steps[0]))}"
        if steps.size
        else ""
    )
    count = sum(int(row.get("checkpoints") or 0) for row in contents.run_rows)
    checkpoints = f" with {several(count, 'checkpoint')}" if count else ""
    matrices = f", {several(contents.matrices, 'distinct matrix', 'distinct matrices')}" if contents.matrices else ""
    measured = f", measured by {', '.join(nodes)}" if nodes else "; no analyzer gave a result"
    nothing = f" Nothing was measured by {_list(without)}: see what was not analysed." if nodes and without else ""
    return f"{several(len(contents.runs), 'run')}{checkpoints}{span}{matrices}{measured}.{nothing}"


def _missing(contents: Contents, compared: bool) -> str:
    parts = []
    if contents.problems:
        parts.append(
            several(len(contents.problems), "file or tensor could not be read", "files or tensors could not be read")
        )
    if contents.failures:
        parts.append(several(len(contents.failures), "computation failed", "computations failed"))
    flagged = [row["run"] for row in contents.run_rows if row.get("base_kind") == "first_step"]
    if flagged and compared:
        one = (
            "is compared with its own first saved step"
            if len(flagged) == 1
            else "are compared with their own first saved step"
        )
        parts.append(f"{several(len(flagged), 'run')} {one}, not with a known base")
    return (_list(parts) + ".") if parts else ""


def _moved(variables: Sequence[KeyVariable], look: Look) -> str:
    """Of the first few variables, the run whose value (or median over matrices) changed most."""
    said = []
    for variable in variables:
        ends = [
            (s.run, s.median[0], s.median[-1])
            for s in series_of(variable)
            if s.steps.size > 1 and np.isfinite(s.median[[0, -1]]).all() and s.median[0] > 0 and s.median[-1] > 0
        ]
        if not ends or variable.node == intruder_totals.NODE:
            continue
        run, first, last = max(ends, key=lambda e: abs(np.log(e[2] / e[1])))
        if number(first) == number(last):
            continue
        verb = "rose" if last > first else "fell"
        among = " (the largest change among the runs)" if len(ends) > 1 else ""
        of_matrices = "matrix" in variable.values.dims
        role = look.roles.of_values(variable.values).word(run) if of_matrices else ""
        of = f" over its {role}" if role else ""
        what = f"the median over matrices of {variable.long_name}" if of_matrices else variable.long_name
        said.append(f"{what} {verb} from {number(first)} to {number(last)} in {look.label(run)}{of}{among}")
        if len(said) == SAID:
            break
    return f"Between first and last measured step, {_list(said)}." if said else ""


def _top(movers: MoverTable | None, look: Look) -> str:
    if movers is None or not movers.movers or movers.movers[0].moved == 0:
        return ""
    top = movers.movers[0]
    where = f"{look.matrix(top.matrix)} in {look.label(top.run)}"
    return f"The matrix that moved most is {where}: {number(top.moved)} ({movers.measure})."


def _intruders(tree: xr.DataTree, look: Look) -> str:
    if not intruder_totals.has_counts(tree):
        return ""
    totals, label = intruder_totals.over_steps(tree)
    parts = []
    for of_run in sorted(totals, key=lambda t: -t.count[-1])[:SAID]:
        null, low, high = of_run.null[-1], of_run.null_low[-1], of_run.null_high[-1]
        interval = f" ({number(low)} to {number(high)})" if np.isfinite(low) else ""
        beside = "" if np.isnan(null) else f" where random directions give {number(null)}{interval}"
        parts.append(
            f"{look.label(of_run.run)} ends with {number(of_run.count[-1])}{beside}; over all sides, k and ε "
            f"{of_run.verdict()}"
        )
    more = f", the {SAID} of {len(totals)} runs with most" if len(totals) > SAID else ""
    return f"Intruder dimensions ({label}{more}). {'. '.join(parts)}." if parts else ""


def _intrinsic(tree: xr.DataTree) -> str:
    """What each task says of intrinsic dimension, one after the other."""
    node = tree[intrinsic_text.NODE].to_dataset() if intrinsic_text.NODE in tree.children else xr.Dataset()
    if node.sizes.get("task", 0) < 2:
        return intrinsic_text.sentence(tree)
    one_each = (node.isel(task=[i]) for i in range(min(SAID, node.sizes["task"])))
    root = xr.Dataset(attrs=tree.attrs)
    trees = (xr.DataTree.from_dict({"/": root, f"/{intrinsic_text.NODE}": one}) for one in one_each)
    said = [intrinsic_text.sentence(each) for each in trees]
    more = node.sizes["task"] - SAID
    further = f"{several(more, 'further task')} below." if more > 0 else ""
    return " ".join(sentence for sentence in (*said, further) if sentence)


def _list(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""
