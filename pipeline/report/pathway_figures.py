"""Pathways on the page: each run's metrics beside its loss, load over steps, what goes together, who is specialised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from analyzers.pathway_metrics.correlation import correlation, of_differences
from analyzers.pathway_metrics.variables import CORRELATED
from pipeline.report.blocks import Block, Details, Gallery, PageTable, Prose, Section, from_rows, number
from pipeline.report.figures import Image, canvas, image, place
from pipeline.report.logged import Logged
from pipeline.report.look import Look
from pipeline.report.pathway_text import NODE, preferred
from pipeline.report.step_axis import short
from pipeline.report.style import COLOURS, SEQUENTIAL, literal, wrapped

SHOWN = 6
"""Runs that get panels: the first and the last ones where there are more."""
MATRICES = 4
"""Routers that get a co-activation matrix."""
_LOSSES = ("train_loss", "loss", "test_loss", "val_loss", "eval_loss")
_SCORES = ("eval_accuracy", "test_accuracy", "val_accuracy", "accuracy", "eval_score", "score")

PITFALLS = (
    "Raw pathway distance follows pathway length, which falls whenever routing sharpens: only the normalised distance "
    "and the grouped ratio say more.",
    "A ratio below 1 means that samples of a group take more similar pathways than others; 1 is what labels without "
    "meaning give. Its band is over resampled samples of one run: runs (seeds) are the unit of replication.",
    "Curves of a run drift, and two drifts correlate by themselves: correlations are of the changes from step to step. "
    "They count n_eff observations, not n, and have no interval below 8.",
)


def pathway_section(tree: xr.DataTree, look: Look) -> Section | None:
    """The section, None where the report has no pathways."""
    if NODE not in tree.children:
        return None
    dataset = tree[NODE].to_dataset()
    if "pathway_distance" not in dataset:
        return None
    at = preferred(dataset)
    runs = [str(r) for r in at["run"].values if np.isfinite(at["pathway_distance"].sel(run=r)).any()]
    if not runs:
        return None
    logged = Logged.of(tree)
    shown = [runs[i] for i in np.unique(np.linspace(0, len(runs) - 1, min(SHOWN, len(runs))).round().astype(int))]
    images: list[Image | None] = [course_figure(at, logged, shown, look)]
    images += [load_figure(at, shown, look)] if "expert_load" in at else []
    images += [coactivation_figure(at, run, look) for run in shown[:1] if "coactivation" in at]
    images += [specialisation_figure(at, shown, look, of) for of in _SPECIALISED]
    blocks: list[Block] = [Gallery(tuple(i for i in images if i is not None)), _last_steps(at, runs)]
    blocks += _correlations(at, logged, runs)
    which = _which(dataset)
    if len(shown) < len(runs):
        which = (f"Figures show {len(shown)} of {len(runs)} runs; the tables and report.zarr have all.", *which)
    blocks.append(Prose((*PITFALLS, *which)))
    return Section("pathways", "Pathways through the experts", tuple(blocks))


def _which(dataset: xr.Dataset) -> tuple[str, ...]:
    said = []
    if dataset.sizes["probe"] > 1:
        said.append(f"Shown: the first of {dataset.sizes['probe']} probes, {dataset['probe'].values[0]}.")
    if dataset.sizes.get("column", 0):
        column = str(dataset["column"].values[0])
        others = ", ".join(str(c) for c in dataset["column"].values[1:])
        said.append(
            f"The grouped ratio shown is by {column}" + (f"; report.zarr also has {others}." if others else ".")
        )
    return tuple(said)


def _course(at: xr.Dataset, name: str, run: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one run's metric where it was measured."""
    if name not in at:
        return np.zeros(0), np.zeros(0)
    values = at[name].sel(run=run).values.astype(float)
    there = np.isfinite(values)
    return at["step"].values[there], values[there]


