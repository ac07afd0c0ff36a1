"""From a store to the report's tree: each analyzer's variables, what the archive held, and provenance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from analyzers.errors import ReportError
from pipeline.report.archive_tables import archive_nodes
from pipeline.report.provenance import root_attributes
from pipeline.report.tables import RESERVED, legal_names

if TYPE_CHECKING:
    from analyzers.contract import Analyzer, Derived, View
    from pipeline.store.store import Store


def derive(store: Store, analyzer: Analyzer, runs: Sequence[str] | None = None) -> Derived:
    """What one analyzer says of the runs (all where None), from what is stored."""
    from pipeline.report.view import StoreView

    return analyzer.derive(StoreView(store, [analyzer], runs))


def assemble(store: Store, analyzers: Sequence[Analyzer], runs: Sequence[str] | None = None) -> xr.DataTree:
    """The report: one node per analyzer, /archive, /metrics, /provenance; the root's attributes say where from.

    Nothing is computed from weights: what a statistic has not stored is NaN, and listed under /archive.
    """
    from pipeline.report.view import StoreView
    from pipeline.store.store import SCHEMA

    view = StoreView(store, analyzers, runs)
    derived = [(analyzer, analyzer.derive(view)) for analyzer in analyzers]
    chosen = {info.id for info in view.runs}
    records = [record for record in store.runs() if runs is None or record.id in chosen]
    nodes = archive_nodes(store, records)
    tree = tree_of(derived, view)
    for path, dataset in nodes.items():
        tree[path] = xr.DataTree(dataset)
    archives = sorted({record.id.split("/")[0] for record in records})  # a run's id is archive/path
    tree.attrs = root_attributes(store.path, SCHEMA, archives, analyzers)
    return tree


def tree_of(derived: Sequence[tuple[Analyzer, Derived]], view: View | None = None) -> xr.DataTree:
    """One node per analyzer, in order, with a child per run under `runs` where it gave datasets of single runs."""
    nodes: dict[str, xr.Dataset] = {}
    for analyzer, result in derived:
        name = analyzer.name
        if name in RESERVED or legal_names([name])[name] != name:
            raise ReportError(f"the analyzer's name {name!r} cannot be a node of the report: rename it")
        nodes[f"/{name}"] = node_of(analyzer, result)
        for run, legal in legal_names(result.runs).items():
            nodes[f"/{name}/runs/{legal}"] = fitted(result.runs[run], nodes[f"/{name}"]).assign_attrs(run=run)
    return xr.DataTree.from_dict(nodes)


def node_of(analyzer: Analyzer, result: Derived) -> xr.Dataset:
    """The analyzer's dataset with the attributes that the page and the exports read."""
    dataset = result.dataset.copy()
    for variable in analyzer.variables:
        if variable.name in dataset:
            attrs: dict[str, Any] = {
                "long_name": variable.long_name,
                "units": variable.units,
                "source": variable.source,
            }
            if variable.key:
                attrs["key"] = 1
            if variable.log:
                attrs["log"] = 1
            dataset[variable.name].attrs = {**dataset[variable.name].attrs, **{k: v for k, v in attrs.items() if v}}
    measured = measured_mask(dataset)
    if measured is not None and "measured" not in dataset:
        dataset["measured"] = measured
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


def fitted(dataset: xr.Dataset, parent: xr.Dataset) -> xr.Dataset:
    """A run's dataset on its parent's axes, as a DataTree demands: a dim of one name has one index in a branch.

    Steps and matrices that the run has not are NaN. A dim that is not a part of the parent's is called run_<dim>.
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
    return dataset.reindex(indexers).rename(renamed) if indexers or renamed else dataset
