"""Intruder counts and their controls, summed over the matrices of each run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from pipeline.report import groups
from pipeline.report.compare import prefer

NODE = "intruder_dimensions"
NAMES = {
    "count": "n_intruders",
    "count_low": "n_intruders_low",
    "count_high": "n_intruders_high",
    "null": "n_intruders_null",
    "null_sum": "total_intruders_null",
    "null_low": "total_intruders_null_low",
    "null_high": "total_intruders_null_high",
    "matched": "n_intruders_matched",
}
"""Quantity → variable of the node."""


@dataclass(frozen=True)
class Totals:
    """Sums over one run's matrices along x (steps, or thresholds ε); NaN where a control was not measured.

    `count_low`, `count_high`: without and with the scores that rounding leaves undetermined. `null`: mean of updates
    with random directions, `null_low` and `null_high` the 95 % interval of their sum over matrices, draw by draw.
    `matched`: at the common norm, at the last step only. `excess`: count − null over the matrices that have both.
    `matrices`: how many have a count; `matched_matrices`: how many a matched one. `without_null` (x,): how many have a
    count and no null, so that the two sums are not over the same matrices.
    """

    run: str
    x: np.ndarray
    step: int
    count: np.ndarray
    count_low: np.ndarray
    count_high: np.ndarray
    null: np.ndarray
    null_low: np.ndarray
    null_high: np.ndarray
    matched: np.ndarray
    excess: np.ndarray
    matrices: int = 0
    matched_matrices: int = 0
    without_null: np.ndarray | None = None

    def verdict(self, index: int = -1) -> str:
        """How the count stands to the null at one x, in words."""
        if np.isnan(self.null[index]):
            return "no null beside it"
        if np.isnan(self.null_low[index]):
            return "the null has no interval"
        if self.without_null is not None and self.without_null[index]:
            return f"no verdict: {self.without_null[index]} of {self.matrices} matrices have no null"
        count, low, high = self.count[index], self.null_low[index], self.null_high[index]
        if low <= count <= high:
            return "within chance"
        sure = np.fmin(self.count_low[index], count) if count > high else np.fmax(self.count_high[index], count)
        said = "more than chance" if count > high else "fewer than chance"
        return said if (sure > high or sure < low) else f"{said}, unless rounding decides the undetermined ones"


def has_counts(tree: xr.DataTree) -> bool:
    """Whether the report has intruder counts over runs, steps and matrices."""
    return bool(_counted(tree))


def _counted(tree: xr.DataTree) -> list[xr.Dataset]:
    """The datasets of groups of runs with counts over runs, steps and matrices."""
    having = (dataset for dataset in groups.datasets(tree, NODE) if "n_intruders" in dataset)
    return [dataset for dataset in having if {"run", "step", "matrix"} <= set(dataset["n_intruders"].dims)]


def over_steps(tree: xr.DataTree) -> tuple[list[Totals], str]:
    """Each run's totals at each of its steps, at the preferred side, k and ε; and which these are."""
    return _totals(tree, "step")


def over_epsilon(tree: xr.DataTree) -> tuple[list[Totals], str]:
    """Each run's totals at its last measured step for every ε, at the preferred side and k; none without a sweep."""
    return _totals(tree, "epsilon")


def _totals(tree: xr.DataTree, along: str) -> tuple[list[Totals], str]:
    of_groups = [_totals_of(dataset, along) for dataset in _counted(tree)]
    labels = [label for totals, label in of_groups if totals]
    return [one for totals, _ in of_groups for one in totals], labels[0] if labels else ""


def _totals_of(dataset: xr.Dataset, along: str) -> tuple[list[Totals], str]:
    if along not in dataset["n_intruders"].dims:
        return [], ""
    label, arrays = "", {}
    for field, name in NAMES.items():
        array = dataset.get(name)
        if array is None:
            continue
        if "matrix" not in array.dims:
            array = array.expand_dims("matrix")  # a sum already
        shown = []
        for dim in [d for d in ("side", "k", "epsilon", "matched_to") if d != along and d in array.dims]:
            array, part = prefer(array, dim)
            shown.append(part)
        further = [d for d in array.dims if d not in ("run", "step", "matrix", along)]
        arrays[field] = array.isel(dict.fromkeys(further, 0)).load()
        if field == "count":
            label = ", ".join(shown)
    runs = [str(r) for r in arrays["count"]["run"].values]
    found = (_of_run(arrays, i, run, along) for i, run in enumerate(runs))
    return [one for one in found if one is not None], label


def _of_run(arrays: dict[str, xr.DataArray], index: int, run: str, along: str) -> Totals | None:
    count = arrays["count"].isel(run=index)
    measured = np.flatnonzero(count.notnull().any([d for d in count.dims if d != "step"]).values)
    if not measured.size:
        return None
    chosen = measured if along == "step" else measured[-1:]
    x = np.asarray(count["step"].values)[chosen] if along == "step" else np.asarray(count["epsilon"].values)
    tables = {field: _table(array.isel(run=index), chosen, along, x.size) for field, array in arrays.items()}
    absent = np.full((x.size, 1), np.nan)
    mean = tables.get("null", absent)
    low, high = (_sum(tables.get(field, absent)) for field in ("null_low", "null_high"))
    null = _sum(tables["null_sum"]) if "null_sum" in tables else _sum(mean)
    return Totals(
        run,
        x,
        int(count["step"].values[measured[-1]]),
        _sum(tables["count"]),
        _sum(tables.get("count_low", absent)),
        _sum(tables.get("count_high", absent)),
        null,
        low,
        high,
        _sum(tables.get("matched", absent)),
        _sum(tables["count"] - mean),
        int(np.isfinite(tables["count"]).any(axis=0).sum()),
        int(np.isfinite(tables.get("matched", absent)).any(axis=0).sum()),
        (np.isfinite(tables["count"]) & np.isnan(mean)).sum(axis=1) if "null" in tables else None,
    )


def _table(array: xr.DataArray, steps: np.ndarray, along: str, length: int) -> np.ndarray:
    """(x, matrix). What has no step is known at the last one only."""
    if along == "epsilon":
        one = array.isel(step=int(steps[0])) if "step" in array.dims else array
        return np.asarray(one.transpose("epsilon", "matrix").values, dtype=float)
    if "step" in array.dims:
        return np.asarray(array.isel(step=steps).transpose("step", "matrix").values, dtype=float)
    last = np.full((length, array.sizes["matrix"]), np.nan)
    last[-1] = array.values
    return last


def _sum(table: np.ndarray) -> np.ndarray:
    """Over matrices, leaving NaN out; NaN where there is nothing else."""
    return np.where(np.isnan(table).all(axis=1), np.nan, np.nansum(table, axis=1))
