"""Spectra of the weights that an adapter makes: any matrix statistic taken of W0 + Δ, and a view that shows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from analyzers.contract import Context, Cost, MatrixInfo, Observation, Result, Stack, Statistic, Unit, Variable, View
from analyzers.errors import ContractError

PREFIX = "merged_"


@dataclass(frozen=True)
class OnBase(Statistic):
    """A statistic of scope matrix, of each of an adapter's matrices on its base: W0 + Δ, in float64.

    Fields and parameters are those of `of`; its inputs are taken on the base as well. The results have a table of their
    own, under the name of `of` with `PREFIX`. Matrices whose shorter side is above `side` are refused; no result
    depends on it.
    """

    of: Statistic
    side: int

    scope = "matrix"
    on_base = True

    def __post_init__(self) -> None:
        if self.of.scope != "matrix" or self.of.extent_field is not None:
            raise ContractError(f"only a matrix statistic of fixed extent can be taken on a base, not {self.of.name!r}")
        for name, value in (
            ("name", PREFIX + self.of.name),
            ("version", self.of.version),
            ("reads_matrices", self.of.reads_matrices),
        ):
            object.__setattr__(self, name, value)  # those of a class for others, of an instance here

    def parameters(self) -> dict[str, Any]:
        """Those of the statistic."""
        return self.of.parameters()

    def inputs(self) -> tuple[Statistic, ...]:
        """The statistic's inputs, on the base."""
        return tuple(OnBase(one, self.side) for one in self.of.inputs())

    def refuses(self, info: MatrixInfo, reference: MatrixInfo | None) -> str | None:
        """As the statistic does of a weight, and what is too large."""
        if min(info.shape) > self.side:
            sides = f"{info.shape[0]} × {info.shape[1]}"
            return f"its W0 + Δ is {sides}, above merged_spectra.side={self.side}: set it higher to measure this matrix"
        return self.of.refuses(_as_weight(info), reference)

    def cost(self, infos: Sequence[MatrixInfo]) -> Cost:
        """That of a dense weight."""
        return self.of.cost([_as_weight(info) for info in infos])

    def compute(self, unit: Unit, context: Context) -> Result:
        """As the statistic does of a weight."""
        return self.of.compute(_unprefixed(unit), context)

    def compute_batch(self, units: Sequence[Unit], contexts: Sequence[Context]) -> list[Result | Exception]:
        """As the statistic does of weights."""
        return self.of.compute_batch([_unprefixed(unit) for unit in units], contexts)


class ViewOnBase:
    """A view of the matrices that some adapter changes: W of a full run, W0 + Δ of an adapter (role "merged").

    `matrices` are those names alone, up to the shorter side `side`, so that medians over them compare like with like.
    """

    def __init__(self, view: View, side: int) -> None:
        self._view, self._side = view, side
        infos = [[view.info(run.id, name) for name in view.matrices] for run in view.runs]
        adapted = [
            [info is not None and info.role == "delta" and min(info.shape) <= side for info in row] for row in infos
        ]
        self._adapted = np.array(adapted, dtype=bool).reshape(len(view.runs), len(view.matrices))
        self._kept = np.flatnonzero(self._adapted.any(axis=0))
        self._at = np.full(len(view.matrices), -1)
        self._at[self._kept] = np.arange(len(self._kept))
        self.runs = view.runs
        self.steps = view.steps
        self.matrices = tuple(view.matrices[index] for index in self._kept)

    def __getattr__(self, name: str) -> Any:
        """What does not depend on roles is the view's."""
        return getattr(self._view, name)

    def info(self, run: str, matrix: str) -> MatrixInfo | None:
        """That of the view, with the role "merged" for an adapter's Δ."""
        info = self._view.info(run, matrix)
        return replace(info, role="merged", rank=None) if info is not None and info.role == "delta" else info

    def stacks(self, statistic: Statistic, field: str) -> Iterator[Stack]:
        """Of full runs the values of the statistic, of adapters those of `OnBase`."""
        for asked, of_adapters in ((statistic, False), (OnBase(statistic, self._side), True)):
            for stack in self._view.stacks(asked, field):
                matrices = self._at[stack.matrix_index]
                kept = (matrices >= 0) & (self._adapted[stack.run_index, stack.matrix_index] == of_adapters)
                if kept.any():
                    yield Stack(stack.run_index[kept], stack.step_index[kept], matrices[kept], stack.values[kept])

    def array(self, statistic: Statistic, field: str, fill: float = np.nan) -> np.ndarray:
        """(run, step, matrix, *value shape), as `View.array`."""
        array: np.ndarray | None = None
        for stack in self.stacks(statistic, field):
            if array is None:
                shape = (len(self.runs), len(self.steps), len(self.matrices), *stack.values.shape[1:])
                array = np.full(shape, fill, dtype=np.result_type(stack.values.dtype, np.float64))
            array[stack.run_index, stack.step_index, stack.matrix_index] = stack.values
        return np.full((len(self.runs), len(self.steps), len(self.matrices)), fill) if array is None else array

    def dataset(self, arrays: Mapping[str, np.ndarray], variables: Sequence[Variable]) -> xr.Dataset:
        """As `View.dataset`, over the matrices of this view."""
        dims = {variable.name: variable.dims for variable in variables}
        widened = {name: self._widened(values, dims.get(name, ())) for name, values in arrays.items()}
        dataset = self._view.dataset(widened, variables).isel(matrix=self._kept)
        role = dataset["role"].copy()
        role.values = np.where(self._adapted[:, self._kept], "merged", role.values)
        return dataset.assign_coords(role=role)

    def _widened(self, values: np.ndarray, dims: Sequence[str]) -> np.ndarray:
        if "matrix" not in dims:
            return values
        axis = list(dims).index("matrix")
        shape = (*values.shape[:axis], len(self._view.matrices), *values.shape[axis + 1 :])
        wide = np.full(shape, np.nan)
        wide[(slice(None),) * axis + (self._kept,)] = values
        return wide


def _as_weight(info: MatrixInfo) -> MatrixInfo:
    return replace(info, role="weight", rank=None)


def _unprefixed(unit: Unit) -> Unit:
    """The unit as the statistic knows it: a weight, and inputs under their own names."""
    return replace(unit, observations=tuple(_observed(one) for one in unit.observations))


def _observed(observation: Observation) -> Observation:
    assert observation.info is not None
    statistics = {name.removeprefix(PREFIX): result for name, result in observation.statistics.items()}
    return replace(observation, info=_as_weight(observation.info), statistics=statistics)
