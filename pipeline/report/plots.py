"""Curves over steps, and dots where there is one step: the same for every analyzer."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from pipeline.report.compare import ComparedSeries, KeyVariable, series_of
from pipeline.report.figures import Image, canvas, image, place
from pipeline.report.look import Look
from pipeline.report.style import RunStyle, literal

BANDED_RUNS = 5
"""Up to this many curves the quartile band is drawn; more of them would cover each other."""


def axis_label(variable: KeyVariable) -> str:
    """ "stable rank", "spectral norm [weight]": units stand in brackets unless the number is dimensionless."""
    name = variable.name.replace("_", " ")
    return literal(name if variable.units in ("", "1") else f"{name} [{variable.units}]", 36)


def title_of(variable: KeyVariable) -> str:
    """The name, what it is, and which entry of further dims."""
    name = variable.name.replace("_", " ")
    said = name if variable.long_name == variable.name else f"{name}: {variable.long_name}"
    said = variable.long_name if variable.long_name.startswith(name) else said
    return said + (f" ({variable.label})" if variable.label else "")


def curves(variable: KeyVariable, look: Look, spread: str = "matrices") -> Image | None:
    """Median over matrices at each step, a curve per run, with the band between quartiles. None without a value."""
    series = sorted(series_of(variable), key=lambda one: list(look.styles).index(one.run))
    if not series:
        return None
    title = title_of(variable)
    over_matrices = "matrix" in variable.values.dims
    if max(s.steps.size for s in series) == 1:
        return _dots(variable, series, look, title)
    with canvas(5.6, 3.5) as figure:
        axes = figure.add_subplot()
        positive = True
        for one in reversed(series):  # the first runs lie on top
            style = look.styles[one.run]
            if over_matrices and len(series) <= BANDED_RUNS:
                axes.fill_between(one.steps, one.low, one.high, color=style.colour, alpha=0.14, linewidth=0)
            draw_line(axes, one.steps, one.median, style)
            positive = positive and bool(np.all(one.low > 0))
        if variable.log and positive:
            axes.set_yscale("log")
            plain_log_ticks(axes)
        look.steps.draw(axes, np.concatenate([one.steps for one in series]))
        axes.set_ylabel(axis_label(variable))
        place(figure, top=legend(figure, [one.run for one in series], look))
        band = ", shaded between its quartiles" if over_matrices and len(series) <= BANDED_RUNS else ""
        what = f"Median over {spread}{band}" if over_matrices else "Value"
        roles = f" {look.roles_of((one.run for one in series), variable.values)}" if over_matrices else ""
        caption = f"{what}, at each measured {look.steps.word} of each run.{roles}".rstrip()
        return image(figure, title, caption, f"Line plot: {title} over {look.steps.label}. {_ends(series, look)}")


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


def _dots(variable: KeyVariable, series: Sequence[ComparedSeries], look: Look, title: str) -> Image:
    """One point with its quartiles per run, for runs of a single step and for what has no steps. At most 30 runs."""
    shown = series[:30]
    stepped = "step" in variable.values.dims
    with canvas(5.6, 1.0 + 0.32 * len(shown)) as figure:
        axes = figure.add_subplot()
        rows = np.arange(len(shown))[::-1]
        for row, one in zip(rows, shown, strict=True):
            style = look.styles[one.run]
            axes.plot([one.low[0], one.high[0]], [row, row], color=style.colour, linewidth=2)
            axes.plot(one.median, [row], marker=style.marker or "o", color=style.colour, markersize=6, linestyle="none")
        labels = (literal(look.label(one.run), 28) for one in shown)
        steps = (f", {look.steps.at(one.steps[0])}" if stepped else "" for one in shown)
        axes.set_yticks(rows, [f"{label}{step}" for label, step in zip(labels, steps, strict=True)])
        axes.set_ylim(-0.6, len(shown) - 0.4)
        if variable.log and all(s.low[0] > 0 for s in shown):
            axes.set_xscale("log")
            plain_log_ticks(axes)
        axes.set_xlabel(axis_label(variable))
        more = f" The first {len(shown)} of {len(series)} runs." if len(series) > len(shown) else ""
        place(figure, left=2.4)
        over_matrices = "matrix" in variable.values.dims
        roles = look.roles_of((one.run for one in shown), variable.values) if over_matrices else ""
        what = "Median over matrices, bar between its quartiles" if over_matrices else "Value of each run"
        caption = f"{what}{'; each run has one {look.steps.word}' if stepped else ''}.{more} {roles}".rstrip()
        return image(figure, title, caption, f"Dot plot: {title}. {_ends(shown, look)}")


def _ends(series: Sequence[ComparedSeries], look: Look) -> str:
    """What the plot shows, in words, for readers who do not see it."""
    parts = [
        f"{one.run}: {one.median[0]:.3g}"
        + (
            f" to {one.median[-1]:.3g} ({look.steps.word}s {one.steps[0]} to {one.steps[-1]})"
            if one.steps.size > 1
            else ""
        )
        for one in series[:8]
    ]
    return "; ".join(parts) + ("" if len(series) <= 8 else f"; and {len(series) - 8} more runs") + "."


def plain_log_ticks(axes: Axes) -> None:
    """Plain numbers at 1, 2, 5 of each decade where a logarithmic axis spans less than two, powers of ten beyond."""
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        if axis.get_scale() == "log" and high < 100 * low:
            axis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 3, 5) if high < 10 * low else (1, 2, 5)))
            axis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(mpl.ticker.NullFormatter())


def legend(figure: Canvas, runs: Sequence[str], look: Look) -> float:
    """Runs with a style of their own by name, the grey rest as one entry. The height that it takes, in inches."""
    named = [run for run in runs if look.styles[run].named]
    handles = [
        Line2D([], [], color=s.colour, linestyle=s.dash, marker=s.marker, linewidth=s.width)
        for s in (look.styles[run] for run in named)
    ]
    labels = [literal(look.label(run), 32) for run in named]
    if len(runs) > len(named):
        handles.append(Line2D([], [], color="#9a9a9a", linewidth=0.8))
        labels.append(f"{len(runs) - len(named)} more runs")
    if not labels:
        return 0.1
    longest = max(map(len, labels))
    columns = 4 if longest <= 10 else 3 if longest <= 18 else 2
    return top_legend(figure, handles, labels, columns)


def top_legend(figure: Canvas, handles: Sequence[Artist], labels: Sequence[str], columns: int) -> float:
    """A legend at the figure's upper left. The height that it takes, in inches."""
    figure.legend(handles, labels, loc="upper left", ncols=columns, handlelength=3.2, borderaxespad=0.1)
    return 0.16 + 0.175 * -(-len(labels) // columns)
