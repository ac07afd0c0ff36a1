"""Numbers that the page states: medians over matrices, what changed in each run, which matrices moved most."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from pipeline.report import groups
from pipeline.report.roles import Roles
from pipeline.report.tables import RESERVED

COUNTED = ("n_intruders", "n_intruders_null", "excess_intruders", "n_intruders_matched")
"""Counts: summed over the matrices of a layer, where other variables have their median."""
ALONE = {"weight_spectra", "merged_spectra", "pathway_metrics", "intrinsic_dimension"}
"""Analyzers of ours that compare nothing with a base."""
PREFERRED = {"side": "left", "k": 10, "epsilon": 0.5, "matched_to": "geometric_mean"}
"""The convention shown where a variable has several (the paper's side, k and ε)."""


@dataclass(frozen=True)
class KeyVariable:
    """A variable that gets curves and heatmaps. `values` has dims from (run, step, matrix), in this order; `further`
    are those of the other groups of runs, where runs share no axes.

    `label` says which entry of further dims it is ("side = left, k = 10"), empty where there are none.
    """

    node: str
    name: str
    long_name: str
    units: str
    log: bool
    values: xr.DataArray
    label: str = ""
    further: tuple[xr.DataArray, ...] = ()

    def of_run(self, run: str) -> xr.DataArray | None:
        """(step, matrix) of one run; `values` where they have no runs; None where no group has the run."""
        if "run" not in self.values.dims:
            return self.values
        array = groups.of_run((self.values, *self.further), run)
        return None if array is None else array.isel(run=[str(r) for r in array["run"].values].index(run))


def analyzer_nodes(tree: xr.DataTree) -> list[str]:
    """Names of the nodes that analyzers made, in the tree's order."""
    return [name for name in tree.children if name not in RESERVED]


def measured_nodes(tree: xr.DataTree) -> list[str]:
    """Those of them with a value of a run: an analyzer that lacked its input leaves a node of NaN or of nothing."""

    def measured(name: str) -> bool:
        nodes = [*tree[name].subtree, *(part[name] for part in groups.parts_with(tree, name))]
        return any(_has_value(node.to_dataset()) for node in nodes)

    return [name for name in analyzer_nodes(tree) if measured(name)]


def _has_value(dataset: xr.Dataset) -> bool:
    """What follows from a shape or the settings has no run, and what is text or yes and no is no measurement."""
    of_runs = "run" in dataset.attrs  # a dataset of a single run
    arrays = (a for a in dataset.data_vars.values() if (of_runs or "run" in a.dims or a.attrs.get("key")))
    return any(bool(array.notnull().any()) for array in arrays if array.dtype.kind in "fiu" and array.size)


def compares(tree: xr.DataTree) -> bool:
    """Whether any of them compares runs with their bases; of a plugin it is taken for granted."""
    return bool(set(measured_nodes(tree)) - ALONE)


def key_variables(tree: xr.DataTree, per_variable: int = 2) -> Iterator[KeyVariable]:
    """Every variable with a true `key` attribute; one with further dims at the preferred, or first and last, entry.

    Values of matrices of another role than the run's (`Roles`) are NaN.
    """
    roles = Roles.from_tree(tree)
    for node in analyzer_nodes(tree):
        joint: dict[tuple[str, str], KeyVariable] = {}
        for dataset in groups.datasets(tree, node):
            for name, array in dataset.data_vars.items():
                if compares_runs(array):
                    continue  # these have tables of their own: `between_runs`
                if array.attrs.get("key") and array.dtype.kind in "fiub" and {"run", "matrix"} & set(array.dims):
                    slices = _slices(node, str(name), array, per_variable, roles)
                    for part in (one for each in slices for one in _apart(each, roles)):
                        known = joint.get((part.name, part.label))
                        both = part if known is None else replace(known, further=(*known.further, part.values))
                        joint[part.name, part.label] = both
        yield from joint.values()


def _apart(variable: KeyVariable, roles: Roles) -> Iterator[KeyVariable]:
    """One for each role, where the analyzer measures matrices and not their changes."""
    if variable.node not in ALONE:
        yield variable
        return
    for word, values in roles.apart(variable.values):
        yield replace(variable, values=values, label=", ".join(filter(None, (variable.label, word))))


def compares_runs(array: xr.DataArray) -> bool:
    """Whether it is a key variable with a value for each two runs and each of their matrices."""
    return bool(array.attrs.get("key")) and set(array.dims) == {"run", "other_run", "matrix"}


def _slices(node: str, name: str, array: xr.DataArray, limit: int, roles: Roles) -> Iterator[KeyVariable]:
    label: list[str] = []
    for dim in [d for d in array.dims if d in PREFERRED]:
        array, shown = prefer(array, str(dim))
        label.append(shown)
    further = [str(d) for d in array.dims if d not in ("run", "step", "matrix")]
    sizes = [array.sizes[d] for d in further]
    total = int(np.prod(sizes)) if sizes else 1
    for flat in np.unique(np.linspace(0, total - 1, min(limit, total)).round().astype(int)) if total else ():
        index = dict(zip(further, map(int, np.unravel_index(flat, sizes)), strict=True)) if sizes else {}
        one = array.isel(index)
        parts = label + [f"{d} = {coordinate(array, d, i)}" for d, i in index.items()]
        order = [d for d in ("run", "step", "matrix") if d in one.dims]
        attrs = array.attrs
        yield KeyVariable(
            node,
            name,
            str(attrs.get("long_name", name)),
            str(attrs.get("units", "1")),
            bool(attrs.get("log")),
            roles.only(one.transpose(*order)),
            ", ".join(parts),
        )


def coordinate(array: xr.DataArray, dim: str, index: int) -> str:
    """The label of one entry of a dim; its position where the dim has no coordinate."""
    if dim not in array.coords:
        return f"#{index}"
    value = array[dim].values[index]
    return f"{value:g}" if np.issubdtype(type(value), np.number) else str(value)


def prefer(array: xr.DataArray, dim: str) -> tuple[xr.DataArray, str]:
    """One entry of `dim`: the preferred one or the nearest to it; with its label."""
    if dim not in array.dims:
        return array, ""
    wanted = PREFERRED[dim]
    index = 0
    if dim in array.coords and array.sizes[dim]:
        values = array[dim].values
        if isinstance(wanted, str):
            index = next((i for i, v in enumerate(values) if str(v) == wanted), 0)
        else:
            index = int(np.argmin(np.abs(values.astype(float) - wanted)))
    return array.isel({dim: index}), f"{'ε' if dim == 'epsilon' else dim} = {coordinate(array, dim, index)}"


def quartiles(values: np.ndarray) -> np.ndarray:
    """(..., matrix) → (3, ...): quartiles 1, 2, 3 over the last axis, NaN left out (linear interpolation).

    The same as `np.nanpercentile`, by one sort: that function loops over slices in Python.
    """
    ordered = np.sort(np.asarray(values, dtype=float), axis=-1)  # NaN last
    count = np.sum(~np.isnan(ordered), axis=-1)
    result = np.full((3, *ordered.shape[:-1]), np.nan)
    if ordered.shape[-1] == 0:
        return result
    for i, q in enumerate((0.25, 0.5, 0.75)):
        position = np.maximum(q * (count - 1), 0)
        low = np.floor(position).astype(int)
        high = np.minimum(low + 1, np.maximum(count - 1, 0))
        a = np.take_along_axis(ordered, low[..., None], -1)[..., 0]
        b = np.take_along_axis(ordered, high[..., None], -1)[..., 0]
        with np.errstate(invalid="ignore"):
            middle = np.where(a == b, a, a + (b - a) * (position - low))  # a == b keeps inf from becoming NaN
        result[i] = np.where(count > 0, middle, np.nan)
    return result


@dataclass(frozen=True)
class ComparedSeries:
    """One run's curve: (step,) steps at which something was measured; quartiles over matrices at each."""

    run: str
    steps: np.ndarray
    low: np.ndarray
    median: np.ndarray
    high: np.ndarray


def series_of(variable: KeyVariable) -> list[ComparedSeries]:
    """Each run's median and quartiles over its matrices, at its own steps. Runs without a value are left out."""
    return [one for values in (variable.values, *variable.further) for one in _series(values)]


def _series(values: xr.DataArray) -> list[ComparedSeries]:
    for dim in ("run", "step", "matrix"):
        if dim not in values.dims:
            values = values.expand_dims({dim: ["all" if dim == "run" else 0]})
    values = values.transpose("run", "step", "matrix")
    low, median, high = quartiles(values.values)
    steps = np.asarray(values["step"].values if "step" in values.coords else np.arange(values.sizes["step"]))
    curves = []
    for i, run in enumerate(values["run"].values):
        there = ~np.isnan(median[i])
        if there.any():
            curves.append(ComparedSeries(str(run), steps[there], low[i][there], median[i][there], high[i][there]))
    return curves
