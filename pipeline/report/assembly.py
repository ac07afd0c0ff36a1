"""From a store to the report's tree: each analyzer's variables, what the archive held, and provenance."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from analyzers.errors import ReportError
from pipeline.archive.metrics import Log
from pipeline.report import groups
from pipeline.report.archive_tables import archive_nodes
from pipeline.report.provenance import computed_by, root_attributes
from pipeline.report.step_units import mark_units
from pipeline.report.tables import RESERVED, legal_names
from pipeline.units.selection import EVERYTHING, Selection

if TYPE_CHECKING:
    from analyzers.contract import Analyzer, Derived, View
    from pipeline.report.spill import Spill
    from pipeline.report.view import StoreView
    from pipeline.store.store import Store

PADDING_LIMIT = 256 * 2**20
"""Bytes of NaN that a run's own dataset may carry to stand on its node's axes."""


def derive(
    store: Store, analyzer: Analyzer, selection: Selection = EVERYTHING, spill: Spill | None = None
) -> tuple[Derived, ...]:
    """What one analyzer says of the selected runs, from what is stored. The selection is `compute`'s.

    One entry, or one for each group of runs that share axes (`pipeline.report.groups`). Large arrays go to `spill`.
    """
    from pipeline.report.view import StoreView

    return _derived(analyzer, StoreView(store, [analyzer], selection), spill)


def _derived(analyzer: Analyzer, view: StoreView, spill: Spill | None = None) -> tuple[Derived, ...]:
    """Only an analyzer with variables over matrices is asked about each group by itself."""
    parts = (analyzer.derive(part) for part in (view.groups() if _of_matrices(analyzer) else (view,)))
    return tuple(parts if spill is None else (spill.keep(with_mask(part)) for part in parts))


def with_mask(result: Derived) -> Derived:
    """The same, its dataset with the variable `measured`: while the arrays it follows from are in memory."""
    measured = measured_mask(result.dataset)
    if measured is None or "measured" in result.dataset:
        return result
    return replace(result, dataset=result.dataset.assign(measured=measured))


def _of_matrices(analyzer: Analyzer) -> bool:
    return any("matrix" in variable.dims for variable in analyzer.variables)


def assemble(
    store: Store,
    analyzers: Sequence[Analyzer],
    selection: Selection = EVERYTHING,
    derived: Mapping[str, Sequence[Derived]] | None = None,
    problems: Sequence[str] = (),
    logs: Mapping[str, Log] | None = None,
) -> xr.DataTree:
    """The report: one node per analyzer, /archive, /metrics, /provenance; the root's attributes say where from.

    Nothing is computed from weights: what a statistic has not stored is NaN, and listed under /archive. `derived` has
    what `derive` gave already, by analyzer; `problems` are sentences on what went wrong before, for the reader; `logs`
    are further metrics by run id.
    """
    from pipeline.report.view import StoreView
    from pipeline.store.store import SCHEMA

    view = StoreView(store, analyzers, selection)
    ready = derived or {}
    members = [[run.id for run in part.runs] for part in view.groups()]
    parts = [(a, ready[a.name] if a.name in ready else _derived(a, view)) for a in analyzers]
    tree = tree_of(parts, members)
    records = [record for record in store.runs() if record.id in _named(view)]
    chosen = {info.id: info.steps for info in view.runs}
    for path, dataset in archive_nodes(store, records, chosen, view.skips, view.failures, logs or {}).items():
        tree[path] = xr.DataTree(dataset)
    archives = sorted({record.id.split("/")[0] for record in records if record.role == "run"})  # an id is archive/path
    tree.attrs = root_attributes(store.path, SCHEMA, archives, analyzers, computed_by(store, analyzers))
    mark_units(tree)
    if problems:
        tree.attrs["problems"] = "\n".join(problems)
    return tree


def _named(view: View) -> set[str]:
    """The runs of the view and those they are compared with."""
    return {info.id for info in view.runs} | {info.base.rpartition("@")[0] for info in view.runs if info.base}


def tree_of(
    derived: Sequence[tuple[Analyzer, Sequence[Derived]]], members: Sequence[Sequence[str]] = ()
) -> xr.DataTree:
    """One node per analyzer, in order, with a child per run under `runs` where it gave datasets of single runs.

    Where runs share no axes, `members` has the runs of each group and an analyzer one result for each: these are the
    nodes /groups/<number>/<analyzer>, and the analyzer's own node joins what they say over runs and steps.
    """
    nodes: dict[str, xr.Dataset] = {}
    grouped: dict[str, xr.Dataset] = {}
    for analyzer, results in derived:
        name = analyzer.name
        if name in RESERVED or legal_names([name])[name] != name:
            raise ReportError(f"the analyzer's name {name!r} cannot be a node of the report: rename it")
        datasets = [node_of(analyzer, result) for result in results]
        if len(datasets) == 1:
            nodes[f"/{name}"] = datasets[0]
        else:
            nodes[f"/{name}"] = _joined(datasets, [run for runs in members for run in runs])
            grouped |= {f"/groups/{number}/{name}": dataset for number, dataset in enumerate(datasets, 1)}
        of_runs = {run: dataset for result in results for run, dataset in result.runs.items()}
        padding = PADDING_LIMIT if len(datasets) == 1 else 0
        inherited = map(str, nodes[f"/{name}"].coords)  # xarray refuses a group called as a coordinate above it
        for run, legal in legal_names(of_runs, taken=inherited).items():
            nodes[f"/{name}/runs/{legal}"] = _of_run(run, of_runs[run], nodes[f"/{name}"], padding)
    if grouped:
        for number, runs in enumerate(members, 1):
            nodes[f"/groups/{number}"] = xr.Dataset(attrs={"runs": json.dumps(list(runs))})
    return xr.DataTree.from_dict(nodes | grouped)


def _joined(datasets: Sequence[xr.Dataset], runs: Sequence[str]) -> xr.Dataset:
    """The node of an analyzer whose runs stand in groups: what is not of matrices, and the remarks all groups share."""
    whole = groups.joined(datasets, runs)
    said = [str(dataset.attrs.get("notes", "")).splitlines() for dataset in datasets]
    common = [line for line in said[0] if all(line in lines for lines in said)]
    common.append(f"The runs stand in {len(datasets)} groups that share no axes: /groups/<number> has the variables.")
    whole.attrs = {**datasets[0].attrs, "notes": "\n".join(common)}
    return whole


def node_of(analyzer: Analyzer, result: Derived) -> xr.Dataset:
    """The analyzer's dataset with the attributes that the page and the exports read."""
    dataset = with_mask(result).dataset.copy()
    for variable in analyzer.variables:
        if variable.name in dataset:
            attrs = {"long_name": variable.long_name, "units": variable.units, "source": variable.source}
            attrs["counted_by"] = variable.counted_by
            flags = {"key": int(variable.key), "log": int(variable.log)}
            dataset[variable.name].attrs |= {k: v for k, v in (attrs | flags).items() if v}
    dataset.attrs = {**dataset.attrs, "analyzer": analyzer.name, "version": analyzer.version}
    if result.notes:
        dataset.attrs["notes"] = "\n".join(result.notes)
    return dataset


