"""What happens during an analysis, as typed events. The console, Prefect and a notebook listen; `silent` does not.

Events come in the driver's thread, one at a time, from the stages in order: archive, ingest, compute, report.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pipeline.compute.events import ComputeEvent

if TYPE_CHECKING:
    from pipeline.archive.types import Archive


@dataclass(frozen=True)
class ArchiveFound:
    """The runs and checkpoints are known, from headers."""

    archive: Archive


@dataclass(frozen=True)
class CheckpointGone:
    """A stored checkpoint is no longer in the archive; the store keeps it. `unreadable`: its file is there still."""

    run: str
    step: int
    unreadable: bool = False


@dataclass(frozen=True)
class IngestPlanned:
    """So many checkpoints are to be read, of so many bytes; `unchanged` are in the store."""

    checkpoints: int
    nbytes: int
    unchanged: int


@dataclass(frozen=True)
class CheckpointRead:
    """A checkpoint is in the store, or failed for the `reason`."""

    run: str
    step: int
    reason: str = ""


@dataclass(frozen=True)
class IngestFinished:
    """All were read."""

    seconds: float


@dataclass(frozen=True)
class ComputeFinished:
    """Nothing more is computed."""


@dataclass(frozen=True)
class ReportStarted:
    """The report is derived and written. `kept`: analyzers of the earlier report that were not asked for and stay."""

    kept: tuple[str, ...] = ()


@dataclass(frozen=True)
class AnalyzerFailed:
    """An analyzer could not derive its part; the report lacks its node."""

    name: str
    trace: str


Event = (
    ArchiveFound
    | CheckpointGone
    | IngestPlanned
    | CheckpointRead
    | IngestFinished
    | ComputeEvent
    | ComputeFinished
    | ReportStarted
    | AnalyzerFailed
)


class Listener(Protocol):
    """Takes the events of an analysis."""

    def __call__(self, event: Event, /) -> None: ...


def silent(event: Event, /) -> None:
    """Ignores every event."""
