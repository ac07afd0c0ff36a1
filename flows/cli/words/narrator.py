"""What the console says of the events of an analysis: sentences, and a bar for reading and one for computing."""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import singledispatchmethod
from types import TracebackType

from flows.cli.words import console
from flows.cli.words.console import duration, number, plural, size
from pipeline.analysis.events import (
    AnalyzerFailed,
    ArchiveFound,
    CheckpointGone,
    CheckpointRead,
    ComputeFinished,
    Event,
    IngestFinished,
    IngestPlanned,
    ReportStarted,
)
from pipeline.compute.events import ClusterOpened, GroupFinished, Planned, RoundStarted, UnitRetried
from pipeline.compute.pace import Pace


class Narrator:
    """A `Listener` that speaks on the console; leaving it closes an open bar, also after an error or Ctrl-C."""

    def __init__(self) -> None:
        self._bar = ExitStack()
        self._advance: console.Advance = _nowhere
        self._done = 0
        self._total = 0
        self._pace: Pace | None = None

    def __enter__(self) -> Narrator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)

    def __call__(self, event: Event, /) -> None:
        self._tell(event)

    def _open_bar(self, label: str, total: int) -> None:
        self._advance = self._bar.enter_context(console.progress(label, total))
        self._done, self._total = 0, total

    def _close_bar(self) -> None:
        self._bar.close()
        self._advance = _nowhere

    @singledispatchmethod
    def _tell(self, event: object) -> None:
        """Everything that the console has no words for."""

    @_tell.register
    def _(self, event: ArchiveFound) -> None:
        archive = event.archive
        checkpoints = [c for run in archive.runs for c in run.checkpoints]
        console.say(
            f"Found {plural(len(archive.runs), 'run')} with {plural(len(checkpoints), 'checkpoint')}, "
            f"{size(sum(c.nbytes for c in checkpoints))} of tensors, in {archive.root}"
        )
        for hint in archive.hints:
            console.say(hint)

    @_tell.register
    def _(self, event: CheckpointGone) -> None:
        where = f"{event.run}@{event.step}"
        if event.unreadable:
            console.say(f"{where} can no longer be read from its file; the report keeps what was read before.")
        else:
            console.say(f"{where} is no longer in the archive; the store still has it.")

    @_tell.register
    def _(self, event: IngestPlanned) -> None:
        if not event.checkpoints:
            console.say(console.nothing_to_read(event.unchanged))
            return
        unchanged = f" ({number(event.unchanged)} unchanged, already in the store)" if event.unchanged else ""
        console.say(f"To read: {plural(event.checkpoints, 'checkpoint')}, {size(event.nbytes)}{unchanged}")
        self._open_bar("reading", event.checkpoints)

    @_tell.register
    def _(self, event: CheckpointRead) -> None:
        self._done += 1
        self._advance(self._done, f"{event.run}@{event.step}")

    @_tell.register
    def _(self, event: IngestFinished) -> None:
        if self._total:
            self._close_bar()
            console.say(f"Read in {duration(event.seconds)}.")

    @_tell.register
    def _(self, event: Planned) -> None:
        if not event.missing:
            console.say(console.nothing_to_compute(event.present))
            return
        total = event.missing + event.further
        further = f", about {number(event.further)} of them as searches continue" if event.further else ""
        there = f" ({plural(event.present, 'unit')} already in the store)" if event.present else ""
        console.say(f"To compute: {plural(total, 'unit')}{further}{there}; about {duration(event.seconds)} on one core")
        self._open_bar("computing", total)

    @_tell.register
    def _(self, event: ClusterOpened) -> None:
        console.say(f"Computing on {event.name}.")
        self._pace = Pace(dict(event.expected), event.workers, time.monotonic())

    @_tell.register
    def _(self, event: RoundStarted) -> None:
        """Where searches go on the total is an estimate, corrected at every round."""
        self._total = self._done + event.units + event.after
        if self._pace is not None:
            self._pace.expect(event.expected)
        self._advance(self._done, total=self._total)

    @_tell.register
    def _(self, event: GroupFinished) -> None:
        now = time.monotonic()
        self._done += event.measured + event.unmeasurable + event.failed
        self._total = max(self._total, self._done)
        to_go = ""
        if self._pace is not None:
            self._pace.finished(event.statistic, event.seconds, event.took, now)
            if (left := self._pace.to_go(now)) is not None:
                to_go = console.rough_duration(left.low, left.middle, left.high)
        self._advance(self._done, event.statistic, self._total, to_go)

    @_tell.register
    def _(self, event: UnitRetried) -> None:
        console.complain(f"retrying (attempt {event.attempt}): {event.unit}: {event.error}")

    @_tell.register
    def _(self, event: ComputeFinished) -> None:
        self._advance(self._done, total=self._done)
        self._close_bar()

    @_tell.register
    def _(self, event: ReportStarted) -> None:
        if event.kept:
            console.say(f"Also kept in the report: {', '.join(event.kept)}.")
        console.say("Writing the report.")

    @_tell.register
    def _(self, event: AnalyzerFailed) -> None:
        console.complain(event.trace.rstrip())


def _nowhere(done: float, note: str = "", total: float | None = None, to_go: str | None = None) -> None:
    """No bar is open."""
