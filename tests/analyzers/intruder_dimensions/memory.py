"""Runs in memory: what the store, the plan and the view do for an analyzer, in sixty lines and without a disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import xarray as xr

from analyzers.contract import (
    Content,
    Context,
    IterativeStatistic,
    Matrix,
    MatrixInfo,
    Observation,
    Result,
    RunInfo,
    Stack,
    Statistic,
    Trial,
    Unit,
    Variable,
)


def observe(
    tuned: Content,
    base: Content,
    name: str = "W",
    run: str = "run",
    step: int = 1,
    statistics: Mapping[str, Result] | None = None,
    role: str = "weight",
) -> Observation:
    """A pair's observation."""
    matrix = Matrix.of(tuned, name, role=role)
    return Observation(run, step, matrix.info, matrix, Matrix.of(base, name), statistics or {})


def measure(statistic: Statistic, *observations: Observation, seed: int = 7, cache: dict | None = None) -> Result:
    """One unit's result; `cache` keeps what the context's cache is given."""
    kept = {} if cache is None else cache

    def remember(name: str, key: str, make: Callable[[], Mapping[str, torch.Tensor]]) -> Mapping[str, torch.Tensor]:
        if (name, key) not in kept:
            kept[name, key] = make()
        return kept[name, key]

    return statistic.compute(Unit(tuple(observations)), Context(seed=seed, cache=remember))


@dataclass
class MemoryView:
    """A `View` over {run: {step: {matrix: W}}} and the bases {matrix: W0}; statistics are computed when asked for."""

    tuned: dict[str, dict[int, dict[str, Content]]]
    bases: dict[str, Content]
    base_kind: str = "given"
    larger: dict[str, Statistic] = field(default_factory=dict)
    """By statistic name: what is stored in its place, of larger extent."""

    def __post_init__(self) -> None:
        self.runs = tuple(
            RunInfo(run, tuple(sorted(s)), "run", False, "base@0", self.base_kind) for run, s in self.tuned.items()
        )
        self.steps = np.unique([step for steps in self.tuned.values() for step in steps])
        self.matrices = tuple(dict.fromkeys(n for s in self.tuned.values() for m in s.values() for n in m))
        self._results: dict[tuple[object, ...], Result] = {}
        self._cache: dict = {}
        self._references = {name: Matrix.of(base, name) for name, base in self.bases.items()}

    def compared(self, matrix: str) -> tuple[RunInfo, ...]:
        return tuple(run for run in self.runs if self.info(run.id, matrix) is not None)

    def info(self, run: str, matrix: str) -> MatrixInfo | None:
        found = [m[matrix] for m in self.tuned[run].values() if matrix in m]
        return Matrix.of(found[0], matrix).info if found else None

    def reference_info(self, run: str, matrix: str) -> MatrixInfo | None:
        return self._references[matrix].info if matrix in self._references else None

    def get(
        self, statistic: Statistic, run: str | None = None, step: int | None = None, matrix: str | None = None
    ) -> Result | None:
        assert matrix is not None
        stored = self.larger.get(statistic.name, statistic)
        at = (stored, matrix) if stored.scope == "runs" else (stored, run, step, matrix)
        if at not in self._results:
            if stored.scope == "runs":
                rows = [(r, s) for r, steps in self.tuned.items() for s in sorted(steps) if matrix in steps[s]]
            else:
                assert run is not None and step is not None
                rows = [(run, step)]
                if matrix not in self.tuned[run].get(step, {}) or self._reference(stored, run, step, matrix) is None:
                    return None
            self._results[at] = measure(
                stored, *(self._observe(stored, r, s, matrix) for r, s in rows), cache=self._cache
            )
        return self._results[at]

    def trials(
        self, statistic: IterativeStatistic, run: str | None = None, step: int | None = None, matrix: str | None = None
    ) -> list[tuple[Trial, Result]]:
        """Of a statistic of a run's last step over all matrices: as long as it proposes."""
        assert run is not None and statistic.scope == "run" and statistic.last_step_only
        last = max(self.tuned[run])
        unit = Unit(tuple(self._observe(statistic, run, last, name) for name in self.tuned[run][last]))
        done: list[tuple[Trial, Result]] = []
        while proposed := statistic.propose(done):
            for trial in proposed:
                seed = 1000 + int(trial["block"])
                done.append((trial, statistic.compute(replace(unit, trial=trial), Context(seed=seed))))
        return done

    def stacks(self, statistic: Statistic, name: str) -> Iterator[Stack]:
        shapes: dict[tuple[int, ...], list[tuple[int, int, int, np.ndarray]]] = {}
        for r, run in enumerate(self.runs):
            for s, step in enumerate(self.steps):
                for m, matrix in enumerate(self.matrices):
                    result = self.get(statistic, run.id, int(step), matrix)
                    if result is not None:
                        shapes.setdefault(result[name].shape, []).append((r, s, m, result[name]))
        for rows in shapes.values():
            runs, steps, matrices, values = zip(*rows, strict=True)
            yield Stack(np.array(runs), np.array(steps), np.array(matrices), np.stack(values))

    def dataset(self, arrays: Mapping[str, np.ndarray], variables: Sequence[Variable]) -> xr.Dataset:
        named = {v.name: v for v in variables}
        data = {n: (named[n].dims, a, {"long_name": named[n].long_name}) for n, a in arrays.items()}
        coordinates = {"run": [r.id for r in self.runs], "step": self.steps, "matrix": list(self.matrices)}
        return xr.Dataset(data, {n: c for n, c in coordinates.items() if any(n in v[0] for v in data.values())})

    def _observe(self, statistic: Statistic, run: str, step: int, matrix: str) -> Observation:
        inputs = {i.name: self.get(i, run, step, matrix) for i in statistic.inputs()}
        own = Matrix.of(self.tuned[run][step][matrix], matrix)
        found = {name: result for name, result in inputs.items() if result is not None}
        return Observation(run, step, own.info, own, self._reference(statistic, run, step, matrix), found)

    def _reference(self, statistic: Statistic, run: str, step: int, matrix: str) -> Matrix | None:
        """The base's matrix, or that of one or two steps before; None where there is no such step."""
        if statistic.against == "base":
            return self._references[matrix]
        steps = sorted(self.tuned[run])
        index = steps.index(step) - (2 if statistic.against == "previous:2" else 1)
        earlier = self.tuned[run][steps[index]].get(matrix) if index >= 0 else None
        return None if earlier is None else Matrix.of(earlier, matrix)
