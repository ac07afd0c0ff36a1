"""Figures of intrinsic dimension: scores against d, d_int over steps with what is censored, layers, and the path."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from pipeline.report.blocks import Block, Details, Gallery, Prose, Section, from_rows, number
from pipeline.report.figures import Image, canvas, image, place
from pipeline.report.intrinsic_text import CONVENTIONS, MARK, NODE, codes, measured, rows, said
from pipeline.report.look import Look
from pipeline.report.path_figures import path_blocks
from pipeline.report.plots import draw_line, legend, plain_log_ticks
from pipeline.report.style import RunStyle, literal, wrapped

CURVES = 6
"""Checkpoints drawn in one figure of scores against d, spread over the steps."""
PANELS = 12


def intrinsic_section(tree: xr.DataTree, look: Look) -> Section | None:
    """The section, where an analysis measured any of it."""
    if NODE not in tree.children:
        return None
    node = tree[NODE].to_dataset()
    blocks: list[Block] = []
    if "d_int" in node:
        blocks += _landscape(node, look)
    if "two_nn" in node and node["two_nn"].notnull().any():
        images = list(_layers(node, look))
        blocks += [Gallery(tuple(images[:4]))] if images else []
    if "path" in node and node["distance_from_start"].notnull().any():
        blocks += path_blocks(node, look)
    return Section("intrinsic", "Intrinsic dimension", tuple(blocks)) if blocks else None


def _landscape(node: xr.Dataset, look: Look) -> list[Block]:
    blocks: list[Block] = [Prose(CONVENTIONS)]
    over = [one for one in (over_steps(node, look, str(t)) for t in node["task"].values) if one is not None]
    curves = list(score_curves(node, look))
    if over or curves:
        blocks.append(Gallery((*over, *curves[: PANELS - len(over)])))
    if curves[PANELS - len(over) :]:
        blocks.append(Details("Further curves", (Gallery(tuple(curves[PANELS - len(over) :])),)))
    told = list(rows(node))
    columns = {
        "run": "run",
        "step": look.steps.word,
        "task": "task",
        "method": "method",
        "baseline": "full training",
        "initial": "before training",
        "local": "d_int local",
        "of_run": "d_int run",
        "global": "d_int global",
        "n": "trained models",
        "note": "note",
    }
    level = float(node["level"].values[0])
    caption = (
        f"d_int at level {level:g} with 95 % intervals over seeds and tunings; an open end was not tried. {MARK}: a "
        "reason for doubt, given in the note."
    )
    table = from_rows(caption, told, columns)
    blocks.append(table if len(told) <= 24 else Details(f"All {len(told)} checkpoints × methods", (table,)))
    return blocks


def over_steps(node: xr.Dataset, look: Look, task: str) -> Image | None:
    """d_int over steps by the local and by the run's threshold, a curve per run and method. What is censored is no
    point of a curve: a triangle stands at the last d tried."""
    one = node.sel(task=task).isel(level=0)
    level = float(one["level"])
    with canvas(8.2, 3.9) as figure:
        panels: Sequence[Axes] = list(figure.subplots(1, 2, sharey=True))
        drawn: list[str] = []
        steps: list[np.ndarray] = []
        ends: list[str] = []
        floor = _floor(one.sel(threshold=["local", "run"]))
        for axes, name in zip(panels, ("local", "run"), strict=True):
            of = one.sel(threshold=name)
            for method in range(one.sizes["method"]):
                for run in (str(each) for each in one["run"].values):
                    cell = of.sel(run=run).isel(method=method)
                    there = np.flatnonzero(cell["censored"].notnull().values)
                    if not there.size or run not in look.styles:
                        continue
                    cell = cell.isel(step=there)
                    _draw_crossings(axes, cell, look.styles[run], floor)
                    drawn.append(run)
                    steps.append(cell["step"].values.astype(float))
                    first, last = (said(cell.isel(step=i)) for i in (0, -1))
                    ends.append(f"{run}, {cell['method'].values!s}, {name}: {first} to {last}")
            axes.set_title(
                f"{level:g} of {'its own' if name == 'local' else 'the run’s best'} full training", loc="left"
            )
        if not drawn:
            return None
        panels[0].set_yscale("log")
        plain_log_ticks(panels[0])
        for axes in panels:
            look.steps.draw(axes, np.concatenate(steps))
        panels[0].set_ylabel("d_int")
        place(figure, 2, top=0.3 + legend(figure, list(dict.fromkeys(drawn)), look), apart=(0.3, 0))
        caption = (
            f"Least dimension that reaches {level:g} of full training on {task}, bars: 95 % over seeds and tunings, "
            "arrows where an end is open. Hollow triangles are no values: up, above every d tried; down, at or below "
            "the least. Hollow squares below: reached before training. Rings: doubtful, see the table. Dotted: SAID; "
            "grey dashes: controls, whose intervals and doubts stand in the table."
        )
        return image(
            figure,
            f"Intrinsic dimension over {look.steps.word}s: {task}",
            caption,
            f"Line plot. {'; '.join(ends[:8])}.",
        )


def _floor(one: xr.Dataset) -> float:
    """Where 0 is drawn on a logarithmic axis: below everything else."""
    parts = [one[name].values.astype(float).ravel() for name in ("d_int", "d_int_limit", "d_int_low")]
    every = np.concatenate(parts)
    every = every[np.isfinite(every) & (every > 0)]
    return float(every.min()) / 1.8 if every.size else 1.0


def _draw_crossings(axes: Axes, cell: xr.Dataset, style: RunStyle, floor: float) -> None:
    """One run's and method's crossings over its measured steps; 0 is drawn at `floor`."""
    at = cell["step"].values.astype(float)
    value, limit = cell["d_int"].values.astype(float), cell["d_int_limit"].values.astype(float)
    method = str(cell["method"].values)
    line = np.where(value > 0, value, np.nan)
    colour = style.colour
    control = "," in method
    if control:
        colour = "#888888"
        axes.plot(at, line, color=colour, linestyle="--", linewidth=0.9, marker="x", markersize=4, zorder=1)
    elif method.startswith("said"):
        axes.plot(at, line, color=colour, linestyle=":", marker="s", markersize=4)
    else:
        draw_line(axes, at, line, style)
    low, high = cell["d_int_low"].values.astype(float), cell["d_int_high"].values.astype(float)
    inside = np.isfinite(line) & (not control)  # bars and rings of controls would hide the checkpoints' own
    for x, y, down, up in zip(at[inside], line[inside], low[inside], high[inside], strict=True):
        foot, head = (down if down > 0 else y / 2), (up if np.isfinite(up) else y * 2)
        axes.vlines(x, foot, head, color=colour, alpha=0.5)
        for end, marker, is_open in ((foot, "v", down <= 0), (head, "^", np.isinf(up))):
            if is_open:
                axes.plot([x], [end], color=colour, marker=marker, alpha=0.5, markersize=4)
    shown = np.where(np.isfinite(limit), limit, np.where(value == 0, floor, line))
    kinds = {"^": cell["censored"].values > 0, "v": cell["censored"].values < 0, "s": value == 0}
    for marker, holds in kinds.items():
        axes.plot(
            at[holds],
            shown[holds],
            color=colour,
            marker=marker,
            linestyle="none",
            markersize=5 if control else 8,
            fillstyle="none",
        )
    doubtful = np.array([not control and bool(codes(cell.isel(step=i))) for i in range(len(at))])
    axes.plot(
        at[doubtful], shown[doubtful], color="#999999", marker="o", linestyle="none", markersize=13, fillstyle="none"
    )


def score_curves(node: xr.Dataset, look: Look) -> Iterator[Image]:
    """Score against d with its interval, one figure per run, task and method; up to `CURVES` checkpoints each."""
    cells: dict[tuple[int, int, int], list[int]] = {}
    for at in measured(node):
        one = node.isel(at)
        if int(one["score"].notnull().sum()) > 1:
            cells.setdefault((at["run"], at["task"], at["method"]), []).append(at["step"])
    for (r, t, m), steps in cells.items():
        chosen = [steps[i] for i in _spread(len(steps))]
        yield _curve(node.isel(run=r, task=t, method=m), chosen, look)


def _curve(node: xr.Dataset, steps: Sequence[int], look: Look) -> Image:
    run, task, method = (str(node[name].values) for name in ("run", "task", "method"))
    ends = []
    with canvas(4.6, 3.4) as figure:
        axes = figure.add_subplot()
        for number_, s in enumerate(steps):
            one = node.isel(step=s)
            name = look.steps.at(int(one["step"]))
            colour = _shade(number_, len(steps))
            there = np.flatnonzero(one["score"].notnull().values & (one["d"].values > 0))
            d, score = one["d"].values[there], one["score"].values[there]
            low, high = one["score_low"].values[there], one["score_high"].values[there]
            axes.errorbar(
                d,
                score,
                [np.maximum(score - low, 0), np.maximum(high - score, 0)],
                color=colour,
                marker="o",
                markersize=4,
                capsize=2,
                label=name,
            )
            tuned = np.flatnonzero(one["tune_score"].notnull().values & (one["d"].values > 0))
            axes.plot(
                one["d"].values[tuned],
                one["tune_score"].values[tuned],
                color=colour,
                marker=".",
                alpha=0.35,
                linestyle="none",
            )
            axes.axhline(float(one["baseline_score"]), color=colour, linestyle=":", linewidth=0.8)
            axes.axhline(
                float(one["threshold_score"].sel(threshold="local").isel(level=0)),
                color=colour,
                linestyle="--",
                linewidth=0.8,
            )
            ends.append(f"{name}: {number(score[0])} at d = {d[0]} to {number(score[-1])} at {d[-1]}")
        axes.set_xscale("log")
        plain_log_ticks(axes)
        axes.set_xlabel("dimensions d that are trained")
        axes.set_ylabel("score")
        axes.legend(fontsize=7, loc="lower right")
        axes.set_title(literal(f"{run}: {method}", 48), loc="left", fontsize=8)
        place(figure, top=0.32)
        caption = (
            "Circles: mean over fresh seeds with its 95 % interval. Faint dots: the tuning split, by which the search "
            "went. Dotted: full training; dashed: the local threshold."
        )
        title = f"Score against dimensions: {task}, {run}, {method}"
        return image(figure, title, caption, f"Plot. {'; '.join(ends)}.")


def _layers(node: xr.Dataset, look: Look) -> Iterator[Image]:
    """Estimates of the activations for each run and task: over the steps, a curve per layer; over the layers where
    there are no three steps."""
    for r in range(node.sizes["run"]):
        for t in range(node.sizes["task"]):
            one = node.isel(run=r, task=t)
            steps = np.flatnonzero(one["two_nn"].notnull().any("layer").values)
            there = np.flatnonzero(one["two_nn"].notnull().any("step").values)
            if steps.size:
                yield _layer_figure(one.isel(layer=there, step=steps), look)


def _layer_figure(node: xr.Dataset, look: Look) -> Image:
    names = {"two_nn": "TwoNN", "mle": "MLE, k = 20", "participation_ratio": "participation ratio"}
    run, task = str(node["run"].values), str(node["task"].values)
    layers, steps = [str(name) for name in node["layer"].values], node["step"].values
    over = len(steps) > 2
    chosen = _spread(len(layers) if over else len(steps))
    with canvas(7.6, 3.2) as figure:
        panels: Sequence[Axes] = list(figure.subplots(1, 3))
        for axes, (name, title) in zip(panels, names.items(), strict=True):
            for i, at in enumerate(chosen):
                one = node[name].isel(layer=at) if over else node[name].isel(step=at)
                x = steps.astype(float) if over else np.arange(len(layers))
                label = literal(layers[at], 22) if over else look.steps.at(int(steps[at]))
                colour = _shade(i, len(chosen))
                axes.plot(x, one.values, color=colour, marker="o", markersize=3, label=label)
            axes.set_title(title, loc="left", fontsize=8)
            axes.set_ylim(bottom=0)
            if over:
                look.steps.draw(axes, steps.astype(float))
            else:
                ticks = [literal(wrapped(one, 1.2), 14) for one in layers]
                axes.set_xticks(range(len(layers)), ticks, fontsize=6, rotation=60)
        panels[0].set_ylabel("dimensions")
        panels[-1].legend(fontsize=6)
        place(figure, 3, bottom=0.5 if over else 0.95, top=0.3, apart=(0.45, 0))
        how = "a curve per layer, darker towards the output" if over else "layer by layer"
        caption = (
            f"Activations of {run} on {task}’s score examples (mean over tokens), {how}. Estimates from nearest "
            "neighbours are biased low at high dimension."
        )
        last = node.isel(step=-1)
        ends = "; ".join(f"{name} {number(float(last['two_nn'].isel(layer=i)))}" for i, name in enumerate(layers[:8]))
        return image(
            figure, f"Dimension of the activations: {task}, {run}", caption, f"TwoNN, last {look.steps.word}: {ends}."
        )


def _spread(count: int) -> list[int]:
    """Up to `CURVES` of so many, evenly chosen."""
    return np.unique(np.linspace(0, count - 1, CURVES).round().astype(int)).tolist()


def _shade(index: int, count: int) -> str:
    """From light to dark blue over the checkpoints."""
    share = 1.0 if count == 1 else index / (count - 1)
    return to_hex((0.62 - 0.55 * share, 0.75 - 0.5 * share, 0.9 - 0.35 * share))
