"""How figures look: fonts, colours and marks that survive print and colour-blindness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

# Okabe & Ito 2008, without the yellow (unreadable on white).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
Dash = Literal["-", "--", "-.", ":"]
DASHES: tuple[Dash, ...] = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
SEQUENTIAL = "cividis"  # its lightness rises evenly, so it also reads in grey
STYLED_RUNS = 10
"""Runs that get a style of their own; the rest are drawn in thin grey."""

RC: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "Helvetica"],
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.labelsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.0,
    "svg.fonttype": "none",  # text stays text: smaller, sharp at any zoom
    "svg.hashsalt": "varve",  # equal input, equal bytes
    "path.simplify": True,
    "figure.dpi": 120,
}


@dataclass(frozen=True)
class RunStyle:
    """Colour, dash and marker of one run, the same in every figure of the report."""

    colour: str
    dash: Dash
    marker: str
    width: float = 1.6
    named: bool = True


GREY = RunStyle("#9a9a9a", "-", "", 0.6, False)


def run_styles(runs: Sequence[str]) -> dict[str, RunStyle]:
    """A distinct style for each of the first ten runs, thin grey for the rest."""
    styles: dict[str, RunStyle] = {}
    for i, run in enumerate(runs):
        style = RunStyle(COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)], MARKERS[i % len(MARKERS)])
        styles[run] = style if i < STYLED_RUNS else GREY
    return styles


def literal(text: str, limit: int = 60) -> str:
    """Text as matplotlib shows it literally: no mathtext, no hidden legend entry, nothing that SVG cannot hold."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    if len(shown) > limit:  # both ends of a long name tell runs apart
        shown = f"{shown[: limit // 2 - 1]}…{shown[-limit // 2 :]}"
    shown = shown.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown
