"""A `View` over matrices in memory: computes the statistics that an analyzer asks for, without store or plan."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import xarray as xr

from analyzers.contract import (
    Analyzer,
    Content,
    Context,
    Derived,
    Matrix,
    MatrixInfo,
    Observation,
    Result,
    RunInfo,
    Stack,
    Statistic,
    Unit,
    Variable,
)

Runs = Mapping[str, Mapping[int, Mapping[str, Content | Matrix]]]
"""run → step → canonical name → values, or a `Matrix` where role or layer matter."""


def compute(
    statistic: Statistic, matrix: Matrix, results: dict[str, Result] | None = None, reference: Matrix | None = None
) -> Result:
    """One matrix or pair statistic with its inputs, as a worker would compute it; raises what the statistic raises."""
    results = {} if results is None else results
    for needed in statistic.inputs():
        if needed.name not in results:
            results[needed.name] = compute(needed, matrix, results)
    seed = int.from_bytes(hashlib.sha256(f"{matrix.info.name}{statistic}".encode()).digest()[:4], "little")
    unit = Unit((Observation("run", 0, matrix.info, matrix, reference, statistics=results),))
    return statistic.compute(unit, Context(seed=seed))


class MemoryView:
    """All results of `analyzer` for `runs`, computed at once; refused and unmeasurable matrices have none."""

    def __init__(self, analyzer: Analyzer, runs: Runs) -> None:
        self.runs = tuple(RunInfo(run, tuple(sorted(steps))) for run, steps in runs.items())
        self.steps = np.unique([step for steps in runs.values() for step in steps]).astype(np.int64)
        self.matrices = tuple(dict.fromkeys(name for steps in runs.values() for m in steps.values() for name in m))
        self.reasons: dict[tuple[str, str], str] = {}
        self._infos: dict[tuple[str, str], MatrixInfo] = {}
        self._results: dict[tuple[str, int, int, int], Result] = {}
        for i, (run, steps) in enumerate(runs.items()):
            earlier: dict[str, list[Matrix]] = {}
            for step, matrices in sorted(steps.items()):
                for name, values in matrices.items():
                    matrix = values if isinstance(values, Matrix) else Matrix.of(values, name)
                    self._infos[run, name] = matrix.info
                    place = (i, int(np.searchsorted(self.steps, step)), self.matrices.index(name))
                    self._measure(analyzer, matrix, place, earlier.setdefault(name, []))
                    earlier[name].append(matrix)

    def _measure(
        self, analyzer: Analyzer, matrix: Matrix, place: tuple[int, int, int], earlier: Sequence[Matrix]
    ) -> None:
        """`earlier`: this matrix at the run's steps so far (in these tests it is at every one)."""
        known: dict[str, Result] = {}
        for statistic in analyzer.statistics():
            reason = statistic.refuses(matrix.info, None)
            if reason:
                self.reasons[matrix.info.name, statistic.name] = reason
                continue
            back = {"previous": 1, "previous:2": 2}.get(statistic.against or "", 0)
            if back > len(earlier):
                continue
            known[statistic.name] = compute(statistic, matrix, known, earlier[-back] if back else None)
            self._results[statistic.name, *place] = known[statistic.name]

    def compared(self, matrix: str) -> tuple[RunInfo, ...]:
        return tuple(run for run in self.runs if self.info(run.id, matrix) is not None)

    def info(self, run: str, matrix: str) -> MatrixInfo | None:
        return self._infos.get((run, matrix))

    def stacks(self, statistic: Statistic, field: str) -> Iterator[Stack]:
        groups: dict[tuple[int, ...], list[tuple[tuple[int, int, int], np.ndarray]]] = {}
        for (name, *place), result in self._results.items():
            if name == statistic.name:
                groups.setdefault(result[field].shape, []).append(((place[0], place[1], place[2]), result[field]))
        for members in groups.values():
            places = np.array([place for place, _ in members])
            yield Stack(places[:, 0], places[:, 1], places[:, 2], np.stack([values for _, values in members]))

    def array(self, statistic: Statistic, field: str, fill: float = np.nan) -> np.ndarray:
        shape = (len(self.runs), len(self.steps), len(self.matrices))
        filled: np.ndarray | None = None
        for stack in self.stacks(statistic, field):
            filled = np.full((*shape, *stack.values.shape[1:]), fill) if filled is None else filled
            filled[stack.run_index, stack.step_index, stack.matrix_index] = stack.values
        return np.full(shape, fill) if filled is None else filled

    def dataset(self, arrays: Mapping[str, np.ndarray], variables: Sequence[Variable]) -> xr.Dataset:
        described = {v.name: v for v in variables}
        data = {
            name: (
                described[name].dims,
                values,
                {"long_name": described[name].long_name, "units": described[name].units},
            )
            for name, values in arrays.items()
        }
        coordinates = {"run": [run.id for run in self.runs], "step": self.steps, "matrix": list(self.matrices)}
        return xr.Dataset(data, coordinates)


def derive(analyzer: Analyzer, runs: Runs) -> Derived:
    """Computes and derives in one go."""
    return analyzer.derive(MemoryView(analyzer, runs))  # type: ignore[arg-type]  # only what derive uses is built
