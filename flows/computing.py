"""The stage that computes: one plan, rounds of groups, batches of groups as pieces of work, and one writer."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analyzers.errors import ParameterError
from flows import console
from flows.findings import Finding, failed, in_their_units, skipped, unmeasurable, without_matrices
from flows.options import AnalyzeOptions
from flows.running import Failed, Runner
from pipeline.archive.recipes import tensors_of
from pipeline.compute.allocator import collector_spared
from pipeline.selection import parse_steps

if TYPE_CHECKING:
    from analyzers.contract import Analyzer
    from pipeline.compute.cluster import Cluster
    from pipeline.compute.events import Event
    from pipeline.compute.groups import Group
    from pipeline.compute.pace import Pace
    from pipeline.compute.plan import Plan
    from pipeline.compute.profile import Profile
    from pipeline.compute.run import Round, Tally
    from pipeline.store import Store
    from pipeline.store.addresses import UnitAddress

BATCH_SECONDS = 60.0
"""Estimated seconds of wall time in one batch: a Prefect task each, and workers idle only at its end."""


@dataclass(frozen=True)
class Computed:
    """What a computation did, in units, and what could not be measured."""

    present: int
    measured: int
    failures: int
    findings: tuple[Finding, ...]
    seconds: float
    profile: Mapping[str, Any] | None = None


def check_scheduler(options: AnalyzeOptions) -> None:
    """Fails within seconds, before any reading, when a given scheduler cannot be used. Raises `ComputeError`."""
    if options.scheduler is not None:
        from pipeline.compute.cluster import open_cluster

        with open_cluster(scheduler=options.scheduler, device=options.device):
            pass


def make_plan(store: Store, analyzers: Sequence[Analyzer], options: AnalyzeOptions, runs: Sequence[str]) -> Plan:
    """What is to be computed for the archive's runs."""
    from pipeline.compute.plan import plan

    return plan(store, analyzers, runs, options.include, options.exclude, parse_steps(options.steps))


@collector_spared()
def compute(
    store: Store, analyzers: Sequence[Analyzer], options: AnalyzeOptions, runs: Sequence[str], runner: Runner
) -> Computed:
    """Computes what is missing. A unit that fails is recorded; only a lost cluster stops the rest."""
    from pipeline.compute.cluster import open_cluster
    from pipeline.compute.pace import Pace, samples_first, seconds_by_statistic
    from pipeline.compute.profile import Profile
    from pipeline.compute.run import compact, iter_rounds

    _require_a_match(store, options, runs)
    planned = make_plan(store, analyzers, options, runs)
    started = time.monotonic()
    measured, failures = 0, 0
    blocked: list[UnitAddress] = []
    profile = Profile() if options.profile else None
    if tell_plan(planned):
        with (
            open_cluster(options.workers, options.scheduler, options.device, planned) as cluster,
            console.progress("computing", planned.missing + planned.further) as advance,
        ):
            console.say(f"Computing on {cluster.name}.")
            pace = Pace(seconds_by_statistic(planned.groups), cluster.workers, time.monotonic())
            bar = _Bar(advance, planned.missing + planned.further, pace)
            for one in iter_rounds(store, planned):
                bar.expect(one)
                blocked += one.blocked
                groups = samples_first(one.groups, cluster.workers)
                for tally in _batches(store, groups, cluster, bar, runner, options, profile):
                    measured += tally.measured + tally.unmeasurable
                    failures += len(tally.failures)
            bar.close()
            compact(store, {stage.prepared.name for stage in planned.stages})
    findings = [
        *without_matrices(store, runs),
        *unmeasurable(store, planned),
        *skipped(planned.skips),
        *failed(planned.units.standing(store.failures()), blocked),
    ]
    return Computed(
        planned.present,
        measured,
        failures + len(blocked),
        tuple(in_their_units(findings, store)),
        time.monotonic() - started,
        profile.as_data() if profile else None,
    )


