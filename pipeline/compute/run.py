"""Carries a plan out: rounds of groups to a cluster, results to the store. The driver is the one writer.

    summary = compute(store, analyzers)                       # everything, in this process
    for round in iter_rounds(store, planned):                 # or in pieces, for a flow that wraps them in tasks
        run_groups(store, round.groups, cluster)

Every finished group is written at once, so a crash loses at most the units in flight.
"""

from __future__ import annotations

import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from analyzers.contract import Analyzer, IterativeStatistic, Result, Statistic
from pipeline.compute.allocator import collector_spared
from pipeline.compute.cluster import Cluster, open_cluster
from pipeline.compute.events import (
    ClusterOpened,
    Compacted,
    GroupFinished,
    Planned,
    Progress,
    RoundStarted,
    UnitFailed,
    UnitRetried,
    silent,
)
from pipeline.compute.groups import Group, group_units, shared_out
from pipeline.compute.pace import samples_first, seconds_by_statistic
from pipeline.compute.plan import Plan, missing_jobs, plan
from pipeline.compute.profile import Profile
from pipeline.compute.provenance import provenance
from pipeline.compute.work import CACHE_BYTES, GroupWork, Previous, UnitOutcome, run_group
from pipeline.store.clock import Seconds, Spent
from pipeline.store.failures import Failure
from pipeline.store.statistics import ResultReference, StatisticTable
from pipeline.units.addresses import Skip, UnitRef
from pipeline.units.found import AddressList, joined
from pipeline.units.selection import EVERYTHING, Selection
from pipeline.units.trials import is_stored

if TYPE_CHECKING:
    from pipeline.store.store import Store

ATTEMPTS = 3
"""A unit is tried with its group once, then alone twice."""
COMPACT_BATCHES = 32
BATCH_SECONDS = 60.0
"""Estimated seconds of wall time in one batch: a Prefect task each, and workers idle only at its end."""
Call = Callable[[Callable[[Sequence[Group]], "Tally"], Sequence[Sequence[Group]]], Iterable["Tally"]]
"""Calls a function on each batch, in order; `map`, or something that wraps each call."""


@dataclass(frozen=True)
class Round:
    """Groups that wait for nothing, and the units that cannot run because an input of theirs failed. `after`: how many
    units come in later rounds, about where searches go on."""

    groups: tuple[Group, ...]
    blocked: tuple[UnitRef, ...] = ()
    after: int = 0

    @property
    def seconds(self) -> float:
        """Estimated CPU seconds of one thread."""
        return sum(group.seconds for group in self.groups)


@dataclass(frozen=True)
class Tally:
    """What came of some groups. `measured` and `unmeasurable` count units."""

    measured: int = 0
    unmeasurable: int = 0
    failures: tuple[Failure, ...] = ()

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.measured + other.measured,
            self.unmeasurable + other.unmeasurable,
            self.failures + other.failures,
        )


@dataclass(frozen=True)
class Summary:
    """What a computation did. `present` units were in the store already; `unmeasurable` are newly found to have no
    value; `failures` and `blocked` (for want of a failed input) are tried again by the next call."""

    present: int
    measured: int
    unmeasurable: int
    failures: tuple[Failure, ...]
    blocked: tuple[UnitRef, ...]
    skips: tuple[Skip, ...]
    seconds: float
    cluster: str

    @property
    def complete(self) -> bool:
        """Whether every unit has a result, or a reason for having none."""
        return not self.failures and not self.blocked


@collector_spared()
def compute(
    store: Store,
    analyzers: Iterable[Analyzer],
    cluster: Cluster | None = None,
    progress: Progress = silent,
    selection: Selection = EVERYTHING,
    cache_bytes: int = CACHE_BYTES,
    profile: Profile | None = None,
) -> Summary:
    """Brings into the store what the analyzers need. Without a cluster, threads of this process or processes of this
    machine, as the work suggests. See `carry_out`."""
    planned = plan(store, analyzers, selection)
    progress(Planned(planned.present, planned.missing, planned.further, len(planned.skips), planned.seconds))
    with nullcontext(cluster) if cluster is not None or not planned.missing else open_cluster(plan=planned) as opened:
        return carry_out(store, planned, opened, progress, cache_bytes, profile)


