"""Which matrices moved most in each run, and by which measure that is said."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from pipeline.report import groups
from pipeline.report.compare import COUNTED, PREFERRED, analyzer_nodes, prefer
from pipeline.report.roles import Roles
from pipeline.report.spectra import run_datasets, spectral_changes

CHANGE = "relative_change"
"""‖Δ‖/‖W0‖, from intruder_dimensions."""
CHANGES = ("stable_rank", "alpha")
"""Variables of which the table shows the first and the last value."""


@dataclass(frozen=True)
class Mover:
    """One matrix of one run. `moved` by the table's measure; `first_last` of further variables; `counts` at the end."""

    run: str
    matrix: str
    moved: float
    first_last: dict[str, tuple[float, float]] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class MoverTable:
    """The movers, largest first, with how `moved` is defined and which convention the counts have."""

    measure: str
    movers: tuple[Mover, ...]
    counted: str = ""
    total: int = 0


def most_moved(tree: xr.DataTree, limit: int = 20, per_run: int = 5) -> MoverTable | None:
    """The `limit` largest movers over all runs, at most `per_run` of each run. None where nothing can be compared."""
    for measure, values in _measures(tree):
        order = _largest(values, limit, per_run)
        if order:
            variables = {n: arrays for n in CHANGES if (arrays := find(tree, n))}
            counts, counted = _counts(tree)
            movers = tuple(
                Mover(
                    run,
                    matrix,
                    moved,
                    {n: ends for n, v in variables.items() if (ends := _first_last(v, run, matrix)) is not None},
                    {n: last for n, v in counts.items() if (last := _last(v, run, matrix)) is not None},
                )
                for run, matrix, moved in order
            )
            return MoverTable(measure, movers, counted, sum(int(np.isfinite(v.values).sum()) for v in values))
    return None


def find(tree: xr.DataTree, name: str, dims: Sequence[str] = ("run", "step", "matrix")) -> list[xr.DataArray]:
    """A variable of the first analyzer that has it with at least these dims: one array, or one for each group of runs
    that share axes."""
    for node in analyzer_nodes(tree):
        having = [dataset[name] for dataset in groups.datasets(tree, node) if name in dataset.data_vars]
        if having and all(set(dims) <= set(array.dims) for array in having):
            return having
    return []


def _measures(tree: xr.DataTree) -> Iterator[tuple[str, list[xr.DataArray]]]:
    """(name, (run, matrix) values of each group of runs), the best measure first."""
    roles = Roles.from_tree(tree)
    changes, norms = (
        [
            roles.only(array)
            for array in find(tree, name)
            if set(array.dims) == {"run", "step", "matrix"} and array.sizes["step"]  # none: nothing could be read
        ]
        for name in (CHANGE, "frobenius_norm")
    )
    if changes:
        yield "‖Δ‖ / ‖W₀‖ at the last step, Frobenius norms", [_at_end(change) for change in changes]
    if norms:
        spectral = [roles.only(_spectral_movement(tree, norm)) for norm in norms]
        if any(np.isfinite(values.values).any() for values in spectral):
            yield "‖σ(last) − σ(first)‖ / ‖σ(first)‖ (never more than the relative change of the weights)", spectral
        first = [_pick(norm, lambda there: there.argmax(axis=1)) for norm in norms]
        moved = [abs(_at_end(norm) / start - 1) for norm, start in zip(norms, first, strict=True)]
        yield "relative change of the Frobenius norm, first to last step", moved


def _pick(values: xr.DataArray, index: Callable[[np.ndarray], np.ndarray]) -> xr.DataArray:
    """(run, matrix): the value at the step index that `index` finds in (run, step, matrix) 'is measured'."""
    ordered = values.transpose("run", "step", "matrix")
    chosen = index(~np.isnan(ordered.values))
    picked = np.take_along_axis(ordered.values, chosen[:, None, :], axis=1)[:, 0, :]
    return ordered.isel(step=0, drop=True).copy(data=picked)


def _at_end(values: xr.DataArray) -> xr.DataArray:
    return _pick(values, lambda there: there.shape[1] - 1 - there[:, ::-1].argmax(axis=1))


def _spectral_movement(tree: xr.DataTree, norm: xr.DataArray) -> xr.DataArray:
    """(run, matrix): how far σ moved between the first and the last measured step, NaN where there is one step."""
    matrices = {str(name): j for j, name in enumerate(norm["matrix"].values)}
    values = np.full((norm.sizes["run"], norm.sizes["matrix"]), np.nan)
    for i, run in enumerate(norm["run"].values):
        for dataset in run_datasets(tree, str(run)):
            for matrix, moved in spectral_changes(dataset).items():
                if matrix in matrices:
                    values[i, matrices[matrix]] = moved
    return norm.isel(step=0, drop=True).transpose("run", "matrix").copy(data=values)


def _largest(values: Sequence[xr.DataArray], limit: int, per_run: int) -> list[tuple[str, str, float]]:
    rows = []
    for array in values:
        table = np.asarray(array.transpose("run", "matrix").values, dtype=float)
        runs, matrices = (array[d].values for d in ("run", "matrix"))
        for i, run in enumerate(runs):
            finite = np.flatnonzero(np.isfinite(table[i]))
            for j in finite[np.argsort(-table[i][finite], kind="stable")][:per_run]:
                rows.append((str(run), str(matrices[j]), float(table[i, j])))
    return sorted(rows, key=lambda row: -row[2])[:limit]


def _counts(tree: xr.DataTree) -> tuple[dict[str, list[xr.DataArray]], str]:
    """The counts at the preferred side, k, ε and norm, over (run, matrix) and perhaps step; and which these are."""
    counts: dict[str, list[xr.DataArray]] = {}
    label = ""
    for name in COUNTED:
        for array in find(tree, name, ("run", "matrix")):
            shown = []
            for dim in [d for d in PREFERRED if d in array.dims]:
                array, part = prefer(array, dim)
                shown.append(part)
            if set(array.dims) <= {"run", "step", "matrix"}:
                counts.setdefault(name, []).append(array.load())
                label = ", ".join(shown) if name == "n_intruders" else label
    return counts, label


def _series(arrays: Sequence[xr.DataArray], run: str, matrix: str) -> np.ndarray:
    array = groups.of_run(arrays, run)
    if array is None:
        return np.empty(0)
    runs, matrices = ([str(v) for v in array[d].values] for d in ("run", "matrix"))
    if run not in runs or matrix not in matrices or not set(array.dims) <= {"run", "step", "matrix"}:
        return np.empty(0)
    values = np.atleast_1d(array.isel(run=runs.index(run), matrix=matrices.index(matrix)).values.astype(float))
    return values[~np.isnan(values)]


def _first_last(arrays: Sequence[xr.DataArray], run: str, matrix: str) -> tuple[float, float] | None:
    values = _series(arrays, run, matrix)
    return (float(values[0]), float(values[-1])) if values.size else None


def _last(arrays: Sequence[xr.DataArray], run: str, matrix: str) -> float | None:
    values = _series(arrays, run, matrix)
    return float(values[-1]) if values.size else None