def _require_a_match(store: Store, options: AnalyzeOptions, runs: Sequence[str]) -> None:
    """Raises `ParameterError` when --include and --exclude leave nothing of an archive that has matrices."""
    from pipeline.compute.plan import select

    if not (options.include or options.exclude):
        return
    chosen = select(include=options.include, exclude=options.exclude)
    newest = (record for run in runs for record in store.checkpoints(run)[-1:])
    specs = [matrix.spec for record in newest for matrix in store.matrices(record)]
    if specs and all(chosen.excluded((spec.name, *tensors_of(spec.recipe))) for spec in specs):
        given = [f"--include {glob!r}" for glob in options.include] + [f"--exclude {g!r}" for g in options.exclude]
        names = list(dict.fromkeys(spec.name for spec in specs))
        some = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise ParameterError(f"{' '.join(given)}: no matrix remains; the archive has: {some}")


def tell_plan(planned: Plan) -> bool:
    """Says what there is to do; False when there is nothing."""
    from pipeline.compute.calibration import current
    from pipeline.compute.estimate import estimate

    if not planned.missing:
        console.say(console.nothing_to_compute(planned.present))
        return False
    expected = estimate(planned, current())
    further = f", about {console.number(planned.further)} of them as searches continue" if planned.further else ""
    there = f" ({console.plural(planned.present, 'unit')} already in the store)" if planned.present else ""
    console.say(
        f"To compute: {console.plural(planned.missing + planned.further, 'unit')}{further}{there}; "
        f"about {console.duration(expected.phases.compute)} on one core"
    )
    return True


class _Bar:
    """Turns events into progress. Where searches go on the total is an estimate, corrected at every round."""

    def __init__(self, advance: console.Advance, total: int, pace: Pace) -> None:
        self.advance = advance
        self.done = 0
        self.total = total
        self.pace = pace

    def expect(self, coming: Round) -> None:
        """A new round, and what is known by now to come after it."""
        from pipeline.compute.pace import seconds_by_statistic

        self.total = self.done + sum(len(group.units) for group in coming.groups) + coming.after
        self.pace.expect(seconds_by_statistic(coming.groups))
        self.advance(self.done, total=self.total)

    def close(self) -> None:
        """Nothing comes any more."""
        self.advance(self.done, total=self.done)

    def __call__(self, event: Event, /) -> None:
        from pipeline.compute.events import GroupFinished, UnitRetried

        if isinstance(event, GroupFinished):
            now = time.monotonic()
            self.done += event.measured + event.unmeasurable + event.failed
            self.total = max(self.total, self.done)
            self.pace.finished(event.statistic, event.seconds, event.took, now)
            left = self.pace.to_go(now)
            to_go = "" if left is None else console.rough_duration(left.low, left.middle, left.high)
            self.advance(self.done, event.statistic, self.total, to_go)
        elif isinstance(event, UnitRetried):
            console.complain(f"retrying (attempt {event.attempt}): {event.unit}: {event.error}")


def _batches(
    store: Store,
    groups: Sequence[Group],
    cluster: Cluster,
    bar: _Bar,
    runner: Runner,
    options: AnalyzeOptions,
    profile: Profile | None,
) -> Iterator[Tally]:
    """Runs groups batch by batch, in this thread: one batch at a time writes to the store."""
    from pipeline.compute.run import run_groups
    from pipeline.compute.work import CACHE_BYTES

    cache_bytes = CACHE_BYTES if options.cache_bytes is None else options.cache_bytes
    batches = list(batched(groups, BATCH_SECONDS * max(cluster.workers, 1)))

    def run(batch: Sequence[Group]) -> Tally:
        return run_groups(store, batch, cluster, bar, cache_bytes, profile)

    for answer in runner.each("compute", run, batches, _label, here=True):
        if isinstance(answer, Failed):
            raise answer.error  # units answer for themselves: this is a lost cluster or a store that cannot be written
        yield answer


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


def _label(batch: Sequence[Group]) -> str:
    names = ", ".join(dict.fromkeys(group.statistic.name for group in batch))
    return f"{names}: {sum(len(group.units) for group in batch)} units"
