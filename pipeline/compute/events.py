"""What happens during a computation, as typed events: for a progress bar, a log, or a Prefect task.

A `Progress` is any callable that takes an event; `silent` takes them and says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Planned:
    """The plan stands: units present and missing, about how many `further` trials searches will ask for, things
    without a unit, and the CPU seconds estimated for the missing."""

    present: int
    missing: int
    further: int
    skipped: int
    seconds: float


@dataclass(frozen=True)
class ClusterOpened:
    """Workers are there. `expected`: planned seconds of each statistic."""

    name: str
    workers: int
    expected: Mapping[str, float]


@dataclass(frozen=True)
class RoundStarted:
    """Groups that wait for nothing go to the workers: so many units, about `after` more in later rounds, and the
    planned seconds of each statistic."""

    units: int
    after: int
    expected: Mapping[str, float]


@dataclass(frozen=True)
class GroupFinished:
    """A group's results are in the store. `seconds` is what the plan estimated, `took` what its worker measured."""

    statistic: str
    measured: int
    unmeasurable: int
    failed: int
    seconds: float
    took: float = 0.0


@dataclass(frozen=True)
class UnitRetried:
    """A unit failed and is tried again, alone."""

    unit: str
    error: str
    attempt: int


@dataclass(frozen=True)
class UnitFailed:
    """A unit failed for good and is recorded."""

    unit: str
    error: str


@dataclass(frozen=True)
class Compacted:
    """Many small batches of a statistic were merged."""

    statistic: str
    batches: int


ComputeEvent = Planned | ClusterOpened | RoundStarted | GroupFinished | UnitRetried | UnitFailed | Compacted


class Progress(Protocol):
    """Takes events in the driver's thread, one at a time."""

    def __call__(self, event: ComputeEvent, /) -> None: ...


def silent(event: ComputeEvent, /) -> None:
    """Says nothing."""