def measured_mask(dataset: xr.Dataset) -> xr.DataArray | None:
    """(run, step) bool: some variable of the node has a value there. None where no variable has both dims."""
    mask: xr.DataArray | None = None
    for array in dataset.data_vars.values():
        if {"run", "step"} <= set(array.dims) and array.dtype.kind == "f":
            there = array.notnull().any([d for d in array.dims if d not in ("run", "step")]).transpose("run", "step")
            mask = there if mask is None else mask | there
    if mask is None:
        return None
    kept = mask.reset_coords(drop=True)
    kept.attrs = {"long_name": "whether the run has a value at this step (steps are the union over runs)", "units": "1"}
    return kept


def _of_run(run: str, dataset: xr.Dataset, parent: xr.Dataset, padding_limit: int) -> xr.Dataset:
    """An analyzer may give a run several datasets, and then names the run in the attribute itself."""
    child = fitted(dataset, parent, padding_limit)
    return child if "run" in child.attrs else child.assign_attrs(run=run)


def fitted(dataset: xr.Dataset, parent: xr.Dataset, padding_limit: int = PADDING_LIMIT) -> xr.Dataset:
    """A run's dataset on its parent's axes, as a DataTree demands: a dim of one name has one index in a branch.

    Steps and matrices that the run has not are NaN. Where that would add more than `padding_limit` bytes, and where a
    dim is no part of the parent's, the dims keep their own entries and are called run_<dim>.
    """
    indexers: dict[str, np.ndarray] = {}
    renamed: dict[str, str] = {}
    for dim in map(str, dataset.dims):
        if dim not in parent.dims:
            continue
        if dim in dataset.indexes and dim in parent.indexes:
            own, theirs = dataset.indexes[dim], parent.indexes[dim]
            if own.equals(theirs):
                continue
            if own.is_unique and own.isin(theirs).all():
                indexers[dim] = parent[dim].values
                continue
        elif dim not in dataset.indexes and dataset.sizes[dim] == parent.sizes[dim]:
            continue
        renamed[dim] = f"run_{dim}"
    if _nbytes(dataset, {dim: len(values) for dim, values in indexers.items()}) > dataset.nbytes + padding_limit:
        renamed, indexers = renamed | {dim: f"run_{dim}" for dim in indexers}, {}
    return dataset.reindex(indexers).rename(renamed) if indexers or renamed else dataset


def _nbytes(dataset: xr.Dataset, sizes: dict[str, int]) -> int:
    """What the dataset would take with these sizes."""
    return sum(
        math.prod(sizes.get(str(dim), size) for dim, size in array.sizes.items()) * array.dtype.itemsize
        for array in dataset.data_vars.values()
    )
