"""The report's axes: datasets over run, step and matrix with coordinates that say what a matrix is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from analyzers.contract import MatrixInfo, Variable
from analyzers.errors import ContractError


def dataset(
    arrays: Mapping[str, np.ndarray],
    variables: Sequence[Variable],
    runs: Sequence[str],
    steps: np.ndarray,
    matrices: Sequence[str],
    infos: Sequence[MatrixInfo],
) -> xr.Dataset:
    """A Dataset of the arrays with the dims and attributes that `variables` say; infos: of each matrix.

    Coordinates where their dims occur: run (str), step (int64), matrix (str), and along matrix: layer (float64, NaN
    where there is none), kind, role (str), rows, cols (int64).
    """
    described = {variable.name: variable for variable in variables}
    sizes = {"run": len(runs), "step": len(steps), "matrix": len(matrices)}
    data: dict[str, Any] = {}
    for name, array in arrays.items():
        if name not in described:
            raise ContractError(f"array {name!r} has no Variable; there are: {', '.join(sorted(described)) or 'none'}")
        variable = described[name]
        values = np.asarray(array)
        if values.ndim != len(variable.dims):
            raise ContractError(f"variable {name!r} has dims {variable.dims}, its array has shape {values.shape}")
        for dim, size in zip(variable.dims, values.shape, strict=True):
            if sizes.setdefault(dim, size) != size:
                raise ContractError(f"variable {name!r} has {size} along {dim!r}, there are {sizes[dim]}")
        data[name] = (variable.dims, values, _attributes(variable))
    used = {dim for dims, _, _ in data.values() for dim in dims}
    coordinates = {
        name: value for name, value in _coordinates(runs, steps, matrices, infos).items() if value[0] in used
    }
    return xr.Dataset(data, coordinates)


def _attributes(variable: Variable) -> dict[str, Any]:
    attributes: dict[str, Any] = {"long_name": variable.long_name, "units": variable.units}
    if variable.source:
        attributes["source"] = variable.source
    if variable.key:
        attributes["key"] = 1
    if variable.log:
        attributes["log"] = 1
    return attributes


def _coordinates(
    runs: Sequence[str], steps: np.ndarray, matrices: Sequence[str], infos: Sequence[MatrixInfo]
) -> dict[str, tuple[str, Any, dict[str, str]]]:
    layers = np.array([np.nan if info.layer is None else info.layer for info in infos], dtype=np.float64)
    return {
        "run": ("run", np.array(list(runs), dtype=object), {"long_name": "training run"}),
        "step": ("step", np.asarray(steps, dtype=np.int64), {"long_name": "training step", "units": "1"}),
        "matrix": ("matrix", np.array(list(matrices), dtype=object), {"long_name": "matrix, canonical name"}),
        "layer": ("matrix", layers, {"long_name": "layer", "units": "1"}),
        "kind": ("matrix", np.array([info.kind for info in infos], dtype=object), {"long_name": "kind of matrix"}),
        "role": ("matrix", np.array([info.role for info in infos], dtype=object), {"long_name": "role of matrix"}),
        "rows": ("matrix", np.array([i.shape[0] for i in infos], dtype=np.int64), {"long_name": "rows (outputs)"}),
        "cols": ("matrix", np.array([i.shape[1] for i in infos], dtype=np.int64), {"long_name": "columns (inputs)"}),
    }
