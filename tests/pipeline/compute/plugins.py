"""One statistic of each scope, small enough to check by hand, and an analyzer that asks for all of them."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analyzers.contract import (
    Analyzer,
    Context,
    Derived,
    IterativeStatistic,
    MatrixInfo,
    Result,
    Statistic,
    Trial,
    Unit,
    Variable,
    View,
)
from analyzers.errors import Unmeasurable


def calls(folder: str) -> list[str]:
    """What `Traced` statistics did, one line each, in any process."""
    log = Path(folder) / "calls"
    return log.read_text().splitlines() if log.exists() else []


def note(folder: str, text: str) -> None:
    """Adds a line to the log; one small append is atomic."""
    if folder:
        with (Path(folder) / "calls").open("a") as log:
            log.write(text + "\n")


@dataclass(frozen=True)
class Norm(Statistic):
    """matrix: the Frobenius norm, and the device's seed to see that it is the same anywhere."""

    name, version, scope = "test_norm", 1, "matrix"
    log: str = ""

    def parameters(self) -> dict[str, Any]:
        return {}

    def compute(self, unit: Unit, context: Context) -> Result:
        matrix = unit.only.matrix
        assert matrix is not None
        note(self.log, f"norm {unit.only.run} {unit.only.step} {matrix.info.name}")
        values = matrix.dense().double()
        if not values.isfinite().all():
            raise Unmeasurable(f"{matrix.info.name} has NaN entries")
        return {"norm": values.norm().numpy(), "draw": np.float64(context.generator().initial_seed())}


@dataclass(frozen=True)
class Change(Statistic):
    """pair with the base: ‖W − W0‖_F."""

    name, version, scope, against = "test_change", 1, "pair", "base"

    def compute(self, unit: Unit, context: Context) -> Result:
        one = unit.only
        assert one.matrix is not None and one.reference is not None
        return {"change": (one.matrix.dense().double() - one.reference.dense().double()).norm().numpy()}


@dataclass(frozen=True)
class Step(Statistic):
    """pair with the previous step: ‖W_t − W_{t−1}‖_F."""

    name, version, scope, against = "test_step", 1, "pair", "previous"

    def compute(self, unit: Unit, context: Context) -> Result:
        return Change.compute(self, unit, context)  # type: ignore[arg-type]  # the same formula


@dataclass(frozen=True)
class Relative(Statistic):
    """A statistic of statistics: ‖W − W0‖ / ‖W0‖ from two inputs, reading no matrix."""

    name, version, scope, against, reads_matrices = "test_relative", 1, "pair", "base", False

    def inputs(self) -> tuple[Statistic, ...]:
        return (Norm(), Change())

    def compute(self, unit: Unit, context: Context) -> Result:
        one = unit.only
        return {"ratio": one.statistics["test_change"]["change"] / one.reference_statistics["test_norm"]["norm"]}


@dataclass(frozen=True)
class Total(Statistic):
    """checkpoint: √Σ‖W‖² over its matrices, from their norms."""

    name, version, scope, reads_matrices = "test_total", 1, "checkpoint", False

    def inputs(self) -> tuple[Statistic, ...]:
        return (Norm(),)

    def compute(self, unit: Unit, context: Context) -> Result:
        norms = [o.statistics["test_norm"]["norm"] for o in unit.observations]
        return {"total": np.sqrt(np.sum(np.square(norms)))}


@dataclass(frozen=True)
class Trace(Statistic):
    """run, growing: the norms of one matrix over the steps, one row per step."""

    name, version, scope, grows = "test_trace", 1, "run", True
    log: str = ""

    def parameters(self) -> dict[str, Any]:
        return {}

    def compute(self, unit: Unit, context: Context) -> Result:
        rows = [] if unit.previous is None else list(unit.previous["rows"])
        for observation in unit.observations[unit.previous_count :]:
            assert observation.matrix is not None
            note(self.log, f"trace {observation.step}")
            rows.append([observation.step, float(observation.matrix.dense().double().norm())])
        return {"rows": np.array(rows)}


@dataclass(frozen=True)
class Series(Statistic):
    """run over whole checkpoints, from a checkpoint statistic: the totals, step by step."""

    name, version, scope, over, reads_matrices = "test_series", 1, "run", "checkpoint", False

    def inputs(self) -> tuple[Statistic, ...]:
        return (Total(),)

    def compute(self, unit: Unit, context: Context) -> Result:
        assert all(o.matrix is None and o.info is None for o in unit.observations)
        return {
            "step": np.array([o.step for o in unit.observations]),
            "total": np.array([o.statistics["test_total"]["total"] for o in unit.observations]),
        }


@dataclass(frozen=True)
class Together(Statistic):
    """runs: the largest change of each run, side by side."""

    name, version, scope, against = "test_together", 1, "runs", "base"

    def inputs(self) -> tuple[Statistic, ...]:
        return (Change(),)

    def compute(self, unit: Unit, context: Context) -> Result:
        largest: dict[str, float] = {}
        for one in unit.observations:
            largest[one.run] = max(largest.get(one.run, 0.0), float(one.statistics["test_change"]["change"]))
        return {"largest": np.array(list(largest.values()))}


