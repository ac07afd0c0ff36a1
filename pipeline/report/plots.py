"""Curves over steps, dots where there is one step, and layer × step heatmaps: the same for every analyzer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from pipeline.report.compare import COUNTED, KeyVariable, Series, log_steps, quartiles, series_of
from pipeline.report.figures import Image, canvas, image
from pipeline.report.style import SEQUENTIAL, RunStyle, literal

Styles = Mapping[str, RunStyle]
BANDED_RUNS = 5
"""Up to this many curves the quartile band is drawn; more of them would cover each other."""


def axis_label(long_name: str, units: str) -> str:
    """ "stable rank", "loss [nat]": units stand in brackets unless the number is dimensionless."""
    return literal(long_name if units in ("", "1") else f"{long_name} [{units}]", 48)


def curves(variable: KeyVariable, styles: Styles, spread: str = "matrices") -> Image | None:
    """Median over matrices at each step, a curve per run, with the band between quartiles. None without a value."""
    series = series_of(variable)
    if not series:
        return None
    title = variable.long_name + (f" ({variable.label})" if variable.label else "")
    over_matrices = "matrix" in variable.values.dims
    if max(s.steps.size for s in series) == 1:
        return _dots(variable, series, styles, title)
    with canvas(5.6, 3.5) as figure:
        axes = figure.add_subplot()
        positive = True
        for one in reversed(series):  # the first runs lie on top
            style = styles[one.run]
            if over_matrices and len(series) <= BANDED_RUNS:
                axes.fill_between(one.steps, one.low, one.high, color=style.colour, alpha=0.14, linewidth=0)
            draw_line(axes, one.steps, one.median, style)
            positive = positive and bool(np.all(one.low > 0))
        if variable.log and positive:
            axes.set_yscale("log")
            plain_log_ticks(axes)
        step_axis(axes, np.concatenate([one.steps for one in series]))
        axes.set_ylabel(axis_label(variable.long_name, variable.units))
        legend(figure, [one.run for one in series], styles)
        band = ", shaded between its quartiles" if over_matrices and len(series) <= BANDED_RUNS else ""
        what = f"Median over {spread}{band}" if over_matrices else "Value"
        caption = f"{what}, at each measured step of each run."
        return image(figure, title, caption, f"Line plot: {title} over training steps. {_ends(series)}")


def draw_line(axes: Axes, steps: np.ndarray, values: np.ndarray, style: RunStyle) -> None:
    """One run's curve; markers thin out where points are many."""
    axes.plot(
        steps,
        values,
        color=style.colour,
        linestyle=style.dash,
        marker=style.marker,
        linewidth=style.width,
        markevery=max(1, steps.size // 12),
    )


def _dots(variable: KeyVariable, series: Sequence[Series], styles: Styles, title: str) -> Image:
    """One point with its quartiles per run, for runs of a single step. At most 30 runs are drawn."""
    shown = series[:30]
    with canvas(5.6, 1.0 + 0.32 * len(shown)) as figure:
        axes = figure.add_subplot()
        rows = np.arange(len(shown))[::-1]
        for row, one in zip(rows, shown, strict=True):
            style = styles[one.run]
            axes.plot([one.low[0], one.high[0]], [row, row], color=style.colour, linewidth=2)
            axes.plot(one.median, [row], marker=style.marker or "o", color=style.colour, markersize=6, linestyle="none")
        axes.set_yticks(rows, [f"{literal(s.run, 28)}, step {s.steps[0]}" for s in shown])
        axes.set_ylim(-0.6, len(shown) - 0.4)
        if variable.log and all(s.low[0] > 0 for s in shown):
            axes.set_xscale("log")
            plain_log_ticks(axes)
        axes.set_xlabel(axis_label(variable.long_name, variable.units))
        more = f" The first {len(shown)} of {len(series)} runs." if len(series) > len(shown) else ""
        caption = f"Median over matrices, bar between its quartiles; each run has one step.{more}"
        return image(figure, title, caption, f"Dot plot: {title}. {_ends(shown)}")


def _ends(series: Sequence[Series]) -> str:
    """What the plot shows, in words, for readers who do not see it."""
    parts = [
        f"{one.run}: {one.median[0]:.3g}"
        + (f" to {one.median[-1]:.3g} (steps {one.steps[0]} to {one.steps[-1]})" if one.steps.size > 1 else "")
        for one in series[:8]
    ]
    return "; ".join(parts) + ("" if len(series) <= 8 else f"; and {len(series) - 8} more runs") + "."


def step_axis(axes: Axes, steps: np.ndarray) -> None:
    """The x axis: steps, logarithmic where they crowd at the start (with a linear piece where there is a step 0)."""
    axes.set_xlabel("training step")
    if log_steps(steps):
        if steps.min() > 0:
            axes.set_xscale("log")
        else:
            axes.set_xscale("symlog", linthresh=float(steps[steps > 0].min()), linscale=0.4)
    elif steps.max() >= 10_000:
        axes.xaxis.set_major_formatter(mpl.ticker.EngFormatter(sep=""))


def plain_log_ticks(axes: Axes) -> None:
    """Plain numbers at 1, 2, 5 of each decade where a logarithmic axis spans less than two, powers of ten beyond."""
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        if axis.get_scale() == "log" and high < 100 * low:
            axis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 3, 5) if high < 10 * low else (1, 2, 5)))
            axis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(mpl.ticker.NullFormatter())


