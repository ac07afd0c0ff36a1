"""What could not be measured, gathered from the plan and the store, and told apart: a problem, or by design.

A vector that has no spectrum, a base that is not compared with itself, a parameter that the user left out are by
design: the report lists them, and they leave the exit code at 0. The rest is a problem.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.compute.plan import Plan
    from pipeline.store import Failure, Store
    from pipeline.store.addresses import Skip

_SHOWN = 4


@dataclass(frozen=True)
class Finding:
    """One reason, with everything that it concerns: ("run", step, "matrix") and the statistics."""

    reason: str
    places: tuple[tuple[str, int | None, str | None], ...]
    statistics: tuple[str, ...]

    def __str__(self) -> str:
        runs = list(dict.fromkeys(run for run, _, _ in self.places if run))
        matrices = list(dict.fromkeys(matrix for _, _, matrix in self.places if matrix))
        steps = sorted({step for _, step, _ in self.places if step is not None})
        where = _few(runs) or "all runs"
        if steps:
            where += f", step {steps[0]}" if len(steps) == 1 else f", steps {steps[0]} to {steps[-1]}"
        what = f": {_few(matrices)}" if matrices else ""
        return f"{where}{what}: {self.reason} ({_few(list(self.statistics))})"


def skipped(skips: Iterable[Skip]) -> list[Finding]:
    """The skips that are problems, equal reasons together."""
    return _together((s.reason, (s.run, s.step, s.matrix), s.statistic or "") for s in skips if s.wrong)


def unmeasurable(store: Store, planned: Plan) -> list[Finding]:
    """Units whose stored answer, or that of a trial of theirs, is a reason: found in this run or an earlier one."""
    from analyzers.contract import IterativeStatistic  # brings torch, which no verb needs before it computes
    from pipeline.store.trials import reasons_of_trials

    found: list[tuple[str, tuple[str, int | None, str | None], str]] = []
    for p in planned.units.prepared:
        units = planned.units.found(p).units
        table = store.statistic(p.name)
        if isinstance(p.statistic, IterativeStatistic):
            for key, reason in reasons_of_trials(table, units).items():
                found.append((reason, (units[key].run or "", units[key].step, units[key].matrix), p.name))
            continue
        for key, reference in table.lookup(key for key in units if table.extent(key) is not None).items():
            if reference.reason is not None:
                unit = units[key]
                found.append((reference.reason, (unit.run or "", unit.step, unit.matrix), p.name))
    return _together(found)


def without_matrices(store: Store, runs: Iterable[str]) -> list[Finding]:
    """Checkpoints that hold tensors and not one matrix: nothing of them can be measured, and why."""
    found = []
    for run in runs:
        for checkpoint in store.checkpoints(run):
            if not store.matrices(checkpoint):
                why = "; ".join(f"{u.tensor}: {u.reason}" for u in store.unmeasured(checkpoint)[:_SHOWN])
                found.append((f"no matrix to measure ({why or 'no tensor'})", (run, checkpoint.step, None), "all"))
    return _together(found)


def failed(failures: Iterable[Failure]) -> list[Finding]:
    """Units that raised, after their retries."""
    return _together((f.error, (f.run or "", f.step, f.matrix), f.statistic) for f in failures)


def _together(found: Iterable[tuple[str, tuple[str, int | None, str | None], str]]) -> list[Finding]:
    places: dict[str, dict[tuple[str, int | None, str | None], None]] = defaultdict(dict)
    statistics: dict[str, dict[str, None]] = defaultdict(dict)
    for reason, place, statistic in found:
        places[reason][place] = None
        statistics[reason][statistic] = None
    return [Finding(reason, tuple(places[reason]), tuple(statistics[reason])) for reason in places]


def _few(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