@dataclass(frozen=True)
class Bisect(IterativeStatistic):
    """iterative: the whole number nearest below ‖W‖, found by halving."""

    name, version, scope = "test_bisect", 1, "matrix"
    upper: int = 64
    log: str = ""

    def parameters(self) -> dict[str, Any]:
        return {"upper": self.upper}

    def propose(self, results: Sequence[tuple[Trial, Result | Unmeasurable]]) -> Sequence[Trial]:
        low, high = 0, self.upper
        for trial, result in results:
            if isinstance(result, Unmeasurable):
                return ()
            low, high = (trial["at"], high) if result["above"] else (low, trial["at"])
        return [{"at": (low + high) // 2}] if high - low > 1 else ()

    def compute(self, unit: Unit, context: Context) -> Result:
        assert unit.trial is not None and unit.only.matrix is not None
        note(self.log, f"bisect {unit.trial['at']}")
        return {"above": np.array(float(unit.only.matrix.dense().double().norm()) >= unit.trial["at"])}


@dataclass(frozen=True)
class TopEntries(Statistic):
    """matrix with an extent: the k largest |entries|."""

    name, version, scope, extent_field = "test_top", 1, "matrix", "k"
    k: int = 3
    log: str = ""

    def parameters(self) -> dict[str, Any]:
        return {}

    def compute(self, unit: Unit, context: Context) -> Result:
        assert unit.only.matrix is not None
        note(self.log, f"top {self.k}")
        return {"top": unit.only.matrix.dense().abs().flatten().sort(descending=True).values[: self.k].numpy()}


@dataclass(frozen=True)
class Fragile(Statistic):
    """matrix: fails on matrices of one layer, always or so many times."""

    name, version, scope = "test_fragile", 1, "matrix"
    layer: int = 1
    times: int = 10**9
    log: str = ""

    def parameters(self) -> dict[str, Any]:
        return {"layer": self.layer}

    def refuses(self, info: MatrixInfo, reference: MatrixInfo | None) -> str | None:
        return "only up-projections" if info.name.endswith("down_proj") else None

    def compute(self, unit: Unit, context: Context) -> Result:
        info = unit.only.info
        assert info is not None
        where = f"fragile {unit.only.run} {unit.only.step} {info.name}"
        note(self.log, where)
        if info.layer == self.layer and calls(self.log).count(where) <= self.times:
            raise ArithmeticError(f"cannot do layer {info.layer}")
        return {"layer": np.int64(info.layer or 0)}


@dataclass(frozen=True)
class OnFragile(Statistic):
    """A statistic of one that fails."""

    name, version, scope, reads_matrices = "test_on_fragile", 1, "matrix", False
    log: str = ""
    times: int = 10**9

    def parameters(self) -> dict[str, Any]:
        return {}

    def inputs(self) -> tuple[Statistic, ...]:
        return (Fragile(log=self.log, times=self.times),)

    def compute(self, unit: Unit, context: Context) -> Result:
        return {"layer": unit.only.statistics["test_fragile"]["layer"] + 1}


@dataclass(frozen=True)
class Killer(Statistic):
    """matrix: the first time, the process that computes it is killed with signal 9."""

    name, version, scope = "test_killer", 1, "matrix"
    log: str = ""

    def compute(self, unit: Unit, context: Context) -> Result:
        assert unit.only.info is not None
        where = f"killer {unit.only.info.name}"
        first = where not in calls(self.log)
        note(self.log, where)
        if first and unit.only.info.layer == 1:
            os.kill(os.getpid(), 9)
        return {"alive": np.array(True)}


@dataclass(frozen=True)
class Slow(Statistic):
    """matrix: a result that takes its time, for tests that kill the driver."""

    name, version, scope = "test_slow", 1, "matrix"
    seconds: float = 0.05

    def compute(self, unit: Unit, context: Context) -> Result:
        assert unit.only.matrix is not None
        time.sleep(self.seconds)
        return {"sum": unit.only.matrix.dense().double().sum().numpy()}


class Everything(Analyzer):
    """Asks for the statistics it is given."""

    name, version = "everything", 1
    variables = (Variable("norm", ("run", "step", "matrix"), "Frobenius norm", source="textbook", key=True, log=True),)

    def __init__(self, *statistics: Statistic) -> None:
        super().__init__()
        self._statistics = statistics or (
            Norm(),
            Change(),
            Step(),
            Relative(),
            Total(),
            Trace(),
            Series(),
            Together(),
            Bisect(),
            TopEntries(),
        )

    def statistics(self) -> Sequence[Statistic]:
        return self._statistics

    def derive(self, view: View) -> Derived:
        return Derived(view.dataset({"norm": view.array(Norm(), "norm")}, self.variables))
