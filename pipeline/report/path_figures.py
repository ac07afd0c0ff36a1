"""The runs' paths through weight space: those of one architecture in a joint plane, others each in one of its own.

The components of one run mean nothing for another, so paths share axes only where the basis was computed from the
weights of all of them. A run of whose path the joint plane holds little is drawn in its own plane too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from pipeline.report.blocks import Block, from_rows, gallery, number
from pipeline.report.compare import KeyVariable
from pipeline.report.figures import Image, canvas, image, place
from pipeline.report.look import Look
from pipeline.report.plots import curves, draw_line, legend
from pipeline.report.style import RunStyle, wrapped

NODE = "intrinsic_dimension"
PANELS = 4
SHOWN = 16
"""Runs whose path is drawn."""
ENOUGH = 0.5
"""Of what a run's own plane holds of its path, the least that a joint plane must hold to stand for it."""


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
        "range": "95 % of walks with such moves",
        "dimension": "effective dimension",
        "dimension_null": "that of a random walk",
        "plane": "variance in its own plane",
        "joint": "in the joint plane",
        "distance": f"‖w − w_first‖/‖w_first‖ at the last {look.steps.word}",
    }
    if "joint_path" not in whole:
        columns = {name: label for name, label in columns.items() if name not in ("plane", "joint")}
    caption = (
        "The path of each run through weight space. Read it beside the random walk over the same steps: that one also "
        "puts most of its variance into one or two components. A share inside the range is what a random walk gives "
        "whose moves span as few dimensions as the run’s own."
    )
    drawn = [run for run in runs if run in look.styles][:SHOWN]
    alone = [run for run in drawn if not _fits(whole.sel(run=run))]
    figures = [_figure(whole, alone[i : i + PANELS], look) for i in range(0, len(alone), PANELS)]
    return [
        *gallery([_distances(whole.sel(run=runs), look), *_joint_figures(whole, look), *figures]),
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
        "range": _range(one),
        "dimension": float(one["path_dimension"]),
        "dimension_null": float(one["path_dimension_null"]),
        "plane": _plane(one),
        "joint": _joint_plane(one),
        "distance": float(distance[-1]) if distance.size else np.nan,
    }


def _range(one: xr.Dataset) -> str:
    """Where the first share of a walk lies whose moves have the run's effective dimension; empty of too few moves."""
    names = [f"explained_variance_null_{end}" for end in ("low", "high")]
    ends = [float(one[name].isel(component=0)) if name in one else np.nan for name in names]
    return f"{ends[0]:.2f} to {ends[1]:.2f}" if np.isfinite(ends).all() else ""


def _plane(one: xr.Dataset) -> float:
    """The share of a run's path in its own first two components."""
    return float(one["explained_variance"].isel(component=slice(2)).sum())


def _joint_plane(one: xr.Dataset) -> float:
    """The same in the first two joint components; NaN where it has no joint basis, or one checkpoint."""
    if "joint_path" not in one:
        return np.nan
    return float(one["joint_share_of_path"].isel(axis=slice(2)).sum(skipna=False))


def _fits(one: xr.Dataset) -> bool:
    return _joint_plane(one) >= ENOUGH * _plane(one)


def _joint_figures(whole: xr.Dataset, look: Look) -> Iterator[Image]:
    """A figure for each joint basis: every run of it, one unit as long in both directions."""
    if "joint_path" not in whole:
        return
    planes = whole["joint_plane"].values
    for plane in np.unique(planes[np.isfinite(planes)]):
        members = [str(run) for run in whole["run"].values[planes == plane] if str(run) in look.styles]
        if members:
            yield _joint_figure(whole, members[:SHOWN], len(members), look)


def _joint_figure(whole: xr.Dataset, runs: Sequence[str], count: int, look: Look) -> Image:
    explained = whole["joint_explained_variance"].sel(run=runs[0]).values[:2]
    labels = [f"joint component {i + 1} ({number(100 * share, 2)} %)" for i, share in enumerate(explained)]
    with canvas(5.6, 4.2) as figure:
        axes = figure.add_subplot()
        words = []
        for run in runs:
            one = whole.sel(run=run)
            _draw_path(axes, one["joint_path"], look.styles[run])
            share = _joint_plane(one)
            words.append(f"{run}: {number(100 * share, 2)} % of its path" if np.isfinite(share) else f"{run}: a point")
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        axes.set_aspect("equal", adjustable="datalim")
        place(figure, top=0.15 + legend(figure, runs, look))
        more = f" The first {len(runs)} of {count} runs." if count > len(runs) else ""
        caption = (
            "Runs of one architecture in one plane: the first two principal components of all their checkpoints "
            "together, over the parameters that all have, with the share of the variance of all of them along each. "
            f"The square is the first {look.steps.word}. The table says how much of each run’s own path the plane "
            f"holds.{more}"
        )
        return image(figure, "Paths of the runs in a joint plane", caption, f"Line plot. {'; '.join(words)}.")


def _draw_path(axes: Axes, path: xr.DataArray, style: RunStyle) -> np.ndarray:
    """The path with a square at its first step; its (T, 2 or more) points."""
    xy = np.asarray(path.transpose("step", "axis").values)
    xy = xy[np.isfinite(xy[:, 0])]
    draw_line(axes, xy[:, 0], xy[:, 1], style)
    axes.plot(xy[:1, 0], xy[:1, 1], color=style.colour, marker="s", markersize=7, fillstyle="none")
    return xy


def _figure(whole: xr.Dataset, runs: Sequence[str], look: Look) -> Image:
    """A panel per run, one unit as long in both directions; the square is the first step."""
    with canvas(2.85 * len(runs) + 0.5, 3.3) as figure:
        panels = figure.subplots(1, len(runs), squeeze=False).ravel()
        described = [_panel(axes, whole.sel(run=run), look) for axes, run in zip(panels, runs, strict=True)]
        place(figure, len(runs), top=0.5, apart=(0.75, 0))
        caption = (
            "Each run in a plane of its own, spanned by the first two principal components of its path (all "
            "parameters), with the share of the path’s variance along each. The square is the first "
            f"{look.steps.word}. Directions and lengths cannot be compared between panels."
        )
        return image(figure, "Paths through weight space", caption, f"Plots per run. {'; '.join(described)}.")


def _panel(axes: Axes, one: xr.Dataset, look: Look) -> str:
    """Draws one path; what it shows in words."""
    run = str(one["run"].values)
    xy = _draw_path(axes, one["path"], look.styles[run])
    shares = one["explained_variance"].values[:2]
    labels = [f"component {i + 1} ({number(100 * share, 2)} %)" for i, share in enumerate(shares)]
    axes.set_title(wrapped(look.label(run), 2.1), loc="left")
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1] if len(labels) > 1 else "component 2")
    axes.set_aspect("equal", adjustable="datalim")
    return f"{run}: {' and '.join(labels)}, {number(float(xy[-1, 0] - xy[0, 0]))} along component 1"
