"""Layer × step heatmaps, a panel per run: the same for every analyzer."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize

from pipeline.report.compare import COUNTED, KeyVariable, quartiles
from pipeline.report.figures import Image, canvas, image, place
from pipeline.report.look import Look
from pipeline.report.plots import axis_label, plain_log_ticks, title_of
from pipeline.report.step_axis import short
from pipeline.report.style import SEQUENTIAL, wrapped


def heatmaps(variable: KeyVariable, runs: Sequence[str], look: Look) -> Image | None:
    """Median (of counts: sum) over a layer's matrices: rows are layers, columns the run's measured steps, panels runs.

    All panels share one colour scale. None where the variable has no layers or nothing was measured.
    """
    if "matrix" not in variable.values.dims or "layer" not in variable.values.coords:
        return None
    panels = [(run, *found) for run in runs if (found := _layer_grid(variable, run)) is not None]
    if not panels:
        return None
    scaled = [grid[:-1] if layers[-1] == "none" and len(layers) > 1 else grid for _, layers, grid, _ in panels]
    finite = np.concatenate([grid[np.isfinite(grid)] for grid in scaled])
    if not finite.size:
        return None
    logarithmic = variable.log and bool(np.all(finite > 0)) and finite.max() > finite.min()
    norm = (LogNorm if logarithmic else Normalize)(finite.min(), finite.max())
    tallest = max(grid.shape[0] for _, _, grid, _ in panels)
    title = title_of(variable)
    apart = 0.25 if all(layers == panels[0][1] for _, layers, *_ in panels) else 0.68
    width, height = (2.05 + apart) * len(panels) + 1.3, 1.35 + min(max(0.11 * tallest, 0.9), 2.4)
    with canvas(width, height) as figure:
        grid_of_axes = figure.subplots(1, len(panels), squeeze=False).ravel()
        colormap = mpl.colormaps[SEQUENTIAL].with_extremes(bad="#f0f0f0")
        for axes, (run, layers, cells, steps) in zip(grid_of_axes, panels, strict=False):
            mesh = axes.imshow(cells, aspect="auto", cmap=colormap, norm=norm, interpolation="nearest", origin="lower")
            axes.set_title(wrapped(look.label(run), 2.0), loc="left")
            axes.grid(False)
            _ticks(axes, layers, steps, look.steps.label, labelled=axes is grid_of_axes[0] or layers != panels[0][1])
        place(figure, len(panels), left=0.62, right=1.0, top=0.45, apart=(apart, 0))
        inches = (width - 0.9) / width, 0.5 / height, 0.14 / width, (height - 0.95) / height
        bar = figure.colorbar(mesh, cax=figure.add_axes(inches))
        bar.set_label(axis_label(variable))
        if logarithmic:
            plain_log_ticks(bar.ax)
        what = "Sum" if variable.name in COUNTED else "Median"
        caption = f"{what} over the matrices of a layer; columns are checkpoints."
        if any(layers[-1] == "none" for _, layers, *_ in panels):
            caption += " “none”: matrices outside the layers; the colour scale is that of the layers."
        caption += f" {look.roles_of((run for run, *_ in panels), variable.values)}".rstrip()
        names = ", ".join(run for run, *_ in panels)
        extent = f"From {finite.min():.3g} to {finite.max():.3g}."
        alt = f"Heatmap of {title}: layers by {look.steps.label}, for {names}. {extent}"
        return image(figure, title, caption, alt)


def _layer_grid(variable: KeyVariable, run: str) -> tuple[list[str], np.ndarray, np.ndarray] | None:
    """Labels of layers, (layer, step) medians, and the steps that the run measured."""
    values = variable.of_run(run)
    if values is None or "step" not in values.dims:
        return None
    table = values.transpose("step", "matrix").values.astype(float)
    measured = ~np.isnan(table).all(axis=1)
    layers = np.array([np.nan if _is_none(v) else float(v) for v in values["layer"].values])
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
    return values[:, 0] if values.shape[1] == 1 else np.asarray(quartiles(values)[1])


def _sums(values: np.ndarray) -> np.ndarray:
    """(step, matrix) → (step,), NaN where no matrix has a value."""
    return np.where(np.isnan(values).all(axis=1), np.nan, np.nansum(values, axis=1))


def _is_none(value: object) -> bool:
    return value is None or value == "" or (isinstance(value, float | np.floating) and bool(np.isnan(value)))


def _ticks(axes: Axes, layers: Sequence[str], steps: np.ndarray, label: str, labelled: bool) -> None:
    """A few labels at true positions: columns are checkpoints in order, not to the scale of steps."""
    columns = np.unique(np.linspace(0, steps.size - 1, min(4, steps.size)).round().astype(int))
    axes.set_xticks(columns, [short(int(steps[c])) for c in columns])
    axes.set_xlabel(label)
    numbered = sum(label != "none" for label in layers)
    apart = max(1, -(-numbered // 6))  # "none" stands above the last layer, which then has no label of its own
    rows = [i for i in range(0, numbered, apart) if layers[-1] != "none" or numbered < 6 or i < numbered - 1]
    rows += [numbered] if len(layers) > numbered else []
    axes.set_yticks(rows, [layers[i] for i in rows] if labelled else [""] * len(rows))
    if labelled:
        axes.set_ylabel("layer")