def carry_out(
    store: Store,
    planned: Plan,
    cluster: Cluster | None,
    progress: Progress = silent,
    cache_bytes: int = CACHE_BYTES,
    profile: Profile | None = None,
    call: Call = map,
) -> Summary:
    """Computes what a plan misses; `cluster` may be None where it misses nothing.

    A unit that fails is tried again alone, twice, then recorded with its traceback; the rest goes on. Interrupting
    leaves a good store: the same call completes it. `profile` gets where the time went. `call` calls each batch of
    groups, one after the other in this thread: one batch at a time writes to the store.
    """
    started = time.perf_counter()
    total = Tally()
    blocked: list[UnitRef] = []
    if cluster is not None and planned.missing:
        workers = max(cluster.workers, 1)
        progress(ClusterOpened(cluster.name, workers, seconds_by_statistic(planned.groups)))

        def run(batch: Sequence[Group]) -> Tally:
            return run_groups(store, batch, cluster, progress, cache_bytes, profile)

        for coming in iter_rounds(store, planned):
            units = sum(len(group.units) for group in coming.groups)
            progress(RoundStarted(units, coming.after, seconds_by_statistic(coming.groups)))
            blocked += coming.blocked
            batches = list(batched(samples_first(coming.groups, workers), BATCH_SECONDS * workers))
            total = sum(call(run, batches), total)
        compact(store, {stage.prepared.name for stage in planned.stages}, progress)
    return Summary(
        planned.present,
        total.measured,
        total.unmeasurable,
        total.failures,
        tuple(blocked),
        planned.skips,
        time.perf_counter() - started,
        cluster.name if cluster is not None else "nothing to do",
    )


def batched(groups: Sequence[Group], seconds: float) -> Iterator[tuple[Group, ...]]:
    """Consecutive groups of about `seconds` estimated CPU time together."""
    batch: list[Group] = []
    taken = 0.0
    for group in groups:
        if batch and taken + group.seconds > seconds:
            yield tuple(batch)
            batch, taken = [], 0.0
        batch.append(group)
        taken += group.seconds
    if batch:
        yield tuple(batch)


def iter_rounds(store: Store, planned: Plan) -> Iterator[Round]:
    """The plan as rounds. Ask for the next one when the groups of the last have been run: an iterative statistic
    proposes by their results. No unit is offered twice."""
    levels = planned.levels
    for number, level in enumerate(levels):
        later = sum(len(stage.jobs) + stage.further for after in levels[number + 1 :] for stage in after)
        offered: set[str] = set()
        jobs = joined([stage.jobs for stage in level])
        further = sum(stage.further for stage in level)
        searches = [stage for stage in level if isinstance(stage.prepared.statistic, IterativeStatistic)]
        while len(jobs):
            if searches:
                offered.update(job.key for job in jobs)
            ready, blocked = _ready(store, jobs)
            yield Round(group_units(ready), blocked, further + later)
            more = [missing_jobs(store, stage.prepared, stage.wanted, []) for stage in searches]
            new = {job.key: job for missing in more for job in missing.jobs if job.key not in offered}
            jobs, further = tuple(new.values()), sum(missing.further for missing in more)


def _ready(store: Store, jobs: Sequence[UnitRef]) -> tuple[Sequence[UnitRef], tuple[UnitRef, ...]]:
    """Jobs whose inputs are stored, and those that lack one."""
    tables: dict[str, StatisticTable] = {}  # each is looked at once: a table lists its folder to see what is new
    ready = array("i")
    blocked: list[UnitRef] = []
    for number, job in enumerate(jobs):
        extents = {one.name: one.extent for one in job.statistic.inputs()} if job.input_keys else {}
        for name in extents.keys() - tables.keys():
            tables[name] = store.statistic(name)
        if all(is_stored(tables[name], key, extents[name]) for name, key in job.input_keys):
            ready.append(number)
        else:
            blocked.append(job)
    return AddressList(jobs.__getitem__, ready) if blocked else jobs, tuple(blocked)