def course_figure(at: xr.Dataset, logged: Logged, runs: Sequence[str], look: Look) -> Image | None:
    """Per run, one above the other over the same steps: loss, distance and length, shares, ratio, consistency."""
    each = min(2.75, 11.4 / len(runs))
    with canvas(each * len(runs) + 1.0, 8.6) as figure:
        panels = figure.subplots(5, len(runs), squeeze=False, sharey="row")
        for column, run in enumerate(runs):
            loss, raw, spread, ratio, cosine = panels[:, column]
            loss.set_title(wrapped(look.label(run), each - 0.3), loc="left")
            _losses(loss, at, logged, run)
            for name, colour in (("pathway_distance", COLOURS[0]), ("pathway_length", COLOURS[6])):
                _line(raw, *_course(at, name, run), colour, _words(name))
            for name, colour in (("pathway_distance_normalised", COLOURS[0]), ("routing_entropy", COLOURS[1])):
                _line(spread, *_course(at, name, run), colour, _words(name))
            ratio.axhline(1, color="#5e5e5e", linewidth=1, linestyle="--")
            steps, low = _course(at, "grouped_distance_ratio_low", run)
            high = _course(at, "grouped_distance_ratio_high", run)[1]
            if steps.size and steps.size == high.size:
                ratio.fill_between(steps, low, high, color=COLOURS[2], alpha=0.2, linewidth=0)
            _line(ratio, *_course(at, "grouped_distance_ratio", run), COLOURS[2], "grouped ratio")
            _line(cosine, *_course(at, "consistency_cosine", run), COLOURS[3], "consistency (cosine)")
            for axes in panels[:, column]:
                look.steps.draw(axes, at["step"].values)
                axes.label_outer()
        for axes, label in zip(panels[:, 0], ("loss", "tokens", "share", "within / between", "cosine"), strict=True):
            axes.set_ylabel(label)
        for axes in panels[:4, 0]:
            if axes.get_legend_handles_labels()[0]:
                axes.legend(loc="best", fontsize=7.5)
        place(figure, len(runs), 5, top=0.45, apart=(0.25, 0.3))
        ends = "; ".join(
            f"{run}: ratio {v[-1]:.3g}" for run in runs if (v := _course(at, "grouped_distance_ratio", run)[1]).size
        )
        caption = (
            "Top: the archive's own train and test loss where it has them, else the probe's. Then the mean distance "
            "between pathways and their length; the normalised distance and the entropy of routing; the mean distance "
            "within groups over that between them, with 95 % over resampled samples, 1 being chance; and the cosine of "
            "neighbouring layers."
        )
        return image(figure, "Pathways beside the loss", caption, f"Line plots per run. At the last step {ends}.")


def _losses(axes: Axes, at: xr.Dataset, logged: Logged, run: str) -> None:
    drawn = False
    names = logged.names_of(run)
    for name in _LOSSES:
        colour = COLOURS[4] if name in ("train_loss", "loss") else COLOURS[5]
        if name in names:
            of_run = logged[name].sel(run=run)
            there = np.isfinite(of_run.values) & (of_run.values > 0)
            if there.any():
                _line(axes, of_run["step"].values[there], of_run.values[there], colour, _words(name))
                drawn = True
    if not drawn:
        _line(axes, *_course(at, "probe_loss", run), COLOURS[4], "loss of the probe")
    if axes.lines:
        axes.set_yscale("log")


def _line(axes: Axes, steps: np.ndarray, values: np.ndarray, colour: str, label: str) -> None:
    if steps.size:
        axes.plot(steps, values, color=colour, marker="o", markersize=2.5, label=label)


def _words(name: str) -> str:
    return name.replace("pathway_", "").replace("_", " ")


