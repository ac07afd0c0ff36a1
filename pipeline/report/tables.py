"""Small shared pieces of the tree: tables of strings and numbers, legal names, plain attributes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from pipeline.archive.text import encodable

RESERVED = ("archive", "groups", "metrics", "provenance")
"""Nodes of the root that are not analyzers."""


def table(dim: str, columns: Mapping[str, Sequence[Any]], long_names: Mapping[str, str] | None = None) -> xr.Dataset:
    """A Dataset of equally long 1-D columns over `dim`: strings as objects, numbers as float64 or int64."""
    variables = {}
    for name, values in columns.items():
        column = list(values)
        if any(isinstance(value, str) for value in column) or not column:
            data = np.array(["" if value is None else str(value) for value in column], dtype=object)
        elif any(value is None for value in column):
            data = np.array([np.nan if value is None else float(value) for value in column])
        else:
            data = np.asarray(column)
        attrs = {"long_name": (long_names or {}).get(name, name.replace("_", " "))}
        variables[name] = xr.Variable((dim,), data, attrs if data.dtype == object else {**attrs, "units": "1"})
    return xr.Dataset(variables)


def rows_of(dataset: xr.Dataset) -> list[dict[str, Any]]:
    """The rows of a `table`, as plain Python values."""
    columns = {str(name): [_plain(v) for v in variable.values] for name, variable in dataset.variables.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def legal_names(names: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """A distinct name for each, legal as a group in Zarr, HDF5 and xarray: letters, digits and ``._=+-`` only.

    Two that would become equal are told apart by a number, also where a file system ignores case.
    """
    seen = {name.lower() for name in taken}
    legal: dict[str, str] = {}
    for name in names:
        if name in legal:
            continue
        stem = re.sub(r"[^A-Za-z0-9._=+-]", "_", name)[:120].lstrip("._") or "run"
        chosen, number = stem, 1
        while chosen.lower() in seen:
            number += 1
            chosen = f"{stem}-{number}"
        seen.add(chosen.lower())
        legal[name] = chosen
    return legal


def plain_attributes(attributes: Mapping[Any, Any]) -> dict[str, Any]:
    """Attributes that Zarr and netCDF both keep: strings, numbers and lists of numbers; the rest as JSON text."""
    plain: dict[str, Any] = {}
    for name, value in attributes.items():
        if value is None:
            continue
        if isinstance(value, np.ndarray):
            value = value.tolist()
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, bool):
            plain[str(name)] = int(value)
        elif isinstance(value, str):
            plain[str(name)] = encodable(value)
        elif isinstance(value, int | float):
            plain[str(name)] = value
        elif isinstance(value, list | tuple) and value and all(isinstance(v, int | float) for v in value):
            plain[str(name)] = list(value)
        else:
            plain[str(name)] = json.dumps(value, sort_keys=True, default=str)
    return plain


def datasets_of(tree: xr.DataTree) -> dict[str, xr.Dataset]:
    """Path → dataset of every node, complete in itself: with the coordinates it inherits, of the dims it uses."""
    complete: dict[str, xr.Dataset] = {}
    for node in tree.subtree:
        dataset = node.to_dataset(inherit=True)
        own = node.to_dataset(inherit=False)
        foreign = [n for n, v in dataset.coords.items() if n not in own.coords and not set(v.dims) <= set(own.dims)]
        complete[node.path] = dataset.drop_vars(foreign)
    return complete


def storable(dataset: xr.Dataset) -> xr.Dataset:
    """The same dataset with every string column as Python objects and plain attributes.

    Fixed-width unicode has no Zarr v3 specification, and xarray cannot read a 0-d string back from netCDF:
    0-d strings become attributes.
    """
    scalars = {n: v for n, v in dataset.variables.items() if v.dtype.kind in "UTOS" and v.ndim == 0}
    fixed = dataset.drop_vars(list(scalars))
    strings = {
        name: xr.Variable(variable.dims, _objects(variable.values), plain_attributes(variable.attrs))
        for name, variable in fixed.variables.items()
        if variable.dtype.kind in "UTOS"
    }
    fixed = fixed.assign_coords({name: v for name, v in strings.items() if name in fixed.coords})
    fixed = fixed.assign({name: v for name, v in strings.items() if name not in fixed.coords})
    for variable in fixed.variables.values():
        variable.attrs = plain_attributes(variable.attrs)
        variable.encoding = {}
    fixed.attrs = plain_attributes(dataset.attrs) | {str(n): str(v.values.item()) for n, v in scalars.items()}
    return fixed


def _objects(values: np.ndarray) -> np.ndarray:
    flat = [
        "" if value is None else value.decode() if isinstance(value, bytes) else encodable(str(value))
        for value in values.flat
    ]
    objects = np.empty(len(flat), dtype=object)
    objects[:] = flat
    return objects.reshape(values.shape)
