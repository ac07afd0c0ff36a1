"""Intruder counts beside their controls: over steps, and over ε. Sums over the matrices of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from pipeline.report.compare import prefer
from pipeline.report.figures import Image, canvas, image
from pipeline.report.plots import Styles, draw_line, legend, step_axis
from pipeline.report.style import literal

NODE = "intruder_dimensions"
NULL_COLOUR = "#6b6b6b"
MATCHED_COLOUR = "#CC79A7"
_COUNTS = ("n_intruders", "n_intruders_null", "n_intruders_null_low", "n_intruders_null_high", "n_intruders_matched")


@dataclass(frozen=True)
class Totals:
    """Counts of one run summed over its matrices, along x (steps or ε).

    `null` is the mean of the random updates, `low` and `high` the sums of the matrices' 95 % bounds: wider than the
    interval of the sum, so a count outside them is outside chance. `excess` sums count − null over the matrices that
    have both. NaN where a control was not measured.
    """

    run: str
    x: np.ndarray
    count: np.ndarray
    null: np.ndarray
    low: np.ndarray
    high: np.ndarray
    matched: np.ndarray
    excess: np.ndarray


def has_counts(tree: xr.DataTree) -> bool:
    """Whether the report has intruder counts over runs and matrices."""
    return NODE in tree.children and {"run", "matrix"} <= set(
        tree[NODE].to_dataset().get("n_intruders", xr.DataArray()).dims
    )


def over_steps(tree: xr.DataTree) -> tuple[list[Totals], str]:
    """Each run's totals at each of its steps, at the preferred side, k and ε; and which these are."""
    return _totals(tree, "step")


def over_epsilon(tree: xr.DataTree) -> tuple[list[Totals], str]:
    """Each run's totals at its last measured step for every ε, at the preferred side and k."""
    return _totals(tree, "epsilon")


def _totals(tree: xr.DataTree, along: str) -> tuple[list[Totals], str]:
    dataset = tree[NODE].to_dataset()
    if along not in dataset["n_intruders"].dims:
        return [], ""
    label: list[str] = []
    arrays: dict[str, xr.DataArray] = {}
    for name in _COUNTS:
        array = dataset.get(name)
        if array is None or along not in array.dims:
            continue
        label = []
        for dim in ("side", "k", "epsilon"):
            if dim != along and dim in array.dims:
                array, shown = prefer(array, dim)
                label.append(shown)
        further = [d for d in array.dims if d not in ("run", "step", "matrix", along)]
        arrays[name] = array.isel(dict.fromkeys(further, 0))
    runs = [str(r) for r in arrays["n_intruders"]["run"].values]
    totals = [one for i, run in enumerate(runs) if (one := _of_run(arrays, i, run, along)) is not None]
    return totals, ", ".join(label)


def _of_run(arrays: dict[str, xr.DataArray], index: int, run: str, along: str) -> Totals | None:
    count = arrays["n_intruders"].isel(run=index)
    if "step" in count.dims:
        measured = np.flatnonzero(count.notnull().any([d for d in count.dims if d != "step"]).values)
    else:
        measured = np.zeros(1, int)
    if not measured.size:
        return None
    chosen = measured if along == "step" else measured[-1:]
    per_matrix = {name: _at(array, index, chosen, along) for name, array in arrays.items()}
    if "n_intruders_null" in per_matrix:
        per_matrix["excess"] = per_matrix["n_intruders"] - per_matrix["n_intruders_null"]
    sums = {name: one.sum("matrix", min_count=1).transpose(along).values for name, one in per_matrix.items()}
    x = np.asarray(count[along].values, dtype=float)
    x = x[chosen] if along == "step" else x
    missing = np.full(x.shape, np.nan)
    return Totals(run, x, *(np.asarray(sums.get(name, missing), dtype=float) for name in (*_COUNTS, "excess")))


def _at(array: xr.DataArray, index: int, steps: np.ndarray, along: str) -> xr.DataArray:
    """One run at the chosen step indices; (matrix, along)."""
    one = array.isel(run=index) if "run" in array.dims else array
    if "step" not in one.dims:
        return one
    return one.isel(step=steps) if along == "step" else one.isel(step=int(steps[0]))


