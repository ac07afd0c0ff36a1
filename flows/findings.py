"""What could not be measured, gathered from the plan and the store, and told apart: a problem, or by design.

A vector that has no spectrum, a base that is not compared with itself, a parameter that the user left out are by
design: the report lists them, and they leave the exit code at 0. The rest is a problem.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pipeline.store.reasons import cause

if TYPE_CHECKING:
    from pipeline.compute.plan import Plan
    from pipeline.store import Failure, Store
    from pipeline.store.addresses import Skip, UnitAddress

_SHOWN = 4
_STEPS_SHOWN = 8
Place = tuple[str, int | None, str | None]


@dataclass(frozen=True)
class Finding:
    """One reason, with everything that it concerns: ("run", step, "matrix") and the statistics. `held`: how many units
    of which statistic have no value because these have none."""

    reason: str
    places: tuple[Place, ...]
    statistics: tuple[str, ...]
    held: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        runs = list(dict.fromkeys(run for run, _, _ in self.places if run))
        matrices = list(dict.fromkeys(matrix for _, _, matrix in self.places if matrix))
        steps = sorted({step for _, step, _ in self.places if step is not None})
        where = _few(runs) or "all runs"
        if steps:
            where += f", {_steps(steps)}"
        what = f": {_few(matrices)}" if matrices else ""
        waiting = _few([f"{count} {name}" for name, count in self.held.items()])
        held = f"; so are missing: {waiting}" if waiting else ""
        return f"{where}{what}: {self.reason} ({_few(list(self.statistics))}{held})"


def skipped(skips: Iterable[Skip]) -> list[Finding]:
    """The skips that are problems, equal reasons together."""
    return _together((s.reason, (s.run, s.step, s.matrix), s.statistic or "") for s in skips if s.wrong)


def unmeasurable(store: Store, planned: Plan) -> list[Finding]:
    """Units whose stored answer, or that of a trial of theirs, is a reason: found in this run or an earlier one."""
    from analyzers.contract import IterativeStatistic  # brings torch, which no verb needs before it computes
    from pipeline.store.trials import reasons_of_trials

    found: list[tuple[str, Place, str]] = []
    for p in planned.units.prepared:
        units, places = planned.units.found(p).units, planned.units.found(p).places
        table = store.statistic(p.name)
        if isinstance(p.statistic, IterativeStatistic):
            for key, reason in reasons_of_trials(table, units).items():
                found.append((reason, (units[key].run or "", units[key].step, units[key].matrix), p.name))
            continue
        reasons = table.reasons(units)
        at = {key: [(unit.run, unit.step, unit.matrix)] for key, unit in units.items() if key in reasons}
        for place, key in places.items():  # equal checkpoints are one unit: each of them is named
            if key in reasons and place not in at[key]:
                at[key].append(place)
        found += [(reasons[key], (run or "", step, name), p.name) for key in at for run, step, name in at[key]]
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


def failed(failures: Iterable[Failure], blocked: Iterable[UnitAddress] = ()) -> list[Finding]:
    """Units that raised, after their retries, with how many of those `blocked` wait for them."""
    failures = tuple(failures)
    waiting = _waiting({failure.key for failure in failures}, blocked)
    held: dict[str, Counter[str]] = defaultdict(Counter)
    for failure in failures:
        held[failure.error].update(waiting.get(failure.key, ()))
    found = _together((f.error, (f.run or "", f.step, f.matrix), f.statistic) for f in failures)
    return [replace(finding, held={**finding.held, **held[finding.reason]}) for finding in found]


def _waiting(failures: Collection[str], blocked: Iterable[UnitAddress]) -> dict[str, list[str]]:
    """By the key of a failed unit: the statistics of the units that wait for it, directly or through others. A unit
    that waits for several is counted with the first. `blocked` is in the order of the rounds."""
    root = {key: key for key in failures}
    found: dict[str, list[str]] = defaultdict(list)
    for unit in blocked:
        of = next((root[key] for _, key in unit.input_keys if key in root), None)
        if of is not None:
            root[unit.key] = of
            found[of].append(unit.statistic.name)
    return found


def _together(found: Iterable[tuple[str, Place, str]]) -> list[Finding]:
    """One finding per reason; what lacks an input for a reason is counted with it, and not told again."""
    places: dict[str, dict[Place, None]] = defaultdict(dict)
    statistics: dict[str, dict[str, None]] = defaultdict(dict)
    held: dict[str, Counter[str]] = defaultdict(Counter)
    for reason, place, statistic in found:
        own, of_input = cause(reason)
        places[own][place] = None
        if of_input:
            held[own][statistic] += 1
        else:
            statistics[own][statistic] = None
    return [
        Finding(own, tuple(places[own]), tuple(statistics[own]), dict(held[own]))
        if statistics[own]
        else Finding(own, tuple(places[own]), tuple(held[own]))  # the input itself was not asked for
        for own in places
    ]


def _steps(steps: list[int]) -> str:
    """Every step where they are few, else how many between which: a bare range would name others that are well."""
    if len(steps) == 1:
        return f"step {steps[0]}"
    if len(steps) <= _STEPS_SHOWN:
        return "steps " + ", ".join(map(str, steps))
    return f"{len(steps)} steps from {steps[0]} to {steps[-1]}"


def _few(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
