"""Variables between two runs, such as the cosine of their updates: one row for each pair of runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import xarray as xr

from pipeline.report import groups
from pipeline.report.blocks import PageTable, from_rows, number
from pipeline.report.compare import analyzer_nodes, compares_runs, quartiles
from pipeline.report.roles import Roles

LISTED = 50
"""Pairs of a table on the page; report.zarr has all."""


def tables_between_runs(tree: xr.DataTree) -> Iterator[PageTable]:
    """A table for each key variable over (run, other_run, matrix): its median over the matrices of both runs."""
    roles = Roles.from_tree(tree)
    for node in analyzer_nodes(tree):
        datasets = groups.datasets(tree, node)
        last = {run: step for dataset in datasets for run, step in last_steps(dataset).items()}
        compared: dict[str, list[xr.DataArray]] = {}
        for dataset in datasets:
            for name, array in dataset.data_vars.items():
                if compares_runs(array):
                    compared.setdefault(str(name), []).append(array)
        for name, arrays in compared.items():
            if rows := list(_pairs(arrays, roles, last)):
                yield _table(name, str(arrays[0].attrs.get("long_name", name)), rows)


def last_steps(dataset: xr.Dataset) -> dict[str, int]:
    """Run → the last step at which the node has a number over (run, step, matrix) for it."""
    for array in dataset.data_vars.values():
        if array.dtype.kind == "f" and set(array.dims) == {"run", "step", "matrix"}:
            there = array.notnull().any("matrix").transpose("run", "step").values
            steps = array["step"].values
            runs = (str(run) for run in array["run"].values)
            return {run: int(steps[row][-1]) for run, row in zip(runs, there, strict=True) if row.any()}
    return {}


def _pairs(arrays: Sequence[xr.DataArray], roles: Roles, last: dict[str, int]) -> Iterator[dict[str, Any]]:
    """One row for each two runs, whichever comes first. arrays: one for each group of runs that share axes."""
    told: set[frozenset[str]] = set()
    tables = (roles.only(array).transpose("run", "other_run", "matrix") for array in arrays)
    places = ((t, place) for t in tables for place in product(range(t.sizes["run"]), range(t.sizes["other_run"])))
    for shown, (row, column) in places:
        run, other = str(shown["run"].values[row]), str(shown["other_run"].values[column])
        if run == other or frozenset((run, other)) in told:
            continue
        told.add(frozenset((run, other)))
        values = shown.values[row, column]
        count = int(np.isfinite(values).sum())
        if count:
            low, median, high = quartiles(values)
            yield {
                "run": run,
                "last": last.get(run),
                "other": other,
                "other_last": last.get(other),
                "median": float(median),
                "quartiles": f"{number(float(low))} … {number(float(high))}",
                "matrices": count,
            }


def _table(name: str, long_name: str, rows: list[dict[str, Any]]) -> PageTable:
    columns = {"run": "run", "last": "at step", "other": "other run", "other_last": "at its step"}
    columns |= {"median": "median", "quartiles": "quartiles", "matrices": "matrices"}
    caption = f"{name.replace('_', ' ')}: {long_name}. Median and quartiles over the matrices that both runs have."
    return from_rows(caption, rows, columns, LISTED)
