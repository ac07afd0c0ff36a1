"""The runs' paths through weight space: each in a plane of its own, which says how much of the path it holds.

The components of one run mean nothing for another: a common plane would need the inner products between the runs'
weights, which the store does not hold. So no two paths share axes; how far each run moved is drawn on common ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from pipeline.report.blocks import Block, from_rows, gallery, number
from pipeline.report.compare import KeyVariable
from pipeline.report.figures import Image, canvas, image, place
from pipeline.report.look import Look
from pipeline.report.plots import curves, draw_line
from pipeline.report.style import wrapped

NODE = "intrinsic_dimension"
PANELS = 4
SHOWN = 16
"""Runs whose path is drawn."""


def path_blocks(node: xr.Dataset, look: Look) -> list[Block]:
    """The figures and the table, of the runs whose path has three steps or more."""
    whole = node.isel(group=0)
    runs = [str(r) for r in whole["run"].values if int(whole["distance_from_start"].sel(run=r).notnull().sum()) > 2]
    if not runs:
        return []
    columns = {
        "run": "run",
        "first": "variance along the 1st component",
        "null": "that of a random walk",
        "dimension": "effective dimension",
        "dimension_null": "that of a random walk",
        "distance": "‖w − w_first‖/‖w_first‖ at the last step",
    }
    caption = (
        "The path of each run through weight space. Read it beside the random walk over the same steps: that one, too, "
        "puts most of its variance into one or two components."
    )
    drawn = [run for run in runs if run in look.styles][:SHOWN]
    figures = [_figure(whole, drawn[i : i + PANELS], look) for i in range(0, len(drawn), PANELS)]
    return [
        *gallery([_distances(whole.sel(run=runs), look), *figures]),
        from_rows(caption, [_row(whole.sel(run=run)) for run in runs], columns),
    ]


def _distances(whole: xr.Dataset, look: Look) -> Image | None:
    """How far each run moved from its first step, all on the same axes."""
    distance = whole["relative_distance"].transpose("run", "step")
    attributes = "relative distance from the first step, ‖w − w_first‖ / ‖w_first‖", "1", True
    later = distance.where(distance > 0)  # the first step itself has no place on a logarithmic axis
    return curves(KeyVariable(NODE, "relative_distance", *attributes, later), look)


def _row(one: xr.Dataset) -> dict[str, Any]:
    distance = one["relative_distance"].dropna("step")
    return {
        "run": str(one["run"].values),
        "first": float(one["explained_variance"].isel(component=0)),
        "null": float(one["explained_variance_null"].isel(component=0)),
        "dimension": float(one["path_dimension"]),
        "dimension_null": float(one["path_dimension_null"]),
        "distance": float(distance[-1]) if distance.size else np.nan,
    }


def _figure(whole: xr.Dataset, runs: Sequence[str], look: Look) -> Image:
    """A panel per run, one unit as long in both directions; the square is the first step."""
    with canvas(2.85 * len(runs) + 0.5, 3.3) as figure:
        panels = figure.subplots(1, len(runs), squeeze=False).ravel()
        said = [_panel(axes, whole.sel(run=run), look) for axes, run in zip(panels, runs, strict=True)]
        place(figure, len(runs), top=0.5, apart=(0.75, 0))
        caption = (
            "Each run in a plane of its own, spanned by the first two principal components of its path (all "
            "parameters), with the share of the path’s variance along each. The square is the first step. Directions "
            "and lengths of different panels cannot be compared."
        )
        return image(figure, "Paths through weight space", caption, f"Plots per run. {'; '.join(said)}.")


def _panel(axes: Axes, one: xr.Dataset, look: Look) -> str:
    """Draws one path; what it shows in words."""
    run = str(one["run"].values)
    xy = one["path"].transpose("step", "axis").values
    xy = xy[np.isfinite(xy[:, 0])]
    style = look.styles[run]
    draw_line(axes, xy[:, 0], xy[:, 1], style)
    axes.plot(xy[:1, 0], xy[:1, 1], color=style.colour, marker="s", markersize=7, fillstyle="none")
    shares = one["explained_variance"].values[:2]
    labels = [f"component {i + 1} ({number(100 * share, 2)} %)" for i, share in enumerate(shares)]
    axes.set_title(wrapped(look.label(run), 2.1), loc="left")
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1] if len(labels) > 1 else "component 2")
    axes.set_aspect("equal", adjustable="datalim")
    return f"{run}: {' and '.join(labels)}, {number(float(xy[-1, 0] - xy[0, 0]))} along component 1"
