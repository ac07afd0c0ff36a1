"""Figures of intruder counts: each run beside its null and its norm-matched count, over steps and over ε."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from pipeline.report.figures import Image, canvas, image, place
from pipeline.report.intruder_totals import Totals
from pipeline.report.look import Look
from pipeline.report.plots import draw_line, legend, top_legend
from pipeline.report.style import wrapped

NULL_COLOUR = "#5e5e5e"
MATCHED_COLOUR = "#000000"
PANEL, PANEL_APART = 2.35, 0.45
"""Inches: width of a panel's title, gap between panels."""


def steps_figure(totals: Sequence[Totals], look: Look, label: str) -> Image:
    """A panel per run: count, null with its interval, matched count at the last step."""
    title = f"Intruder dimensions over steps ({label})"
    caption = (
        f"Sums over the matrices of each run ({_matrices(totals, look)}). Coloured: count. Grey: updates with the same "
        "singular values and random directions, their mean and (band) 95 % of their sum. Cross: the count at the last "
        "step with ‖Δ‖_F rescaled to the norm common to the runs. The band belongs to one step, side, k and ε: the "
        "table’s p tests all of the sweep."
    )
    with _panels(totals) as (figure, panels):
        for axes, one in zip(panels, totals, strict=False):
            _draw(axes, one, look)
            look.steps.draw(axes, one.x)
        panels[0].set_ylabel("intruder dimensions")
        ends = "; ".join(f"{t.run} ends at {_said(t, -1)}" for t in totals)
        return image(figure, title, caption, f"Line plots per run. {ends}.")


def epsilon_figure(totals: Sequence[Totals], look: Look, label: str) -> Image:
    """A panel per run: the same quantities at the last step, along ε."""
    title = f"Intruder dimensions over the threshold ε, last step ({label})"
    caption = "The same at each run’s last step, for every ε: a finding should not depend on one threshold."
    with _panels(totals) as (figure, panels):
        for axes, one in zip(panels, totals, strict=False):
            _draw(axes, one, look)
            axes.set_xlabel("threshold ε on the cosine")
        panels[0].set_ylabel("intruder dimensions")
        ends = "; ".join(
            f"{t.run} at ε = {t.x[0]:g}: {_said(t, 0)}, at ε = {t.x[-1]:g}: {_said(t, -1)}" for t in totals
        )
        return image(figure, title, caption, f"Line plots per run. {ends}.")


def excess_figure(totals: Sequence[Totals], look: Look, label: str) -> Image | None:
    """Count minus null of all runs in one plot; None where no run has a null."""
    shown = [t for t in totals if np.isfinite(t.excess).any()]
    if not shown:
        return None
    with canvas(5.6, 3.3) as figure:
        axes = figure.add_subplot()
        axes.axhline(0, color="#555555", linewidth=1)
        for one in reversed(shown):
            draw_line(axes, one.x, one.excess, look.styles[one.run])
        look.steps.draw(axes, np.concatenate([t.x for t in shown]))
        axes.set_ylabel("count − null")
        place(figure, top=legend(figure, [t.run for t in shown], look))
        ends = "; ".join(f"{t.run}: {t.excess[-1]:.3g}" for t in shown[:8])
        caption = "Count minus the mean of the random updates, summed over matrices: the effect size. Zero is chance."
        return image(figure, f"Excess intruder dimensions ({label})", caption, f"Line plot. At the last step {ends}.")


def _matrices(totals: Sequence[Totals], look: Look) -> str:
    """ "30 each", or the number of every run where they differ."""
    counts = {one.matrices for one in totals}
    if len(counts) == 1:
        return f"{counts.pop()} each" if len(totals) > 1 else f"{counts.pop()}"
    return ", ".join(f"{one.matrices} in {look.label(one.run)}" for one in totals)


def _said(one: Totals, index: int) -> str:
    null = "" if np.isnan(one.null[index]) else f" (null {one.null[index]:.1f})"
    return f"{one.count[index]:g}{null}"


@contextmanager
def _panels(totals: Sequence[Totals]) -> Iterator[tuple[Canvas, list[Axes]]]:
    with canvas(2.85 * len(totals) + (0.3 if len(totals) > 1 else 2.2), 3.0) as figure:
        panels = list(figure.subplots(1, len(totals), squeeze=False).ravel())
        handles: list[Line2D | Patch] = [Line2D([], [], color="#000000", marker="o")]
        labels = ["count"]
        if any(np.isfinite(t.null).any() for t in totals):
            handles += [Line2D([], [], color=NULL_COLOUR, linestyle="--")]
            labels += ["null"]
        if any(np.isfinite(t.null_low).any() for t in totals):
            handles += [Patch(color=NULL_COLOUR, alpha=0.2)]
            labels += ["95 % of the null"]
        if any(np.isfinite(t.matched).any() for t in totals):
            handles += [Line2D([], [], color=MATCHED_COLOUR, linestyle=":", marker="x", markersize=6)]
            labels += ["matched norm"]
        top = top_legend(figure, handles, labels, 4) + 0.32
        place(figure, len(totals), left=0.62, top=top, apart=(PANEL_APART, 0))
        yield figure, panels


def _draw(axes: Axes, one: Totals, look: Look) -> None:
    single = one.x.size == 1
    if np.isfinite(one.null_low).any():
        if single:
            axes.vlines(one.x, one.null_low, one.null_high, color=NULL_COLOUR, alpha=0.3, linewidth=8)
        else:
            axes.fill_between(one.x, one.null_low, one.null_high, color=NULL_COLOUR, alpha=0.2, linewidth=0)
    axes.plot(one.x, one.null, color=NULL_COLOUR, linestyle="--", marker="_" if single else "", markersize=10)
    style = look.styles[one.run]
    axes.plot(one.x, one.count, color=style.colour, marker=style.marker or "o", markevery=max(1, one.x.size // 12))
    there = np.isfinite(one.matched)
    axes.plot(one.x[there], one.matched[there], color=MATCHED_COLOUR, linestyle=":", marker="x", markersize=6)
    axes.set_title(wrapped(look.label(one.run), PANEL), loc="left")
    axes.set_ylim(bottom=0)
    if axes.get_ylim()[1] < 1:
        axes.set_ylim(0, 1)
