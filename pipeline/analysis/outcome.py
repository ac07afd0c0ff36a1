"""What the stages of an analysis return, as frozen data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.analysis.findings import Finding, in_lines
from pipeline.archive.types import Problem


@dataclass(frozen=True)
class Ingested:
    """What an ingest did: counts of checkpoints, everything that could not be read, and the runs with their bases.
    `lacks_base`: a run of the archive has none."""

    read: int
    unchanged: int
    failed: int
    problems: tuple[Problem, ...]
    runs: tuple[str, ...]
    bases: dict[str, str] = field(default_factory=dict)
    lacks_base: bool = False


@dataclass(frozen=True)
class Computed:
    """What a computation did, in units, and what could not be measured."""

    present: int
    measured: int
    failures: int
    findings: tuple[Finding, ...]
    profile: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Written:
    """Where the report is, and the analyzers that could not derive their part. `warnings` and `notes` are sentences on
    what the checkpoints hold (equal steps, parameters that never change): nothing is missing because of them."""

    zarr: Path
    html: Path
    problems: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Done:
    """What an analysis reports at its end: checkpoints and units in the store, what their contents show, and what could
    not be read or measured."""

    checkpoints: int
    units: int
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0, or 3 where something is listed."""
        return 3 if self.problems else 0


@dataclass(frozen=True)
class Outcome:
    """What an analysis did and where its report is; `exit_code` is 3 when something that was asked for is missing."""

    ingested: Ingested
    computed: Computed
    written: Written

    @property
    def problems(self) -> tuple[str, ...]:
        """Everything that could not be read, measured or derived, one line each."""
        every = (*in_lines(self.ingested.problems), *self.computed.findings, *self.written.problems)
        return tuple(dict.fromkeys(map(str, every)))

    @property
    def done(self) -> Done:
        """What a later analysis with nothing to add has to tell."""
        checkpoints = self.ingested.read + self.ingested.unchanged
        units = self.computed.present + self.computed.measured
        return Done(checkpoints, units, self.written.warnings, self.written.notes, self.problems)

    @property
    def exit_code(self) -> int:
        """0, or 3 where something is listed."""
        return self.done.exit_code

    @property
    def is_settled(self) -> bool:
        """Whether another try on the same files would find the same: nothing failed, and each run has its base, which
        may be anywhere."""
        failed = self.ingested.failed or self.computed.failures or self.written.problems
        return not failed and not self.ingested.lacks_base
