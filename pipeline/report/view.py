"""What an analyzer's `derive` sees of a store: results of the chosen runs, by name or as arrays over all of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from analyzers.contract import (
    Analyzer,
    IterativeStatistic,
    MatrixInfo,
    Result,
    RunInfo,
    Stack,
    Statistic,
    Trial,
    Variable,
)
from analyzers.errors import ContractError, Unmeasurable
from pipeline.report.axes import dataset
from pipeline.report.groups import Extent, group
from pipeline.report.results import Results
from pipeline.store.failures import Failure
from pipeline.store.records import RunRecord
from pipeline.units.addresses import Because, Skip
from pipeline.units.found import Place
from pipeline.units.selection import EVERYTHING, Selection
from pipeline.units.trials import replay

if TYPE_CHECKING:
    from pipeline.store.store import Store


class StoreView:
    """`analyzers.contract.View` of a store. The selection must be the one that was computed (see `plan`).

    runs, steps, matrices: the report's axes. Results are read when they are asked for.
    """

    def __init__(self, store: Store, analyzers: Sequence[Analyzer], selection: Selection = EVERYTHING) -> None:
        self._results = Results(store, [s for a in analyzers for s in a.statistics()], selection)
        self._sources = sources = self._results.sources
        self.runs: tuple[RunInfo, ...] = tuple(self._run_info(record) for record in sources.runs)
        self._infos: dict[tuple[str, str], MatrixInfo] = {}
        having: dict[str, dict[str, None]] = {}
        for run in self.runs:
            for step in run.steps:
                for name, source in sources.kept(run.id, step).items():
                    having.setdefault(name, {}).setdefault(run.id)
                    self._infos.setdefault((run.id, name), source.info)
        infos = {run.id: run for run in self.runs}
        self._having = {name: tuple(infos[run] for run in runs) for name, runs in having.items()}
        self._stand_on(self.runs)

    def _stand_on(self, runs: tuple[RunInfo, ...]) -> None:
        """Makes the axes those of these runs."""
        ids = {run.id for run in runs}
        self.runs = runs
        self.steps = np.array(sorted({s for run in runs for s in run.steps}), dtype=np.int64)
        self.matrices: tuple[str, ...] = tuple(
            name for name, having in self._having.items() if any(run.id in ids for run in having)
        )
        self._run_at = {run.id: index for index, run in enumerate(self.runs)}
        self._step_at = {int(step): index for index, step in enumerate(self.steps)}
        self._matrix_at = {name: index for index, name in enumerate(self.matrices)}

    def groups(self) -> tuple[StoreView, ...]:
        """A view of each group of runs that share axes (`pipeline.report.groups`); this one where all do."""
        names: dict[str, set[str]] = {run.id: set() for run in self.runs}
        for run, matrix in self._infos:
            names[run].add(matrix)
        extents = [Extent(run.id, frozenset(run.steps), frozenset(names[run.id])) for run in self.runs]
        grouped = group(extents)
        return (self,) if len(grouped[0]) == len(self.runs) else tuple(self._part(frozenset(runs)) for runs in grouped)

    def _part(self, runs: frozenset[str]) -> StoreView:
        part = copy.copy(self)
        part._results = self._results.part(runs)
        part._stand_on(tuple(run for run in self.runs if run.id in runs))
        return part

    def compared(self, matrix: str) -> tuple[RunInfo, ...]:
        """See `analyzers.contract.View.compared`."""
        return self._having.get(matrix, ())

    @property
    def measured(self) -> np.ndarray:
        """(run, step) bool: whether the run has a checkpoint at the step; steps are the union over runs."""
        mask = np.zeros((len(self.runs), len(self.steps)), dtype=bool)
        for index, run in enumerate(self.runs):
            mask[index, [self._step_at[step] for step in run.steps]] = True
        return mask

    @property
    def skips(self) -> tuple[Skip, ...]:
        """Everything asked for that is not measured, with the reason: no unit (refused, no base, ...), or no value."""
        return self._results.not_measured()

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Units of the analyzers' statistics that failed when they were last tried."""
        return self._results.failures()

    def info(self, run: str, matrix: str) -> MatrixInfo | None:
        """Shape, layer, kind and role of a matrix in a run, as the run stores it; None where it has none."""
        return self._infos.get((run, matrix))

    def reference_info(self, run: str, matrix: str) -> MatrixInfo | None:
        """The same of its base's matrix."""
        base = self._sources.base_of(run)
        source = None if isinstance(base, Because) else self._sources.tuned(*base).get(matrix)
        return None if source is None or isinstance(source, Because) else source.info

    def get(
        self, statistic: Statistic, run: str | None = None, step: int | None = None, matrix: str | None = None
    ) -> Result | None:
        """One result. matrix, pair: run, step and matrix; checkpoint: run and step; run: run (and matrix); runs: matrix
        (and run, where runs with different bases stand in different units). None where there is none."""
        place = self._place(statistic, run, step, matrix)
        return None if place is None else self._results.value(statistic, place)

    def members(
        self, statistic: Statistic, run: str | None = None, step: int | None = None, matrix: str | None = None
    ) -> tuple[tuple[str, int, str | None], ...]:
        """(run, step, matrix) of the observations of a unit, in the order in which `compute` saw them."""
        place = self._place(statistic, run, step, matrix)
        found = self._results.found(statistic)
        key = None if place is None else found.places.get(place)
        if key is None:
            return ()
        if key not in found.units:  # of one matrix or pair, which is one observation
            return () if place is None else ((place[0] or "", place[1] or 0, place[2]),)
        return tuple((m.run, m.step, m.matrix.info.name if m.matrix else None) for m in found.units[key].members)

    def trials(
        self,
        statistic: IterativeStatistic,
        run: str | None = None,
        step: int | None = None,
        matrix: str | None = None,
    ) -> Sequence[tuple[Trial, Result]]:
        """All finished trials of an iterative statistic's unit, in the order in which they were proposed."""
        place = self._place(statistic, run, step, matrix)
        found = self._results.found(statistic)
        key = None if place is None else found.places.get(place)
        if key is None:
            return ()
        search = replay(self._results.table(statistic.name), found.units[key])
        return tuple((trial, value) for trial, value in search.finished if not isinstance(value, Unmeasurable))

    def reference(self, statistic: Statistic, run: str, matrix: str, step: int | None = None) -> Result | None:
        """A matrix statistic of the base's matrix that (run, matrix) is compared with. `step` changes nothing: a run
        has one base."""
        if statistic.scope != "matrix":
            raise ContractError(
                f"`reference` is for statistics of scope matrix; {statistic.name!r} has {statistic.scope}"
            )
        base = self._sources.base_of(run)
        if isinstance(base, Because):
            return None
        direct = self._results.value(statistic, (*base, matrix))
        if direct is not None:
            return direct
        source = self._sources.tuned(*base).get(matrix)
        if source is None or isinstance(source, Because):
            return None
        units, p = self._results.prepared(statistic)
        key = units.members.matrix(p, *base, source)
        return None if isinstance(key, Because) else self._results.by_key(statistic, key)

    def stacks(self, statistic: Statistic, field: str) -> Iterator[Stack]:
        """All values of a field of a matrix or pair statistic, in stacks of one shape and dtype and of bounded size."""
        _require_matrices(statistic)
        for index, values in self._results.by_shape(statistic, field, self._index):
            kept = (index >= 0).all(axis=1)
            if kept.any():
                yield Stack(index[kept, 0], index[kept, 1], index[kept, 2], values if kept.all() else values[kept])

    def array(self, statistic: Statistic, field: str, fill: float = np.nan) -> np.ndarray:
        """(run, step, matrix, *value shape) of a matrix or pair statistic whose values share one shape; `fill` where
        there is none. Without any value: (run, step, matrix). Raises `ContractError` where shapes differ."""
        grid = (len(self.runs), len(self.steps), len(self.matrices))
        array: np.ndarray | None = None
        for stack in self.stacks(statistic, field):
            shape = stack.values.shape[1:]
            if array is None:
                array = np.full((*grid, *shape), fill, dtype=_filled_dtype(stack.values.dtype, fill))
            elif array.shape[3:] != shape:
                raise ContractError(
                    f"field {field!r} of {statistic.name!r} has values of shape {array.shape[3:]} and {shape}: "
                    "`array` needs one shape, use `stacks`"
                )
            wanted = np.result_type(array.dtype, _filled_dtype(stack.values.dtype, fill))
            array = array.astype(wanted, copy=False)
            array[stack.run_index, stack.step_index, stack.matrix_index] = stack.values
        return np.full(grid, fill) if array is None else array

    def dataset(self, arrays: Mapping[str, np.ndarray], variables: Sequence[Variable]) -> xr.Dataset:
        """A Dataset with the variables' dims and attributes, and the coordinates run, step, matrix, layer, kind, role,
        rows, cols where their dims occur. `ContractError` for an array without a variable or of another shape."""
        return dataset(arrays, variables, [run.id for run in self.runs], self.steps, self.matrices, self.info)

    def _run_info(self, record: RunRecord) -> RunInfo:
        base = self._sources.base_of(record.id)
        given = record.id in self._sources.selection.bases
        return RunInfo(
            record.id,
            self._sources.steps(record.id),
            record.role,
            record.adapter,
            record.base if isinstance(base, Because) else f"{base[0]}@{base[1]}",
            "given" if given else record.base_kind,
        )

    def _place(self, statistic: Statistic, run: str | None, step: int | None, matrix: str | None) -> Place | None:
        """Where a unit stands, with what its scope needs, checked."""
        scope = statistic.scope
        of_matrices = scope in ("matrix", "pair") or (scope in ("run", "runs") and statistic.over == "matrix")
        needs: dict[str, object] = {"run": run} if scope != "runs" else {}
        needs |= {"step": step} if scope in ("matrix", "pair", "checkpoint") else {}
        needs |= {"matrix": matrix} if of_matrices else {}
        if missing := [name for name, value in needs.items() if value is None]:
            raise ContractError(f"{statistic.name!r} is of scope {scope}: say which {' and '.join(missing)}")
        matrix = matrix if of_matrices else None
        if scope != "runs":
            return (run, int(step) if "step" in needs and step is not None else None, matrix)
        places = self._results.found(statistic).places
        runs = [run] if run is not None else [info.id for info in self.runs]
        return next((place for id in runs if (place := (id, None, matrix)) in places), None)

    def _index(self, place: Place) -> tuple[int, int, int]:
        run, step, matrix = place
        return (
            self._run_at.get(run or "", -1),
            -1 if step is None else self._step_at.get(step, -1),
            self._matrix_at.get(matrix or "", -1),
        )


def _require_matrices(statistic: Statistic) -> None:
    if statistic.scope not in ("matrix", "pair"):
        raise ContractError(
            f"{statistic.name!r} is of scope {statistic.scope}: only matrix and pair statistics stand on "
            "(run, step, matrix); use `get`"
        )


def _filled_dtype(dtype: np.dtype, fill: float) -> np.dtype:
    """A dtype that holds the values and `fill` exactly enough: integers and booleans become float64 for a NaN."""
    if dtype.kind in "US":
        return np.dtype(object)
    return np.result_type(dtype, np.float64) if isinstance(fill, float) else np.result_type(dtype, type(fill))
