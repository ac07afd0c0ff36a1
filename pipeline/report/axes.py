"""The report's axes: datasets over run, step and matrix with coordinates that say what a matrix is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    info: Callable[[str, str], MatrixInfo | None],
) -> xr.Dataset:
    """A Dataset of the arrays with the dims and attributes that `variables` say; `info`: of a run's matrix.

    Coordinates where their dims occur: run (str), step (int64), matrix (str); along matrix: layer (float64, NaN
    where there is none) and kind (str), which belong to the name; along run and matrix: role (str, empty where the run
    has no such matrix), rows and cols (int64, 0 there), since one name is a weight in one run and a Δ in another.
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
        name: value
        for name, value in _coordinates(runs, steps, matrices, info).items()
        if used >= set(np.atleast_1d(value[0]))
    }
    return xr.Dataset(data, coordinates)


def _attributes(variable: Variable) -> dict[str, Any]:
    attributes: dict[str, Any] = {"long_name": variable.long_name, "units": variable.units}
    if variable.source:
        attributes["source"] = variable.source
    if variable.counted_by:
        attributes["counted_by"] = variable.counted_by
    if variable.key:
        attributes["key"] = 1
    if variable.log:
        attributes["log"] = 1
    return attributes


def _coordinates(
    runs: Sequence[str], steps: np.ndarray, matrices: Sequence[str], info: Callable[[str, str], MatrixInfo | None]
) -> dict[str, tuple[Any, Any, dict[str, str]]]:
    infos = [[info(run, matrix) for matrix in matrices] for run in runs]
    # Layer and kind follow from the name: any run that has the matrix can tell.
    named = [next(filter(None, column)) for column in zip(*infos, strict=True)]
    layers = np.array([np.nan if one.layer is None else one.layer for one in named], dtype=np.float64)
    grid = (len(runs), len(matrices))
    shapes = np.array([one.shape if one else (0, 0) for row in infos for one in row], dtype=np.int64)
    roles = np.array([one.role if one else "" for row in infos for one in row], dtype=object)
    rows, cols = shapes.reshape(*grid, 2)[..., 0], shapes.reshape(*grid, 2)[..., 1]
    each = ("run", "matrix")
    return {
        "run": ("run", np.array(list(runs), dtype=object), {"long_name": "training run"}),
        "step": ("step", np.asarray(steps, dtype=np.int64), {"long_name": "training step", "units": "1"}),
        "matrix": ("matrix", np.array(list(matrices), dtype=object), {"long_name": "matrix, canonical name"}),
        "layer": ("matrix", layers, {"long_name": "layer", "units": "1"}),
        "kind": ("matrix", np.array([one.kind for one in named], dtype=object), {"long_name": "kind of matrix"}),
        "role": (each, roles.reshape(grid), {"long_name": "role of the matrix in the run"}),
        "rows": (each, rows, {"long_name": "rows (outputs)", "units": "1"}),
        "cols": (each, cols, {"long_name": "columns (inputs)", "units": "1"}),
    }
