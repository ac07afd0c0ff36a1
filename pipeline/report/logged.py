"""What the training logged, as one array of the report: /metrics has `value (metric, run, step)`.

A tracker that logs a norm per layer logs thousands of names. As a variable each they would cost two files and some
milliseconds apiece; as entries of one axis they cost their numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from pipeline.archive.metrics import Log
from pipeline.archive.text import visible
from pipeline.report.tables import legal_names

NODE = "metrics"
_ATTRIBUTES = {"long_name": "what the training logged", "units": "1"}


def metrics_dataset(logs: Mapping[str, Log]) -> xr.Dataset | None:
    """`value (metric, run, step)`, NaN where a run did not log the metric at the step. `metric` has the names as they
    were logged, `source (metric)` the files that they are from. None where no run has a log.

    Rows of one step are merged (a training and an evaluation row); of a number logged twice the last counts.
    """
    merged: dict[str, dict[int, dict[str, float]]] = {}
    sources: dict[str, dict[str, None]] = {}
    for run, log in logs.items():
        for row in log.rows:
            step = row.get("step")
            if step is None or not np.isfinite(step):
                continue
            numbers = {visible(k): float(v) for k, v in row.items() if k != "step" and isinstance(v, int | float)}
            merged.setdefault(run, {}).setdefault(int(step), {}).update(numbers)
            for name in numbers:
                # Stores from before sources were recorded do not tell which file a log came from.
                sources.setdefault(name, {}).update(dict.fromkeys(log.sources.get(name, "training log").split(", ")))
    if not sources:
        return None
    steps = sorted({step for rows in merged.values() for step in rows})
    column = {step: i for i, step in enumerate(steps)}
    position = {name: i for i, name in enumerate(sources)}
    values = np.full((len(sources), len(merged), len(steps)), np.nan)
    for i, rows in enumerate(merged.values()):
        for step, numbers in rows.items():
            values[[position[name] for name in numbers], i, column[step]] = list(numbers.values())
    return xr.Dataset(
        {"value": (("metric", "run", "step"), values, _ATTRIBUTES)},
        {
            "metric": ("metric", np.array(list(sources), dtype=object)),
            "run": ("run", np.array(list(merged), dtype=object)),
            "step": np.array(steps, dtype=np.int64),
            "source": (
                "metric",
                np.array([", ".join(files) for files in sources.values()], dtype=object),
                {"long_name": "files that the metric is from"},
            ),
        },
    )


@dataclass(frozen=True)
class Logged:
    """The metrics of a report by plain names, those of letters, digits and ``._=+-``: "eval_loss" for "eval/loss"."""

    values: xr.DataArray | None = None
    positions: Mapping[str, int] = field(default_factory=dict)

    @staticmethod
    def of(tree: xr.DataTree) -> Logged:
        """Those of a report; none where nothing was logged."""
        if NODE not in tree.children:
            return Logged()
        values = tree[NODE].to_dataset()["value"]
        plain = legal_names([str(name) for name in values["metric"].values], taken=("run", "step"))
        return Logged(values, {name: position for position, name in enumerate(plain.values())})

    def long_name(self, name: str) -> str:
        """A metric's name as it was logged."""
        return str(self[name]["metric"].item())

    def __getitem__(self, name: str) -> xr.DataArray:
        """The (run, step) values of one metric."""
        assert self.values is not None
        return self.values[self.positions[name]]

    def names_of(self, run: str) -> list[str]:
        """The metrics that a run logged."""
        if self.values is None or run not in self.values["run"].values:
            return []
        values = self.values.sel(run=run)
        there = values.notnull().any("step").values
        return [name for name, position in self.positions.items() if there[position]]
