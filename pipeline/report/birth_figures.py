"""When the intruders of the last step were born: how many of them stood at each step, by run, and a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from pipeline.report import groups
from pipeline.report.blocks import PageTable, from_rows
from pipeline.report.compare import prefer
from pipeline.report.figures import Image, canvas, image, place
from pipeline.report.intruder_totals import NODE
from pipeline.report.look import Look
from pipeline.report.plots import draw_line, legend


@dataclass(frozen=True)
class Births:
    """Of one run: its measured `steps` and how many of the last step's intruders, over all matrices, were `born` in the
    interval that ends there; `before`: how many of these were there at the first step already."""

    run: str
    steps: np.ndarray
    born: np.ndarray
    before: int

    @property
    def standing(self) -> np.ndarray:
        """(step,): how many of them had been born."""
        return self.born.cumsum()


def births_of(tree: xr.DataTree) -> tuple[list[Births], str]:
    """Each run's births at the preferred side, k and ε, and which these are. Runs of one step are left out."""
    of_groups = [_births(dataset) for dataset in groups.datasets(tree, NODE)]
    labels = [label for births, label in of_groups if births]
    return [one for births, _ in of_groups for one in births], labels[0] if labels else ""


def _births(dataset: xr.Dataset) -> tuple[list[Births], str]:
    if not {"birth_step", "birth_after", "n_intruders"} <= set(dataset.data_vars):
        return [], ""
    step, after, labels = dataset["birth_step"], dataset["birth_after"], []
    measured = dataset["n_intruders"]
    for dim in ("side", "k", "epsilon"):
        step, label = prefer(step, dim)
        after, measured = prefer(after, dim)[0], prefer(measured, dim)[0]
        labels.append(label)
    there = measured.notnull().any("matrix").transpose("run", "step").values
    found = []
    for index, run in enumerate(step["run"].values):
        steps = np.asarray(dataset["step"].values)[there[index]]
        if steps.size < 2:
            continue
        at, bounded = step.isel(run=index).values.ravel(), after.isel(run=index).values.ravel()
        known = np.isfinite(at)
        born = np.array([(at[known] == value).sum() for value in steps])
        found.append(Births(str(run), steps, born, int((known & np.isnan(bounded)).sum())))
    return found, ", ".join(label for label in labels if label)


def births_figure(births: Sequence[Births], look: Look, label: str) -> Image | None:
    """How many of the last step's intruders stood at each step, a curve per run; None where there is none."""
    shown = [one for one in births if one.born.any()]
    if not shown:
        return None
    with canvas(5.6, 3.3) as figure:
        axes = figure.add_subplot()
        for one in reversed(shown):
            draw_line(axes, one.steps, one.standing, look.styles[one.run])
        look.steps.draw(axes, np.concatenate([one.steps for one in shown]))
        axes.set_ylabel(f"intruders of the last {look.steps.word},\nborn by then")
        axes.set_ylim(bottom=0)
        place(figure, top=legend(figure, [one.run for one in shown], look))
        caption = (
            "Each intruder of a run’s last step is traced back by the overlap of its singular vectors. "
            "The curve counts, over all matrices, how many of them existed at each step. Intruders that appeared and "
            "vanished again are not counted."
        )
        said = "; ".join(
            f"{one.run}: {int(one.standing[-1])}, {one.before} of them at the first step" for one in shown[:8]
        )
        return image(figure, f"Births of intruder dimensions ({label})", caption, f"Line plot. {said}.")


def births_table(births: Sequence[Births], label: str) -> PageTable | None:
    """When the first, half and nine tenths of each run's intruders stood; None where there is none."""
    rows = []
    for one in births:
        total = int(one.born.sum())
        if total:
            quantiles = [int(one.steps[np.searchsorted(one.standing, part * total)]) for part in (0.5, 0.9)]
            first = int(one.steps[np.flatnonzero(one.born)[0]])
            rows.append(
                {"run": one.run, "count": total, "before": one.before, "first": first}
                | {"half": quantiles[0], "most": quantiles[1]}
            )
    if not rows:
        return None
    columns = {
        "run": "run",
        "count": "intruders at the last step",
        "before": "present at the first step",
        "first": "first born by step",
        "half": "half born by step",
        "most": "90 % born by step",
    }
    caption = f"Births of the last step’s intruders ({label}); each lies between the step before and the one given."
    return from_rows(caption, rows, columns)
