"""What could not be measured, gathered from the plan and the store, and told apart: a problem, or by design.

A vector that has no spectrum, a base that is not compared with itself, a parameter that the user left out are by
design: the report lists them, and they leave the exit code at 0. The rest is a problem.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pipeline.units.reasons import LISTED, cause

if TYPE_CHECKING:
    from pipeline.archive.types import Problem
    from pipeline.compute.plan import Plan
    from pipeline.store import Failure, Store
    from pipeline.units.addresses import Skip, UnitRef

_SHOWN = 4
_STEPS_SHOWN = 8
Place = tuple[str, int | None, str | None]


@dataclass(frozen=True)
class Finding:
    """One reason, with everything that it concerns: ("run", step, "matrix") and the statistics. `held`: how many units
    of which statistic have no value because these have none. `unit` is what the steps count."""

    reason: str
    places: tuple[Place, ...]
    statistics: tuple[str, ...]
    held: Mapping[str, int] = field(default_factory=dict)
    unit: str = "step"

    def __str__(self) -> str:
        runs = list(dict.fromkeys(run for run, _, _ in self.places if run))
        matrices = list(dict.fromkeys(matrix for _, _, matrix in self.places if matrix))
        steps = sorted({step for _, step, _ in self.places if step is not None})
        where = _few(runs) or "all runs"
        if steps:
            where += f", {_steps(steps, self.unit)}"
        what = f": {_few(matrices)}" if matrices else ""
        waiting = _few([f"{count} {name}" for name, count in self.held.items()])
        held = f"; therefore also missing: {waiting}" if waiting else ""
        return f"{where}{what}: {self.reason} ({_few(list(self.statistics))}{held})"


@dataclass(frozen=True)
class _MissingValue:
    """One value that is missing. `cause` is the reason that `reason` follows from, or `reason` itself."""

    reason: str
    cause: str
    place: Place
    statistic: str


def _entry(reason: str, place: Place, statistic: str, its_cause: str = "") -> _MissingValue:
    return _MissingValue(reason, its_cause or cause(reason)[0], place, statistic)


def skipped(skips: Iterable[Skip]) -> list[Finding]:
    """The skips that are problems and not listed as such already, equal reasons together."""
    return _together(
        _entry(s.reason, (s.run, s.step, s.matrix), s.statistic or "", s.cause)
        for s in skips
        if s.wrong and s.code != LISTED
    )


def in_lines(problems: Iterable[Problem]) -> list[str]:
    """One line per problem; those that say the same of several files are one."""
    alike: dict[Problem, dict[str, None]] = defaultdict(dict)
    for problem in problems:
        alike[replace(problem, path="")][problem.path] = None
    return [str(replace(problem, path=_few(list(paths)))) for problem, paths in alike.items()]


def unmeasurable(store: Store, planned: Plan) -> list[Finding]:
    """Units whose stored answer, or that of a trial of theirs, is a reason: found in this run or an earlier one."""
    from analyzers.contract import IterativeStatistic  # brings torch, which no verb needs before it computes
    from pipeline.units.trials import reasons_of_trials

    entries: list[_MissingValue] = []
    for p in planned.units.prepared:
        units, places = planned.units.found(p).units, planned.units.found(p).places
        table = store.statistic(p.name)
        if isinstance(p.statistic, IterativeStatistic):
            for key, reason in reasons_of_trials(table, units).items():
                entries.append(_entry(reason, (units[key].run or "", units[key].step, units[key].matrix), p.name))
            continue
        reasons = table.reasons(units)
        if not reasons:
            continue
        at = {key: [(unit.run, unit.step, unit.matrix)] for key in reasons for unit in (units[key],)}
        for place, key in places.items():  # equal checkpoints are one unit: each of them is named
            if key in reasons and place not in at[key]:
                at[key].append(place)
        entries += [_entry(reasons[key], (run or "", step, name), p.name) for key in at for run, step, name in at[key]]
    return _together(entries)


def without_matrices(store: Store, runs: Iterable[str]) -> list[Finding]:
    """Checkpoints that hold tensors and not one matrix: nothing of them can be measured, and why. One that could not be
    read in full is listed already."""
    entries = []
    for run in runs:
        for checkpoint in store.checkpoints(run):
            if not checkpoint.problems and not store.matrices(checkpoint):
                why = "; ".join(f"{u.tensor}: {u.reason}" for u in store.unmeasured(checkpoint)[:_SHOWN])
                place = (run, checkpoint.step, None)
                entries.append(_entry(f"no matrix to measure ({why or 'no tensor'})", place, "all"))
    return _together(entries)


def failed(failures: Iterable[Failure], blocked: Iterable[UnitRef] = ()) -> list[Finding]:
    """Units that raised, after their retries, with how many of those `blocked` wait for them."""
    failures = tuple(failures)
    waiting = _waiting({failure.key for failure in failures}, blocked)
    held: dict[str, Counter[str]] = defaultdict(Counter)
    for failure in failures:
        held[failure.error].update(waiting.get(failure.key, ()))
    listed = _together(_entry(f.error, (f.run or "", f.step, f.matrix), f.statistic) for f in failures)
    return [replace(finding, held={**finding.held, **held[finding.reason]}) for finding in listed]


def in_their_units(findings: Iterable[Finding], store: Store) -> list[Finding]:
    """The findings with the word for what the steps of their runs count."""
    of_runs = [(finding, {run for run, _, _ in finding.places}) for finding in findings]
    asked = {run for _, runs in of_runs for run in runs}
    units = {
        run.id: {c.step_unit for c in store.checkpoints(run.id) if c.step_source != "none"}
        for run in store.runs()
        if run.id in asked
    }
    listed: list[Finding] = []
    for finding, runs in of_runs:
        counted = {unit for run in runs for unit in units.get(run, ())}
        listed.append(replace(finding, unit=counted.pop() if len(counted) == 1 else finding.unit))
    return listed


def _waiting(failures: Collection[str], blocked: Iterable[UnitRef]) -> dict[str, list[str]]:
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


def _together(entries: Iterable[_MissingValue]) -> list[Finding]:
    """One finding per cause; what has no value because something else has none is counted with it, and not told again.

    Where the cause itself was not asked for (an input, a base that is no run), its consequences stand for it.
    """
    by_cause: dict[str, list[_MissingValue]] = defaultdict(list)
    for entry in entries:
        by_cause[entry.cause].append(entry)
    listed: list[Finding] = []
    for reason, entries_of in by_cause.items():
        direct = [entry for entry in entries_of if entry.reason == reason]
        if direct:
            held = Counter(entry.statistic for entry in entries_of if entry.reason != reason)
            listed.append(Finding(reason, _places(direct), _statistics(direct), dict(held)))
            continue
        by_reason: dict[str, list[_MissingValue]] = defaultdict(list)
        for entry in entries_of:
            by_reason[cause(entry.reason)[0]].append(entry)
        listed += [Finding(own, _places(group), _statistics(group)) for own, group in by_reason.items()]
    return listed


def _places(entries: Sequence[_MissingValue]) -> tuple[Place, ...]:
    return tuple(dict.fromkeys(entry.place for entry in entries))


def _statistics(entries: Sequence[_MissingValue]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(entry.statistic for entry in entries))


def _steps(steps: list[int], unit: str) -> str:
    """Every step where they are few, else how many between which: a bare range would name others that are well."""
    if len(steps) == 1:
        return f"{unit} {steps[0]}"
    if len(steps) <= _STEPS_SHOWN:
        return f"{unit}s " + ", ".join(map(str, steps))
    return f"{len(steps)} {unit}s from {steps[0]} to {steps[-1]}"


def _few(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