@dataclass
class _Driver:
    """The state of one `run_groups`: what waits, what is in flight, and how often a unit was tried. `suspects` are
    units that were with a worker when it died, `inputs` the digests of the batches that a group reads, by its keys."""

    store: Store
    cluster: Cluster
    progress: Progress
    waiting: deque[Group]
    cache_bytes: int
    profile: Profile | None = None
    flying: dict[Any, Group] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    suspects: set[str] = field(default_factory=set)
    inputs: dict[tuple[str, ...], dict[str, str] | None] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    measured: int = 0
    unmeasurable: int = 0


def run_groups(
    store: Store,
    groups: Sequence[Group],
    cluster: Cluster,
    progress: Progress = silent,
    cache_bytes: int = CACHE_BYTES,
    profile: Profile | None = None,
) -> Tally:
    """Computes groups that wait for nothing and stores their results. What fails is recorded, not raised. `profile`
    gets where the time went.

    Raises `ComputeError` when the cluster is lost; everything finished before is stored.
    """
    if not groups:
        return Tally()
    cluster.check_store(store.path.resolve())
    groups = shared_out(groups, cluster.workers)
    driver = _Driver(store, cluster, progress, deque(groups), cache_bytes, profile)
    started, worked = time.perf_counter(), profile.worked if profile else 0.0
    try:
        _fill(driver)
        while driver.flying:
            done = [(driver.flying.pop(handle), handle) for handle in cluster.wait()]
            finished = [(group, _outcomes(driver, group, handle)) for group, handle in done]
            _fill(driver)  # workers go on while the results are written
            with _driving(driver, "write"):
                _store_outcomes(driver, finished)
            _fill(driver)
    finally:
        if profile is not None:
            profile.idle(cluster.workers, time.perf_counter() - started, profile.worked - worked)
        by_statistic: dict[str, list[Failure]] = {}
        for failure in driver.failures:
            by_statistic.setdefault(failure.statistic, []).append(failure)
        for name, failures in by_statistic.items():
            store.record_failures(name, failures)
    return Tally(driver.measured, driver.unmeasurable, tuple(driver.failures))


def _fill(driver: _Driver) -> None:
    """Keeps the workers busy, and no more in flight than that takes."""
    limit = 2 * driver.cluster.workers + 1
    path = str(driver.store.path.resolve())
    while driver.waiting and len(driver.flying) < limit:
        # Beside a unit that kills its worker others would be blamed for its death, too: a suspect flies alone.
        near = (driver.waiting[0], *driver.flying.values())
        if driver.suspects and driver.flying and any(_is_suspect(driver, one) for one in near):
            break
        waiting = driver.waiting.popleft()
        group = replace(waiting, units=tuple(waiting.units))
        with _driving(driver, "pipeline"):
            work = _work(driver.store, group)
            driver.inputs[group.keys] = _digests(driver.store, work)
        handle = driver.cluster.submit(
            run_group,
            path,
            work,
            driver.cluster.device,
            driver.cache_bytes,
            driver.profile is not None,
            device=group.device,
        )
        driver.flying[handle] = group


def _is_suspect(driver: _Driver, group: Group) -> bool:
    return any(key in driver.suspects for key in group.keys)


def _driving(driver: _Driver, phase: str) -> AbstractContextManager[None]:
    return driver.profile.driving(phase) if driver.profile is not None else nullcontext()


def _work(store: Store, group: Group) -> GroupWork:
    """The group with the places of its inputs, and of earlier results that grow."""
    wanted: dict[str, set[str]] = {}
    for unit in group.units:
        for name, key in unit.input_keys:
            wanted.setdefault(name, set()).add(key)
    inputs: list[ResultReference] = []
    for name, keys in wanted.items():
        inputs.extend(store.statistic(name).lookup(sorted(keys)).values())
    previous: dict[str, Previous] = {}
    if group.statistic.grows:
        table = store.statistic(group.statistic.name)
        for unit in group.units:
            for index, key in enumerate(unit.prefixes):
                if is_stored(table, key, group.statistic.extent):
                    previous[unit.key] = Previous(len(unit.prefixes) - index, table.lookup([key])[key])
                    break
    return GroupWork(group, tuple(inputs), previous)


