"""What has to be computed: the units that the analyzers ask for and the store does not hold, inputs included.

One plan for all runs and analyzers. Units are deduplicated by content key, so a base that ten runs share is measured
once; an input is planned only where a unit that needs it is missing.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from analyzers.contract import Analyzer, IterativeStatistic
from pipeline.compute.groups import Group, group_units
from pipeline.units.addresses import Skip, UnitRef
from pipeline.units.found import KeyedUnits, joined
from pipeline.units.prepared import Prepared
from pipeline.units.selection import EVERYTHING, Selection
from pipeline.units.sources import Sources
from pipeline.units.trials import replay
from pipeline.units.units import Units

if TYPE_CHECKING:
    from pipeline.store.store import Store


@dataclass(frozen=True)
class Stage:
    """The missing units of one statistic. `wanted` are all its units that are asked for or needed; `further` is about
    how many trials a search will ask for after `jobs`. Both lists make their units when they are gone through."""

    prepared: Prepared
    wanted: KeyedUnits
    jobs: Sequence[UnitRef]
    further: int = 0


@dataclass(frozen=True)
class Missing:
    """Units without a stored result (of an iterative statistic: its next trials), how many are `stored`, and about how
    many trials will come after."""

    jobs: Sequence[UnitRef]
    stored: int
    further: int = 0


@dataclass(frozen=True)
class Plan:
    """The missing units, stage by stage, inputs first; how many are `present`; and what has no unit (`skips`).

    An iterative statistic shows its next trials only: what follows depends on their results.
    """

    units: Units
    stages: tuple[Stage, ...]
    present: int
    skips: tuple[Skip, ...]

    @cached_property
    def jobs(self) -> Sequence[UnitRef]:
        """All missing units."""
        return joined([stage.jobs for stage in self.stages])

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The jobs as they go to workers, inputs first, then the longest first."""
        return tuple(g for level in self.levels for g in group_units(joined([stage.jobs for stage in level])))

    @property
    def levels(self) -> tuple[tuple[Stage, ...], ...]:
        """Stages in topological levels: those of one level need only results of lower ones."""
        sorted_in: dict[int, list[Stage]] = {}
        for stage in self.stages:
            sorted_in.setdefault(stage.prepared.level, []).append(stage)
        return tuple(tuple(sorted_in[level]) for level in sorted(sorted_in))

    @property
    def missing(self) -> int:
        """How many units are to be computed (of an iterative statistic: so far)."""
        return len(self.jobs)

    @property
    def further(self) -> int:
        """About how many trials the searches will ask for beyond `missing`."""
        return sum(stage.further for stage in self.stages)

    @property
    def seconds(self) -> float:
        """Estimated CPU seconds of one thread for all jobs together."""
        return sum(group.seconds for group in self.groups)

    @property
    def memory_bytes(self) -> int:
        """Estimated peak of the largest job."""
        return max((group.memory_bytes for group in self.groups), default=0)


def plan(store: Store, analyzers: Iterable[Analyzer], selection: Selection = EVERYTHING) -> Plan:
    """What `compute` would do. Reads documents and indexes, no tensor.

    Raises `ParameterError` for an unknown run, `ContractError` for statistics that break the contract.
    """
    return plan_units(store, find_units(store, analyzers, selection))


def find_units(store: Store, analyzers: Iterable[Analyzer], selection: Selection) -> Units:
    """The units of all statistics that the analyzers declare."""
    statistics = [statistic for analyzer in analyzers for statistic in analyzer.statistics()]
    return Units(Sources(store, selection), statistics)


def plan_units(store: Store, units: Units) -> Plan:
    """The plan for units found before."""
    for p in units.prepared:
        if p.identity in units.asked:
            units.of(p)
    demanded = {p.identity: _NeededRows() for p in units.prepared}
    stages: list[Stage] = []
    skips: list[Skip] = []
    present = 0
    trials: set[str] = set()
    for p in reversed(units.prepared):  # what needs others comes first, so that all demands on those are known
        found = units.found(p)
        rows = demanded.pop(p.identity)
        if p.identity in units.asked:
            rows.add_all(found.places.rows)
            skips.extend(found.skips)
        wanted = found.units.some(rows.array)
        missing = missing_jobs(store, p, wanted, skips)
        present += missing.stored
        jobs = missing.jobs
        if isinstance(p.statistic, IterativeStatistic):
            jobs = tuple(job for job in jobs if job.key not in trials)  # a trial can be shared by two searches
            trials.update(job.key for job in jobs)
        if p.inputs:
            _demand(units, p, jobs, demanded)
        if missing.jobs:
            stages.append(Stage(p, wanted, jobs, missing.further))
    stages.sort(key=lambda stage: stage.prepared.level)
    return Plan(units, tuple(stages), present, tuple(dict.fromkeys((*units.sources.skips, *skips))))


class _NeededRows:
    """Which units of a statistic are needed, by the rows of their keys."""

    def __init__(self) -> None:
        self._marks = bytearray()

    def add(self, row: int) -> None:
        """One more."""
        if row >= len(self._marks):
            self._marks.extend(bytes(row + 1 - len(self._marks)))
        self._marks[row] = 1

    def add_all(self, rows: Sequence[int]) -> None:
        """Several more."""
        for row in rows:
            self.add(row)

    @property
    def array(self) -> array[int]:
        """All of them, ascending."""
        return array("i", (row for row, mark in enumerate(self._marks) if mark))


def _demand(units: Units, p: Prepared, jobs: Iterable[UnitRef], demanded: Mapping[str, _NeededRows]) -> None:
    """Marks the units that the jobs of a statistic need as inputs."""
    of = {one.name: (demanded[one.identity], units.found(one).index) for one in p.inputs}
    for job in jobs:
        for name, key in job.input_keys:
            rows, index = of[name]
            row = index.get(key)
            assert row is not None
            rows.add(row)


def missing_jobs(store: Store, p: Prepared, wanted: KeyedUnits, skips: list[Skip]) -> Missing:
    """What is missing of the wanted units."""
    table = store.statistic(p.name)
    if not isinstance(p.statistic, IterativeStatistic):
        jobs = wanted.where(table.extents(wanted.keys) < p.statistic.extent)
        return Missing(jobs, len(wanted) - len(jobs))
    trials: list[UnitRef] = []
    stored = further = 0
    for unit in wanted:
        try:
            search = replay(table, unit)
        except Exception as error:  # a plugin's `propose`: it costs this unit
            reason = f"its search cannot continue: {type(error).__name__}: {error}"
            skips.append(Skip(unit.run or "", unit.step, unit.matrix, p.name, reason, wrong=True))
            continue
        trials.extend(search.missing)
        stored += len(search.finished)
        further += search.further
    return Missing(tuple(trials), stored, further)