def load_figure(at: xr.Dataset, runs: Sequence[str], look: Look) -> Image | None:
    """Rows are experts, layer above layer; columns checkpoints; a panel per run."""
    loads = at["expert_load"]
    routers, experts = loads.sizes["router"], loads.sizes["expert"]
    panels = []
    for run in runs:
        cells = loads.sel(run=run).transpose("router", "expert", "step").values.reshape(routers * experts, -1)
        there = np.isfinite(cells).any(0)
        if there.any():
            panels.append((run, cells[:, there] * experts, at["step"].values[there]))
    if not panels:
        return None
    top = float(np.nanmax([np.nanmax(cells) for _, cells, _ in panels]))
    height = 1.4 + min(max(0.05 * routers * experts, 1.2), 4.5)
    each = min(2.5, 11.0 / len(panels))
    width = each * len(panels) + 1.4
    with canvas(width, height) as figure:
        row = figure.subplots(1, len(panels), squeeze=False).ravel()
        for axes, (run, cells, steps) in zip(row, panels, strict=True):
            colormap = mpl.colormaps[SEQUENTIAL].with_extremes(bad="#f0f0f0")
            mesh = axes.imshow(cells, aspect="auto", cmap=colormap, vmin=0, vmax=top, interpolation="nearest")
            axes.set_title(wrapped(look.label(run), each - 0.3), loc="left")
            axes.grid(False)
            for layer in range(1, routers):
                axes.axhline(layer * experts - 0.5, color="white", linewidth=1)
            every = max(1, routers // 8)
            ticks = [layer * experts + (experts - 1) / 2 for layer in range(0, routers, every)]
            axes.set_yticks(ticks, [f"{layer}" for layer in range(0, routers, every)] if axes is row[0] else [])
            columns = np.unique(
                np.linspace(0, steps.size - 1, min(4 if each > 2 else 3, steps.size)).round().astype(int)
            )
            axes.set_xticks(columns, [short(int(steps[c])) for c in columns])
            axes.set_xlabel(look.steps.label)
        row[0].set_ylabel("router × expert")
        place(figure, len(panels), right=1.0, top=0.45, apart=(0.25, 0))
        inches = (width - 0.8) / width, 0.5 / height, 0.14 / width, (height - 0.95) / height
        figure.colorbar(mesh, cax=figure.add_axes(inches)).set_label("load / fair share")
        said = "; ".join(f"{run}: up to {np.nanmax(cells[:, -1]):.2g} of the fair share" for run, cells, _ in panels)
        caption = "Share of a router's choices that went to each expert, over the fair share; columns are checkpoints."
        return image(figure, "Load of the experts", caption, f"Heatmaps of load. At the last step {said}.")


def coactivation_figure(at: xr.Dataset, run: str, look: Look) -> Image | None:
    """N_ij / N_i at the run's last step, a panel per router (at most four)."""
    values = at["coactivation"].sel(run=run)
    there = np.isfinite(values.values).any(axis=tuple(i for i, d in enumerate(values.dims) if d != "step"))
    if not there.any():
        return None
    last = values.isel(step=int(np.flatnonzero(there)[-1])).transpose("router", "expert", "other_expert").values
    shown = np.unique(np.linspace(0, len(last) - 1, min(MATRICES, len(last))).round().astype(int))
    off = last.copy()
    off[:, np.arange(last.shape[1]), np.arange(last.shape[1])] = np.nan
    if not np.isfinite(off).any():
        return None
    with canvas(2.2 * len(shown) + 1.4, 3.0) as figure:
        row = figure.subplots(1, len(shown), squeeze=False).ravel()
        for axes, router in zip(row, shown, strict=True):
            colormap = mpl.colormaps[SEQUENTIAL].with_extremes(bad="#f0f0f0")
            mesh = axes.imshow(off[router], cmap=colormap, vmin=0, vmax=float(np.nanmax(off)), interpolation="nearest")
            axes.set_title(f"router {router}", loc="left")
            axes.grid(False)
            axes.set_xlabel("other expert")
        row[0].set_ylabel("expert")
        place(figure, len(shown), right=1.0, top=0.4, apart=(0.35, 0))
        width = 2.2 * len(shown) + 1.4
        inches = (width - 0.8) / width, 0.5 / 3.0, 0.14 / width, 2.1 / 3.0
        figure.colorbar(mesh, cax=figure.add_axes(inches)).set_label("N_ij / N_i")
        caption = (
            f"{look.label(run)}, last step: of the tokens that chose an expert (row), the share that chose another "
            "(column). The diagonal is 1 and left out."
        )
        return image(
            figure,
            "Experts chosen together",
            caption,
            f"Matrices per router; the largest entry is {np.nanmax(off):.2g}.",
        )


_SPECIALISED = {
    "domain": (
        "domain_specialisation",
        "Largest share of one domain's tokens that chose one expert",
        "k/E, a router that does not look",
    ),
    "vocabulary": (
        "vocabulary_specialisation_by_router",
        "Mean share of a token id's occurrences that chose its favourite expert (ids shown 10 times at least)",
        "what ids that do not matter would give",
    ),
}


def specialisation_figure(at: xr.Dataset, runs: Sequence[str], look: Look, of: str) -> Image | None:
    """Bars per router at each run's last step, `of` "domain" or "vocabulary", with the chance level as a line."""
    name, what, line = _SPECIALISED[of]
    chance_name = f"{of}_specialisation_chance"
    if name not in at or chance_name not in at or not np.isfinite(at[name].values).any():
        return None
    found = []
    for run in runs:
        values, chance = at[name].sel(run=run), at[chance_name].sel(run=run)
        best = values.max([d for d in values.dims if d not in ("step", "router")]).transpose("step", "router").values
        there = np.flatnonzero(np.isfinite(best).any(1))
        if there.size:
            found.append((run, best[there[-1]], chance.transpose("step", "router").values[there[-1]]))
    if not found:
        return None
    with canvas(5.6, 3.2) as figure:
        axes = figure.add_subplot()
        width = 0.8 / len(found)
        for place_at, (run, bars, chance) in enumerate(found):
            x = np.arange(len(bars)) + (place_at - (len(found) - 1) / 2) * width
            axes.bar(x, bars, width, color=look.styles[run].colour, label=literal(look.label(run), 24))
            axes.hlines(chance, x - width / 2, x + width / 2, color="#000000", linewidth=1.2)
        axes.set_xlabel("router")
        every = max(1, len(found[0][1]) // 12)
        axes.set_xticks(range(0, len(found[0][1]), every))
        axes.set_ylabel("share of tokens")
        top = max(float(np.nanmax([bars, chance])) for _, bars, chance in found)
        axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= 1])
        axes.set_ylim(0, top * (1.12 + 0.1 * -(-len(found) // 2)))  # room for the legend above the bars
        axes.legend(fontsize=7.5, ncols=2, loc="upper center")
        place(figure)
        caption = f"{what}, at the last step, by router. Black lines: {line}."
        ends = "; ".join(f"{run}: {np.nanmax(bars):.2g}" for run, bars, _ in found)
        return image(figure, f"{of.capitalize()} specialisation", caption, f"Bars. Largest {ends}.")


def _last_steps(at: xr.Dataset, runs: Sequence[str]) -> PageTable:
    rows = []
    for run in runs:
        course = {name: _course(at, name, run) for name in CORRELATED}
        ends = {
            name: f"{number(v[0])} → {number(v[-1])}" if len(v) > 1 else number(v[-1])
            for name, (_, v) in course.items()
            if len(v)
        }
        p = _course(at, "grouped_distance_ratio_p", run)[1]
        rows.append({"run": run, **ends, "p": number(p[-1]) if len(p) else ""})
    columns = {"run": "run", **{name: _words(name) for name in CORRELATED}, "p": "p of the last ratio"}
    return from_rows(
        "First → last checkpoint of each run. p: share of shuffled labellings whose ratio is as small.", rows, columns
    )


def _scores(at: xr.Dataset, logged: Logged, run: str) -> dict[str, xr.DataArray]:
    """What a run's metrics are correlated with, over the report's steps: the archive's test loss (else its train loss,
    else the probe's), and its test score where it logs one."""
    there = logged.names_of(run)
    loss = next((name for name in reversed(_LOSSES) if name in there), None)
    score = next((name for name in (*_SCORES, *sorted(n for n in there if "accuracy" in n)) if name in there), None)
    found = {"probe_loss": at["probe_loss"].sel(run=run)} if loss is None else {}
    steps = at["step"].values
    return found | {name: logged[name].sel(run=run).reindex(step=steps) for name in (loss, score) if name is not None}


def _correlations(at: xr.Dataset, logged: Logged, runs: Sequence[str]) -> list[Block]:
    """Of each metric's changes with those of the archive's test loss and score: r at a glance, the rest below it."""
    brief: list[dict[str, Any]] = []
    whole: list[dict[str, Any]] = []
    for run in runs:
        for name, values in _scores(at, logged, run).items():
            place = {"run": run, "with": _words(name)}
            cells: dict[str, str] = {}
            for metric in CORRELATED:
                if metric not in at:
                    continue
                x, y = at[metric].sel(run=run).values.astype(float), values.values.astype(float)
                of_changes = of_differences(x, y)
                if not np.isfinite(of_changes.r):
                    continue
                known = np.isfinite(of_changes.low)
                ends = (_signed(of_changes.low), _signed(of_changes.high))
                cells[metric] = _signed(of_changes.r) + (f" [{ends[0]}, {ends[1]}]" if known else "")
                interval = f"{ends[0]} … {ends[1]}" if known else "none: n_eff < 8"
                whole.append(
                    {
                        **place,
                        "metric": _words(metric),
                        "r": _signed(of_changes.r),
                        "interval": interval,
                        "n": of_changes.n,
                        "n_eff": f"{of_changes.n_eff:.1f}",
                        "levels": _signed(correlation(x, y).r),
                    }
                )
            if cells:
                brief.append({**place, **cells})
    if not brief:
        return []
    headings = {"run": "run", "with": "with"}
    table = from_rows(
        "Correlation of the changes from step to step, with a 95 % interval where 8 changes or more count effectively.",
        brief,
        headings | {metric: _words(metric) for metric in CORRELATED},
    )
    every = from_rows(
        "n_eff = n / (1 + 2 Σ ρx ρy): neighbouring changes are alike. The levels correlate where both merely drift: "
        "their r is no evidence.",
        whole,
        headings
        | {"metric": "metric", "r": "r", "interval": "95 % interval", "n": "n", "n_eff": "n_eff"}
        | {"levels": "r of the levels"},
    )
    return [
        table,
        Details("The same with the number of changes that count, and of the levels", (every,)),
    ]


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")