def steps_figure(totals: Sequence[Totals], styles: Styles, label: str, matrices: int) -> Image:
    """A panel per run: count, null with its interval, matched count."""
    ends = "; ".join(f"{t.run} ends at {_said(t, -1)}" for t in totals)
    title = f"Intruder dimensions over steps ({label})"
    caption = (
        f"Sums over up to {matrices} matrices. Line with marks: count. Grey: updates with the same singular values and "
        "random directions, mean and (band) the sum of the matrices’ 95 % intervals. Dotted: the count with ‖Δ‖ "
        "rescaled to the common norm. A count inside the grey band is what chance gives."
    )
    with _panels(totals) as (figure, panels):
        for axes, one in zip(panels, totals, strict=False):
            _draw(axes, one, styles)
            step_axis(axes, one.x)
            axes.set_ylabel("intruder dimensions")
        return image(figure, title, caption, f"Line plots per run. {ends}.")


def epsilon_figure(totals: Sequence[Totals], styles: Styles, label: str) -> Image:
    """A panel per run: the same quantities at the last step, along ε."""
    title = f"Intruder dimensions over the threshold ε, last step ({label})"
    caption = "As above, at each run’s last step, for every ε: a finding should not hang on one threshold."
    with _panels(totals) as (figure, panels):
        for axes, one in zip(panels, totals, strict=False):
            _draw(axes, one, styles)
            axes.set_xlabel("threshold ε on the cosine")
            axes.set_ylabel("intruder dimensions")
        ends = "; ".join(
            f"{t.run} at ε = {t.x[0]:g}: {_said(t, 0)}, at ε = {t.x[-1]:g}: {_said(t, -1)}" for t in totals
        )
        return image(figure, title, caption, f"Line plots per run. {ends}.")


def excess_figure(totals: Sequence[Totals], styles: Styles, label: str) -> Image | None:
    """Count minus null of all runs in one plot; None where no run has a null."""
    shown = [t for t in totals if np.isfinite(t.excess).any()]
    if not shown:
        return None
    with canvas(5.6, 3.5) as figure:
        axes = figure.add_subplot()
        axes.axhline(0, color="#555555", linewidth=1)
        for one in reversed(shown):
            draw_line(axes, one.x, one.excess, styles[one.run])
        step_axis(axes, np.concatenate([t.x for t in shown]))
        axes.set_ylabel("count − null")
        legend(figure, [t.run for t in shown], styles)
        ends = "; ".join(f"{t.run}: {t.excess[-1]:.3g}" for t in shown[:8])
        caption = "Count minus the mean of the random updates, summed over matrices: the effect size. Zero is chance."
        return image(figure, f"Excess intruder dimensions ({label})", caption, f"Line plot. At the last step {ends}.")


def _said(one: Totals, index: int) -> str:
    null = "" if np.isnan(one.null[index]) else f" (null {one.null[index]:.1f})"
    return f"{one.count[index]:g}{null}"


@contextmanager
def _panels(totals: Sequence[Totals]) -> Iterator[tuple[Canvas, list[Axes]]]:
    columns = min(2, len(totals))
    rows = -(-len(totals) // columns)
    with canvas(4.4 * columns, 2.7 * rows + 0.4) as figure:
        panels = list(figure.subplots(rows, columns, squeeze=False).ravel())
        for axes in panels[len(totals) :]:
            axes.set_visible(False)
        handles: list[Line2D | Patch] = [Line2D([], [], color="#000000", marker="o")]
        labels = ["count"]
        if any(np.isfinite(t.null).any() for t in totals):
            handles += [Line2D([], [], color=NULL_COLOUR, linestyle="--")]
            labels += ["null (random directions)"]
        if any(np.isfinite(t.low).any() for t in totals):
            handles += [Patch(color=NULL_COLOUR, alpha=0.2)]
            labels += ["95 % of the null"]
        if any(np.isfinite(t.matched).any() for t in totals):
            handles += [Line2D([], [], color=MATCHED_COLOUR, linestyle=":", linewidth=2.2)]
            labels += ["matched norm"]
        figure.legend(handles, labels, loc="outside upper left", ncols=4 if columns > 1 else 2, handlelength=3)
        yield figure, panels


def _draw(axes: Axes, one: Totals, styles: Styles) -> None:
    if np.isfinite(one.low).any():
        axes.fill_between(one.x, one.low, one.high, color=NULL_COLOUR, alpha=0.2, linewidth=0)
    for values, colour, dash in ((one.null, NULL_COLOUR, "--"), (one.matched, MATCHED_COLOUR, ":")):
        marker = "_" if one.x.size == 1 else ""
        axes.plot(one.x, values, color=colour, linestyle=dash, marker=marker, linewidth=2.2 if dash == ":" else 1.4)
    style = styles[one.run]
    axes.plot(one.x, one.count, color=style.colour, marker=style.marker or "o", markevery=max(1, one.x.size // 12))
    axes.set_title(literal(one.run, 44), loc="left")
    axes.set_ylim(bottom=0)