def legend(figure: Canvas, runs: Sequence[str], styles: Styles) -> None:
    """Runs with a style of their own by name, the grey rest as one entry; none for a single run."""
    named = [run for run in runs if styles[run].named]
    handles = [
        Line2D([], [], color=s.colour, linestyle=s.dash, marker=s.marker, linewidth=s.width)
        for s in (styles[run] for run in named)
    ]
    labels = [literal(run, 32) for run in named]
    if len(runs) > len(named):
        handles.append(Line2D([], [], color="#9a9a9a", linewidth=0.8))
        labels.append(f"{len(runs) - len(named)} more runs")
    if labels:
        longest = max(map(len, labels))
        columns = 4 if longest <= 14 else 3 if longest <= 22 else 2
        figure.legend(handles, labels, loc="outside upper left", ncols=columns, handlelength=3.2)


def heatmaps(variable: KeyVariable, runs: Sequence[str]) -> Image | None:
    """Median (of counts: sum) over a layer's matrices at each step: rows are layers, columns the run's measured steps; one panel a run.

    All panels share one colour scale. None where the variable has no layers or nothing was measured.
    """
    if "matrix" not in variable.values.dims or "layer" not in variable.values.coords:
        return None
    panels = [(run, *found) for run in runs if (found := _layer_grid(variable, run)) is not None]
    if not panels:
        return None
    finite = np.concatenate([grid[np.isfinite(grid)] for _, _, grid, _ in panels])
    if not finite.size:
        return None
    logarithmic = variable.log and bool(np.all(finite > 0)) and finite.max() > finite.min()
    norm = (LogNorm if logarithmic else Normalize)(finite.min(), finite.max())
    tallest = max(grid.shape[0] for _, _, grid, _ in panels)
    title = variable.long_name + (f" ({variable.label})" if variable.label else "")
    with canvas(2.55 * len(panels) + 1.3, 1.2 + min(0.11 * tallest, 2.4)) as figure:
        grid_of_axes = figure.subplots(1, len(panels), squeeze=False).ravel()
        colormap = mpl.colormaps[SEQUENTIAL].with_extremes(bad="#f0f0f0")
        for axes, (run, layers, cells, steps) in zip(grid_of_axes, panels, strict=False):
            mesh = axes.imshow(cells, aspect="auto", cmap=colormap, norm=norm, interpolation="nearest", origin="lower")
            axes.set_title(literal(run, 40), loc="left")
            axes.grid(False)
            _ticks(axes, layers, steps, labelled=axes is grid_of_axes[0] or layers != panels[0][1])
        bar = figure.colorbar(mesh, ax=list(grid_of_axes), pad=0.015, aspect=16)
        bar.set_label(axis_label(variable.long_name, variable.units))
        if logarithmic:
            plain_log_ticks(bar.ax)
        what = "Sum" if variable.name in COUNTED else "Median"
        caption = (
            f"{what} over the matrices of a layer; “none” are matrices outside the layers; columns are checkpoints."
        )
        names = ", ".join(run for run, *_ in panels)
        alt = (
            f"Heatmap of {title}: layers by training steps, for {names}. From {finite.min():.3g} to {finite.max():.3g}."
        )
        return image(figure, title, caption, alt)


def _layer_grid(variable: KeyVariable, run: str) -> tuple[list[str], np.ndarray, np.ndarray] | None:
    """Labels of layers, (layer, step) medians, and the steps that the run measured."""
    values = variable.values
    if "run" in values.dims:
        values = values.isel(run=[str(r) for r in values["run"].values].index(run))
    if "step" not in values.dims:
        return None
    table = values.transpose("step", "matrix").values.astype(float)
    measured = ~np.isnan(table).all(axis=1)
    layers = np.array([np.nan if _is_none(v) else float(v) for v in variable.values["layer"].values])
    present = ~np.isnan(table).all(axis=0)
    numbers = sorted(set(layers[present & ~np.isnan(layers)].tolist()))
    members = [layers == number for number in numbers]
    labels = [f"{number:g}" for number in numbers]
    if (present & np.isnan(layers)).any():
        members.append(np.isnan(layers))
        labels.append("none")
    if not labels or not measured.any():
        return None
    summary = _sums if variable.name in COUNTED else _medians
    grid = np.stack([summary(table[measured][:, member]) for member in members])
    return labels, grid, np.asarray(values["step"].values)[measured]


def _medians(values: np.ndarray) -> np.ndarray:
    """(step, matrix) → (step,)."""
    return np.asarray(quartiles(values)[1])


def _sums(values: np.ndarray) -> np.ndarray:
    """(step, matrix) → (step,), NaN where no matrix has a value."""
    return np.where(np.isnan(values).all(axis=1), np.nan, np.nansum(values, axis=1))


def _is_none(value: object) -> bool:
    return value is None or value == "" or (isinstance(value, float | np.floating) and bool(np.isnan(value)))


def _ticks(axes: Axes, layers: Sequence[str], steps: np.ndarray, labelled: bool) -> None:
    """A few labels at true positions: columns are checkpoints in order, not to the scale of steps."""
    columns = np.unique(np.linspace(0, steps.size - 1, min(4, steps.size)).round().astype(int))
    axes.set_xticks(columns, [_short(steps[c]) for c in columns])
    axes.set_xlabel("training step")
    numbered = sum(label != "none" for label in layers)
    apart = max(1, -(-numbered // 6))  # "none" stands above the last layer, which then has no label of its own
    rows = [i for i in range(0, numbered, apart) if layers[-1] != "none" or numbered < 6 or i < numbered - 1]
    rows += [numbered] if len(layers) > numbered else []
    axes.set_yticks(rows, [layers[i] for i in rows] if labelled else [""] * len(rows))
    if labelled:
        axes.set_ylabel("layer")


def _short(step: int) -> str:
    return f"{step / 1e6:g}M" if step >= 10**6 else f"{step / 1e3:g}k" if step >= 10_000 else str(step)