def _digests(store: Store, work: GroupWork) -> dict[str, str] | None:
    """The batches that a group's stored inputs are in, with their digests; None as in `StatisticTable.digests`."""
    references = (*work.inputs, *(previous.reference for previous in work.previous.values()))
    by_statistic: dict[str, list[ResultReference]] = {}
    for reference in references:
        by_statistic.setdefault(reference.statistic, []).append(reference)
    found: dict[str, str] = {}
    for name, members in by_statistic.items():
        digests = store.statistic(name).digests(members)
        if digests is None:
            return None
        found |= digests
    return found


def _outcomes(driver: _Driver, group: Group, handle: Any) -> list[UnitOutcome]:
    """The outcomes of a group; when it was lost as a whole (its worker died), each unit failed in the same way."""
    try:
        outcomes: list[UnitOutcome] = driver.cluster.result(handle)
    except Exception as error:  # KilledWorker, a store that a worker cannot read, memory: the units are tried alone
        said = f"{type(error).__name__}: {error}"
        return [UnitOutcome(key, error=said, traceback=said) for key in group.keys]
    return outcomes


def _store_outcomes(driver: _Driver, finished: Sequence[tuple[Group, list[UnitOutcome]]]) -> None:
    """Writes what has come, one batch per statistic and device, and sends failed units back to be tried alone."""
    batches: dict[tuple[int, str], tuple[Statistic, list[tuple[str, Result | str]]]] = {}
    inputs: dict[int, dict[str, str] | None] = {}
    for group, outcomes in finished:
        if driver.profile is not None:
            spent = _together(outcome.spent for outcome in outcomes)
            driver.profile.add(group.statistic.name, spent, units=len(outcomes))
        known, more = inputs.get(id(group.statistic), {}), driver.inputs.pop(group.keys, {})
        inputs[id(group.statistic)] = None if known is None or more is None else known | more
        for outcome in outcomes:
            if outcome.error is None:
                value = outcome.result if outcome.result is not None else outcome.reason or "no reason given"
                at = (id(group.statistic), outcome.device)
                batches.setdefault(at, (group.statistic, []))[1].append((outcome.key, value))
    for (_, device), (statistic, batch) in batches.items():
        driver.store.statistic(statistic.name).write(
            batch, statistic.extent, provenance(statistic, device, inputs[id(statistic)])
        )
    for group, outcomes in finished:
        alone = {single.units[0].key: single for single in group.alone()}
        measured = sum(outcome.result is not None for outcome in outcomes)
        unmeasurable = sum(outcome.reason is not None for outcome in outcomes)
        failed = sum(_failed(driver, alone[outcome.key], outcome) for outcome in outcomes if outcome.error is not None)
        driver.measured += measured
        driver.unmeasurable += unmeasurable
        share = group.seconds * (measured + unmeasurable + failed) / max(1, len(outcomes))
        took = sum(outcome.seconds for outcome in outcomes)
        driver.progress(GroupFinished(group.statistic.name, measured, unmeasurable, failed, share, took))


def _together(shares: Iterable[Spent]) -> Spent:
    total: dict[str, Seconds] = {}
    for share in shares:
        for phase, seconds in share.items():
            total[phase] = total.get(phase, Seconds()) + seconds
    return total


def _failed(driver: _Driver, alone: Group, outcome: UnitOutcome) -> int:
    """Sends a failed unit back, or records it (1) after its last attempt."""
    unit = alone.units[0]
    tried = driver.attempts.get(outcome.key, 0) + 1
    driver.attempts[outcome.key] = tried
    error = outcome.error or ""
    if "KilledWorker" in error:
        driver.suspects.add(outcome.key)
    if tried < ATTEMPTS and not outcome.final:
        driver.progress(UnitRetried(str(unit), error, tried + 1))
        driver.waiting.append(alone)
        return 0
    driver.progress(UnitFailed(str(unit), error))
    driver.failures.append(
        Failure(outcome.key, error, outcome.traceback, unit.run, unit.step, unit.matrix, unit.statistic.name)
    )
    return 1


def compact(store: Store, statistics: Iterable[str], progress: Progress = silent) -> None:
    """Merges the small batches of statistics that have many, so that a store has few files."""
    for name in sorted(statistics):
        if merged := store.statistic(name).compact(COMPACT_BATCHES):
            progress(Compacted(name, merged))
