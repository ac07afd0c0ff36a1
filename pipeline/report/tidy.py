"""Tidy long tables of a report: one row per run, step, matrix (and further dimensions), one column per variable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from pipeline.report.groups import NODE as GROUPS
from pipeline.report.tables import datasets_of, plain_attributes

LEADING = ("run", "step", "matrix")
"""Dimensions that name no table: variables over these alone stand in the node's main table."""


@dataclass(frozen=True)
class TidyTable:
    """`name` is the node's path with dots, and the further dimensions: "weight_spectra", "weight_spectra.energy".

    `attributes` has long_name, units, source of every column of `frame`; `node_attributes` those of the node.
    """

    name: str
    frame: pd.DataFrame
    attributes: dict[str, dict[str, Any]]
    node_attributes: dict[str, Any]


def tidy_tables(tree: xr.DataTree) -> Iterator[TidyTable]:
    """One table per node and set of dimensions, made one at a time. A table has no axes to fill: the groups of runs
    that share none (`pipeline.report.groups`) stand in the same tables, one below the other."""
    for stem, datasets in _by_table(tree).items():
        for dims, name in _table_names(stem, datasets).items():
            chosen = [(d, [n for n, v in d.data_vars.items() if v.dims == dims]) for d in datasets]
            yield _stacked([_tidy(name, d[names].load(), dims) for d, names in chosen if names])


def _by_table(tree: xr.DataTree) -> dict[str, list[xr.Dataset]]:
    """Name of a node's tables → its datasets: one, or those of all groups. What a node joins of its groups is theirs
    already."""
    groups = tree[GROUPS].children if GROUPS in tree.children else {}
    grouped = {name for group in groups.values() for name in group.children}
    tables: dict[str, list[xr.Dataset]] = {}
    for path, dataset in datasets_of(tree).items():
        parts = path.strip("/").split("/")
        if parts[0] == GROUPS:
            parts = parts[2:]
        elif parts[0] in grouped and len(parts) == 1:
            continue
        if parts:
            tables.setdefault(".".join(parts) or "report", []).append(dataset)
    return tables


def _stacked(tables: Sequence[TidyTable]) -> TidyTable:
    if len(tables) == 1:
        return tables[0]
    frame = pd.concat([table.frame for table in tables], ignore_index=True)
    attributes = {name: described for table in tables for name, described in table.attributes.items()}
    return replace(tables[0], frame=frame, attributes=attributes)


def _table_names(stem: str, datasets: Sequence[xr.Dataset]) -> dict[tuple[str, ...], str]:
    """Dims → table name, distinct: the main table has the node's name, the others add their further dims."""
    groups = dict.fromkeys(tuple(map(str, v.dims)) for dataset in datasets for v in dataset.data_vars.values())
    names: dict[tuple[str, ...], str] = {}
    for dims in sorted(groups, key=lambda d: (-sum(dim in LEADING for dim in d), len(d))):
        further = [dim for dim in dims if dim not in LEADING] if names else []
        name = ".".join((stem, *further))
        names[dims] = name if name not in names.values() else ".".join((stem, "by", *(dims or ("all",))))
    return names


def _tidy(name: str, dataset: xr.Dataset, dims: tuple[str, ...]) -> TidyTable:
    """Rows in which no variable was measured are left out."""
    shape = tuple(dataset.sizes[dim] for dim in dims)
    values = {str(n): np.asarray(v.values).reshape(-1) for n, v in dataset.data_vars.items()}
    kept = _measured(values, int(np.prod(shape)))
    columns: dict[str, np.ndarray] = {}
    index = np.unravel_index(np.flatnonzero(kept), shape) if dims else ()
    attributes: dict[str, dict[str, Any]] = {}
    for axis, dim in enumerate(dims):
        if dim in dataset.coords:
            columns[dim] = np.asarray(dataset[dim].values)[index[axis]]
            attributes[dim] = _described(dataset[dim].variable)
        elif len(dims) > 1:
            columns[dim], attributes[dim] = index[axis], {"long_name": f"position along {dim}"}
    for coordinate, variable in sorted(dataset.coords.items(), key=lambda pair: str(pair[0])):
        if str(coordinate) not in columns and variable.dims and set(variable.dims) <= set(dims):
            ordered = variable.transpose(*(d for d in dims if d in variable.dims)).values
            spread = np.broadcast_to(
                ordered.reshape([dataset.sizes[d] if d in variable.dims else 1 for d in dims]), shape
            )
            columns[str(coordinate)] = spread.reshape(-1)[kept]
            attributes[str(coordinate)] = _described(variable.variable)
    for variable_name, flat in values.items():
        columns[variable_name] = flat[kept]
        attributes[variable_name] = _described(dataset[variable_name].variable)
    frame = pd.DataFrame({n: _column(c) for n, c in columns.items()})
    return TidyTable(name, frame, attributes, plain_attributes(dataset.attrs))


def _measured(values: dict[str, np.ndarray], count: int) -> np.ndarray:
    """(row,) bool: some float is not NaN. Tables that hold texts, or no floats at all, keep every row."""
    floats = [flat for flat in values.values() if flat.dtype.kind == "f"]
    if not floats or any(flat.dtype.kind in "UTO" for flat in values.values()):
        return np.ones(count, bool)
    return np.asarray(np.logical_or.reduce([~np.isnan(flat) for flat in floats]))


def _column(values: np.ndarray) -> np.ndarray | list[str]:
    return [str(v) for v in values] if values.dtype.kind in "UTO" else values


def _described(variable: xr.Variable) -> dict[str, Any]:
    kept = ("long_name", "units", "source")
    return {k: v for k, v in plain_attributes(variable.attrs).items() if k in kept}
