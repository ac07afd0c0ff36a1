"""Intrinsic dimension in words: crossings with censoring and doubts, conventions, a sentence for the summary."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import xarray as xr

from analyzers.intrinsic_dimension.doubts import MEANINGS
from pipeline.report.step_units import STEP, word_of

NODE = "intrinsic_dimension"
CONVENTIONS = (
    "d_int is the least d at which training in d random dimensions, from this checkpoint, reaches the threshold.",
    "local: level × this checkpoint’s own full training. run: level × the best full training of its run. global: level "
    "× the task’s full marks. corrected: counted from what always naming the commonest class scores.",
    "“above 4810” and “at or below 17” are no values: no d that was tried reached the threshold, or the least one did. "
    "In the data d_int is then NaN, and d_int_limit holds the number.",
    "did: θ0 + P z. said: each layer’s part is scaled by one learned number, counted inside d.",
    "A control (random_init, shuffled_labels, shuffled_inputs) stands in its own rows; of shuffled labels the training "
    "examples themselves are scored.",
)
MARK = "⚑"
SUMMARISED = 3
"""Runs that the summary speaks of."""


def said(one: xr.Dataset) -> str:
    """ "107 [93 … 131]", "above 4810", "at or below 17", "0 (before training)"; empty where it was not
    measured. A flag follows where there is reason for doubt."""
    censored = float(one["censored"])
    if np.isnan(censored):
        return ""
    value, limit = float(one["d_int"]), float(one["d_int_limit"])
    low, high = float(one["d_int_low"]), float(one["d_int_high"])
    ends = f"[{'open' if low <= 0 else f'{low:.0f}'} … {'open' if np.isinf(high) else f'{high:.0f}'}]"
    if censored > 0:
        text = f"above {limit:.0f}" + (f" {ends}" if low < limit else "")
    elif censored < 0:
        text = f"at or below {limit:.0f}" + (f" {ends}" if high > limit else "")
    elif value == 0:
        text = "0 (before training)" + (f" {ends}" if high > 0 else "")
    else:
        text = f"{value:.0f} {ends}"
    return f"{text} {MARK}" if codes(one) else text


def codes(one: xr.Dataset) -> tuple[int, ...]:
    """The reasons for doubt of one crossing."""
    flag = float(one["d_int_flag"])
    return () if np.isnan(flag) else tuple(code for code in MEANINGS if int(flag) & code)


def doubts_of(one: xr.Dataset) -> list[str]:
    """The reasons for doubt in any threshold shown, each once, with the thresholds that it is true of."""
    found: dict[int, list[str]] = {}
    for name in ("local", "run", "global"):
        for code in codes(one.sel(threshold=name)):
            found.setdefault(code, []).append(name)
    return [f"{MARK} {', '.join(names)}: {MEANINGS[code]}" for code, names in sorted(found.items())]


def measured(node: xr.Dataset) -> Iterator[dict[str, int]]:
    """Positions of every checkpoint, task and method of which there are trials."""
    there = node["n_trials"].transpose("run", "step", "task", "method").values
    for r, s, t, m in zip(*np.nonzero(np.isfinite(there)), strict=True):
        yield {"run": int(r), "step": int(s), "task": int(t), "method": int(m)}


def _moved(first: xr.Dataset) -> str:
    """Where a doubled budget moves d_int, by threshold."""
    of = first.where(first["budget_changes"] == 1)["d_int_doubled"]
    there = [
        f"{name} {float(of.sel(threshold=name)):.3g}" for name in of["threshold"].values if of.sel(threshold=name) > 0
    ]
    return "a doubled budget moves it" + (f", to {', '.join(there)}" if there else ", out of its bracket")


def rows(node: xr.Dataset) -> Iterator[dict[str, object]]:
    """One row for each measured checkpoint, task and method, at the first level."""
    for at in measured(node):
        one = node.isel(at)
        first = one.isel(level=0)
        notes = doubts_of(first)
        if bool((one["budget_changes"] == 1).any()):
            notes.append(f"{MARK} {_moved(first)}")
        if int(one["n_diverged"]):
            notes.append(f"{int(one['n_diverged'])} diverged, from lr {float(one['diverged_lr']):.2g} on")
        if float(one["n_fresh"]):
            notes.append(f"{int(one['n_fresh'])} of {int(one['n_trained'])} parameters are a fresh head")
        yield {
            "run": str(one["run"].values),
            "step": int(one["step"]),
            "task": str(one["task"].values),
            "method": str(one["method"].values),
            "baseline": float(one["baseline_score"]),
            "initial": float(one["initial_score"]),
            "local": said(first.sel(threshold="local")),
            "of_run": said(first.sel(threshold="run")),
            "global": said(first.sel(threshold="global")),
            "n": int(one["n_trials"]),
            "note": "; ".join(notes),
        }


def sentence(tree: xr.DataTree) -> str:
    """For the page's first paragraph: d_int of first and last measured step by the run's threshold, with the
    convention; empty without a search."""
    if NODE not in tree.children or "d_int" not in tree[NODE].data_vars:
        return ""
    node = tree[NODE].to_dataset()
    level = float(node["level"].values[0])
    word = word_of(str(tree.attrs.get("step_unit", STEP)))
    of_run = node.sel(threshold="run").isel(level=0, task=0, method=0)
    parts = []
    for r in range(of_run.sizes["run"]):
        steps = np.flatnonzero(of_run["censored"].isel(run=r).notnull().values)
        if not steps.size:
            continue
        ends = [of_run.isel(run=r, step=int(s)) for s in dict.fromkeys((steps[0], steps[-1]))]
        told = " and ".join(f"{said(one)} at {word} {int(one['step'])}" for one in ends)
        parts.append(f"{str(of_run['run'].values[r]).rpartition('/')[2]} {told}")
    if not parts:
        return ""
    more = f"; {len(parts) - SUMMARISED} more runs below" if len(parts) > SUMMARISED else ""
    marked = f" {MARK}: see the table." if any(MARK in part for part in parts[:SUMMARISED]) else ""
    return (
        f"Intrinsic dimension of {of_run['task'].values!s} ({of_run['method'].values!s}, {level:g} of the best "
        f"full training of the run): {'; '.join(parts[:SUMMARISED])}{more}.{marked}"
    )
