"""How figures look: fonts, colours and marks that survive print and colour-blindness."""

from __future__ import annotations

import re
import textwrap
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
    label: str = ""
    width: float = 1.6
    named: bool = True


def run_styles(runs: Sequence[str]) -> dict[str, RunStyle]:
    """A distinct style for each of the first ten runs, thin grey for the rest; labels without the common beginning."""
    styles: dict[str, RunStyle] = {}
    for i, (run, label) in enumerate(short_labels(runs).items()):
        if i < STYLED_RUNS:
            dash, marker = DASHES[i % len(DASHES)], MARKERS[i % len(MARKERS)]
            styles[run] = RunStyle(COLOURS[i % len(COLOURS)], dash, marker, label)
        else:
            styles[run] = RunStyle("#9a9a9a", "-", "", label, 0.6, False)
    return styles


def short_labels(runs: Sequence[str]) -> dict[str, str]:
    """Run → its id without the folders that most ids begin with: "archive/lora-r8" → "lora-r8".

    The beginning is that of the first run's archive: ids from elsewhere (a base) stay whole. Labels stay distinct.
    """
    archive = [run.split("/")[:-1] for run in runs if runs and run.split("/")[0] == runs[0].split("/")[0]]
    common = list(archive[0]) if len(archive) > 1 or len(runs) == 1 else []
    for folders in archive:
        while common and folders[: len(common)] != common:
            common.pop()
    prefix = "".join(f"{folder}/" for folder in common)
    labels = {run: run.removeprefix(prefix) for run in runs}
    taken = list(labels.values())
    return {run: label if label and taken.count(label) == 1 else run for run, label in labels.items()}


def wrapped(text: str, width: float, size: float = 10.5, lines: int = 2) -> str:
    """Text in at most `lines` lines that fit `width` inches at `size` points, without its middle where longer."""
    chars = max(6, int(width * 72 / (0.62 * size)))
    shown = literal(text, chars * lines - 2)
    rows = textwrap.wrap(shown.replace("/", "/ ").replace("-", "- ").replace("_", "_ "), chars) or [""]
    joined = [re.sub(r"([/\-_]) ", r"\1", row) for row in rows]
    return "\n".join(joined if len(joined) <= lines else textwrap.wrap(shown, chars)[:lines])


def literal(text: str, limit: int = 60) -> str:
    """Text as matplotlib shows it literally: no mathtext, no hidden legend entry, nothing that SVG cannot hold."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    if len(shown) > limit:  # both ends of a long name tell runs apart
        shown = f"{shown[: limit // 2 - 1]}…{shown[-limit // 2 :]}"
    shown = shown.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown
