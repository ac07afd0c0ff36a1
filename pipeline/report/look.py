"""What all figures of one page share: the runs' styles and labels, the scale of steps, the roles shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from pipeline.archive.labels import labelled
from pipeline.report.contents import archive_rows
from pipeline.report.roles import Roles
from pipeline.report.step_axis import StepScale
from pipeline.report.step_units import unit_of
from pipeline.report.style import RunStyle, run_styles


@dataclass(frozen=True)
class Look:
    """Run → style, in the order in which runs are drawn; one step axis; roles by run; labels of matrices."""

    styles: Mapping[str, RunStyle]
    steps: StepScale
    roles: Roles
    labels: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def of(tree: xr.DataTree, runs: Sequence[str], steps: np.ndarray) -> Look:
        """For a page of these runs (those analysed first), whose checkpoints stand at these steps."""
        named = {row["matrix"]: row["label"] for row in archive_rows(tree, "parameters") if row.get("label")}
        return Look(
            run_styles(runs), StepScale.of(steps, unit_of(archive_rows(tree, "runs"))), Roles.from_tree(tree), named
        )

    def label(self, run: str) -> str:
        """The run's name in figures."""
        return self.styles[run].label if run in self.styles else run

    def matrix(self, name: str) -> str:
        """A matrix's name, with its label where the name is only a number."""
        return labelled(name, self.labels.get(name))

    def roles_of(self, runs: Iterable[str], values: xr.DataArray) -> str:
        """A sentence on which role is shown of which run in a figure of these values."""
        return self.roles.of_values(values).said(runs, {run: style.label for run, style in self.styles.items()})
