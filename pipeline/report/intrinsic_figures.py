"""Figures of intrinsic dimension: scores against d, d_int over steps with what is censored, layers, and the path."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from pipeline.report.blocks import Block, Details, Gallery, Prose, Section, from_rows, number
from pipeline.report.figures import Image, canvas, image, place
from pipeline.report.look import Look
from pipeline.report.plots import draw_line, legend, plain_log_ticks
from pipeline.report.style import literal, wrapped

NODE = "intrinsic_dimension"
CURVES = 6
"""Checkpoints drawn in one figure of scores against d, spread over the steps."""
PANELS = 12
CONVENTIONS = (
    "d_int is the least d at which training in d random dimensions, from this checkpoint, reaches the threshold.",
    "local: level × this checkpoint’s own full training. run: level × the best full training of its run. global: level "
    "× the task’s full marks. corrected: counted from what always naming the commonest class scores.",
    "did: θ0 + P z. said: each layer’s part is scaled by one learned number, counted inside d.",
    "A control (random_init, shuffled_labels, shuffled_inputs) stands in its own rows; of shuffled labels the training "
    "examples themselves are scored.",
)


def intrinsic_section(tree: xr.DataTree, look: Look) -> Section | None:
    """The section, where an analysis measured any of it."""
    if NODE not in tree.children:
        return None
    node = tree[NODE].to_dataset()
    blocks: list[Block] = []
    if "d_int" in node:
        blocks += _landscape(node, look)
    if "two_nn" in node and node["two_nn"].notnull().any():
        images = list(_layers(node))
        blocks += [Gallery(tuple(images[:4]))] if images else []
    if "path" in node and node["distance_from_start"].notnull().any():
        blocks += _path(node, look)
    return Section("intrinsic", "Intrinsic dimension", tuple(blocks)) if blocks else None


def _landscape(node: xr.Dataset, look: Look) -> list[Block]:
    blocks: list[Block] = [Prose(CONVENTIONS)]
    over = [one for one in (over_steps(node, look, str(t)) for t in node["task"].values) if one is not None]
    curves = list(score_curves(node))
    if over or curves:
        blocks.append(Gallery((*over, *curves[: PANELS - len(over)])))
    if curves[PANELS - len(over) :]:
        blocks.append(Details("Further curves", (Gallery(tuple(curves[PANELS - len(over) :])),)))
    rows = list(_rows(node))
    columns = {
        "run": "run",
        "step": "step",
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
    caption = f"d_int at level {level:g} with 95 % intervals over seeds. < and >: censored, beyond what was tried."
    table = from_rows(caption, rows, columns)
    blocks.append(table if len(rows) <= 24 else Details(f"All {len(rows)} checkpoints × methods", (table,)))
    return blocks


def _rows(node: xr.Dataset) -> Iterator[dict[str, object]]:
    """One row for each measured checkpoint, task and method."""
    for at in _measured(node):
        one = node.isel(at)
        changed = bool((one["budget_changes"] == 1).any())
        diverged = int(one["n_diverged"])
        notes = (["⚑ a doubled budget moves it"] if changed else []) + ([f"{diverged} diverged"] if diverged else [])
        if float(one["n_fresh"]):
            notes.append(f"{int(one['n_fresh'])} of {int(one['n_trained'])} parameters are a fresh head")
        yield {
            "run": str(one["run"].values),
            "step": int(one["step"]),
            "task": str(one["task"].values),
            "method": str(one["method"].values),
            "baseline": float(one["baseline_score"]),
            "initial": float(one["initial_score"]),
            "local": said(one.sel(threshold="local").isel(level=0)),
            "of_run": said(one.sel(threshold="run").isel(level=0)),
            "global": said(one.sel(threshold="global").isel(level=0)),
            "n": int(one["n_trials"]),
            "note": "; ".join(notes),
        }


def _measured(node: xr.Dataset) -> Iterator[dict[str, int]]:
    there = node["n_trials"].transpose("run", "step", "task", "method").values
    for r, s, t, m in zip(*np.nonzero(np.isfinite(there)), strict=True):
        yield {"run": int(r), "step": int(s), "task": int(t), "method": int(m)}


def said(one: xr.Dataset) -> str:
    """ "107 [93 … 131]", "> 4810", "0 (reached before training)"; empty where it was not measured."""
    value, censored = float(one["d_int"]), float(one["censored"])
    if np.isnan(value):
        return ""
    if censored > 0:
        return f"> {value:.0f}"
    if value == 0:
        return "0 (reached before training)"
    mark = "≤ " if censored < 0 else ""
    ends = [float(one[name]) for name in ("d_int_low", "d_int_high")]
    return f"{mark}{value:.0f} [{' … '.join('beyond' if np.isinf(end) else f'{end:.0f}' for end in ends)}]"


def over_steps(node: xr.Dataset, look: Look, task: str) -> Image | None:
    """d_int over steps, local threshold, a curve per run and method; censored points are arrows."""
    one = node.sel(task=task, threshold="local").isel(level=0)
    level = float(one["level"])
    with canvas(5.6, 3.6) as figure:
        axes = figure.add_subplot()
        drawn: list[str] = []
        steps: list[np.ndarray] = []
        ends: list[str] = []
        for method in range(one.sizes["method"]):
            for r, run in enumerate(str(name) for name in one["run"].values):
                cell = one.isel(run=r, method=method)
                values = cell["d_int"].values.astype(float)
                kept = np.isfinite(values)
                if not kept.any() or run not in look.styles:
                    continue
                at, shown = one["step"].values[kept].astype(float), np.maximum(values[kept], 1)
                low = np.maximum(np.nan_to_num(cell["d_int_low"].values[kept], nan=1), 1)
                high = cell["d_int_high"].values[kept].astype(float)
                high = np.where(np.isfinite(high), high, shown * 1.5)
                style = look.styles[run]
                if str(one["method"].values[method]).startswith("said"):
                    axes.plot(at, shown, color=style.colour, linestyle=":", marker="s", markersize=4)
                elif "," in str(one["method"].values[method]):
                    axes.plot(at, shown, color="#777777", linestyle="--", marker="x", markersize=5)
                else:
                    draw_line(axes, at, shown, style)
                axes.vlines(at, np.minimum(low, shown), np.maximum(high, shown), color=style.colour, alpha=0.5)
                codes = cell["censored"].values[kept]
                for code, marker in ((1, "^"), (-1, "v")):
                    axes.plot(
                        at[codes == code],
                        shown[codes == code],
                        color=style.colour,
                        marker=marker,
                        linestyle="none",
                        markersize=9,
                        fillstyle="none",
                    )
                drawn.append(run)
                steps.append(at)
                ends.append(f"{run}, {one['method'].values[method]}: {values[kept][0]:.0f} to {values[kept][-1]:.0f}")
        if not drawn:
            return None
        axes.set_yscale("log")
        plain_log_ticks(axes)
        look.steps.draw(axes, np.concatenate(steps))
        axes.set_ylabel(f"d_int, level {level:g}")
        place(figure, top=legend(figure, list(dict.fromkeys(drawn)), look))
        caption = (
            f"Least dimension that reaches {level:g} of the checkpoint’s own full training on {task}, bars: 95 % over "
            "seeds. Triangles: censored (up: above all d tried; down: at or below the least, 0 drawn at 1). Dotted: "
            "SAID; grey dashes: controls."
        )
        return image(figure, f"Intrinsic dimension over steps: {task}", caption, f"Line plot. {'; '.join(ends[:8])}.")


def score_curves(node: xr.Dataset) -> Iterator[Image]:
    """Score against d with its interval, one figure per run, task and method; up to `CURVES` checkpoints each."""
    cells: dict[tuple[int, int, int], list[int]] = {}
    for at in _measured(node):
        one = node.isel(at)
        if int(one["score"].notnull().sum()) > 1:
            cells.setdefault((at["run"], at["task"], at["method"]), []).append(at["step"])
    for (r, t, m), steps in cells.items():
        chosen = [steps[i] for i in np.unique(np.linspace(0, len(steps) - 1, CURVES).round().astype(int))]
        yield _curve(node.isel(run=r, task=t, method=m), chosen)


def _curve(node: xr.Dataset, steps: Sequence[int]) -> Image:
    run, task, method = (str(node[name].values) for name in ("run", "task", "method"))
    ends = []
    with canvas(4.6, 3.4) as figure:
        axes = figure.add_subplot()
        for number_, s in enumerate(steps):
            one = node.isel(step=s)
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
                label=f"step {int(one['step'])}",
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
            ends.append(f"step {int(one['step'])}: {number(score[0])} at d = {d[0]} to {number(score[-1])} at {d[-1]}")
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


def _layers(node: xr.Dataset) -> Iterator[Image]:
    """Estimates per layer: over the layers, one curve per checkpoint, for each run and task."""
    for r in range(node.sizes["run"]):
        for t in range(node.sizes["task"]):
            one = node.isel(run=r, task=t)
            steps = np.flatnonzero(one["two_nn"].notnull().any("layer").values)
            if steps.size:
                chosen = steps[np.unique(np.linspace(0, steps.size - 1, CURVES).round().astype(int))]
                yield _layer_figure(one, chosen)


def _layer_figure(node: xr.Dataset, steps: np.ndarray) -> Image:
    names = {"two_nn": "TwoNN", "mle": "MLE, k = 20", "participation_ratio": "participation ratio"}
    run, task = str(node["run"].values), str(node["task"].values)
    layers = [str(name) for name in node["layer"].values]
    with canvas(7.6, 3.2) as figure:
        panels: Sequence[Axes] = list(figure.subplots(1, 3))
        for axes, (name, title) in zip(panels, names.items(), strict=True):
            for i, s in enumerate(steps):
                values = node[name].isel(step=int(s)).values
                label = f"step {int(node['step'][int(s)])}"
                axes.plot(
                    range(len(layers)), values, color=_shade(i, len(steps)), marker="o", markersize=3, label=label
                )
            axes.set_title(title, loc="left", fontsize=8)
            axes.set_ylim(bottom=0)
            axes.set_xticks(
                range(len(layers)), [literal(wrapped(one, 1.2), 14) for one in layers], fontsize=6, rotation=60
            )
        panels[0].set_ylabel("dimensions")
        panels[-1].legend(fontsize=6)
        place(figure, 3, bottom=0.95, top=0.3, apart=(0.45, 0))
        caption = (
            f"Activations of {run} on {task}’s score examples (mean over tokens), layer by layer. Estimates from "
            "nearest neighbours are biased low at high dimension."
        )
        last = node.isel(step=int(steps[-1]))
        ends = "; ".join(f"{name} {number(float(last['two_nn'].isel(layer=i)))}" for i, name in enumerate(layers[:8]))
        return image(figure, f"Dimension of the activations: {task}, {run}", caption, f"TwoNN, last step: {ends}.")


def _path(node: xr.Dataset, look: Look) -> list[Block]:
    runs = [
        r for r in range(node.sizes["run"]) if int(node["distance_from_start"].isel(run=r, group=0).notnull().sum()) > 2
    ]
    rows = []
    for r in runs:
        one = node.isel(run=r, group=0)
        rows.append(
            {
                "run": str(one["run"].values),
                "first": float(one["explained_variance"].isel(component=0)),
                "null": float(one["explained_variance_null"].isel(component=0)),
                "dimension": float(one["path_dimension"]),
                "dimension_null": float(one["path_dimension_null"]),
                "distance": float(one["relative_distance"].dropna("step")[-1])
                if one["relative_distance"].notnull().any()
                else np.nan,
            }
        )
    if not rows:
        return []
    columns = {
        "run": "run",
        "first": "variance along the 1st component",
        "null": "that of a random walk",
        "dimension": "effective dimension",
        "dimension_null": "that of a random walk",
        "distance": "‖w − w_first‖/‖w_first‖ at the end",
    }
    caption = "The path of each run through weight space. A random walk over the same steps is nearly flat as well."
    images = tuple(_path_figure(node.isel(run=runs[i : i + 8]), look) for i in range(0, min(len(runs), 16), 8))
    return [Gallery(images), from_rows(caption, rows, columns)]


def _path_figure(node: xr.Dataset, look: Look) -> Image:
    whole = node.isel(group=0)
    with canvas(5.0, 3.6) as figure:
        axes = figure.add_subplot()
        shown, ends = [], []
        for r, run in enumerate(str(name) for name in whole["run"].values):
            xy = whole["path"].isel(run=r).values
            xy = xy[np.isfinite(xy[:, 0])]
            if run not in look.styles or not len(xy):
                continue
            draw_line(axes, xy[:, 0], xy[:, 1], look.styles[run])
            axes.plot(xy[:1, 0], xy[:1, 1], color=look.styles[run].colour, marker="s", markersize=7, fillstyle="none")
            shown.append(run)
            ends.append(f"{run} moves {number(float(xy[-1, 0] - xy[0, 0]))} along its first component")
        axes.set_xlabel("first component of the run’s own path")
        axes.set_ylabel("second component")
        place(figure, top=legend(figure, shown, look))
        caption = "Each run in its own first two principal components (all parameters); the square is its first step."
        return image(figure, "Paths through weight space", caption, f"Plot. {'; '.join(ends)}.")


def _shade(index: int, count: int) -> str:
    """From light to dark blue over the checkpoints."""
    share = 1.0 if count == 1 else index / (count - 1)
    return to_hex((0.62 - 0.55 * share, 0.75 - 0.5 * share, 0.9 - 0.35 * share))
