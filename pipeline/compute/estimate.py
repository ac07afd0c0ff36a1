"""What a plan would cost: arithmetic, bytes, memory and time, on one thread, on N workers, on a named GPU.

Nothing is read: counts and shapes come from the plan, seconds from a `Calibration`, GPUs from their data sheets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING

from analyzers.costs import eigh, gemm, gram, seconds
from pipeline.compute.calibration import Calibration
from pipeline.compute.cluster import WORKER_BYTES
from pipeline.compute.groups import Group, group_units
from pipeline.units.found import joined

if TYPE_CHECKING:
    from pipeline.archive.types import TensorHeader
    from pipeline.compute.plan import Plan

BASES = "(base vectors)"
DENSE = ("gemm", "eigvalsh", "eigh", "svd", "qr")
GPUS: Mapping[str, float] = {
    "a100": 19.5e12,
    "h100": 66.9e12,
    "h200": 66.9e12,
    "v100": 7.8e12,
    "a10": 0.49e12,
    "l4": 0.47e12,
    "rtx4090": 1.29e12,
}
"""Name → float64 operations per second, from the data sheets (tensor cores where they do float64)."""
GPU_SHARES: Mapping[str, float] = {"gemm": 0.6, "eigvalsh": 0.02, "eigh": 0.02, "svd": 0.01, "qr": 0.05}
"""What of its float64 rate a GPU is assumed to reach by kind; nobody measured it here."""
MOVE_BYTES = 1.2e10
"""Bytes per second from host to device, assumed."""
_RESULT_BYTES = 600
"""Of a unit that does not say: a few scalars and its share of an index, or a short spectrum."""


@dataclass(frozen=True)
class CostLine:
    """One statistic of a plan. `operations` by kind, floating-point ones for the dense kinds."""

    statistic: str
    units: int
    seconds: float
    operations: Mapping[str, float]
    result_bytes: float


@dataclass(frozen=True)
class Phases:
    """CPU seconds of one thread, by what they are for. `start` is paid once, and in part again by every worker."""

    start: float = 0.0
    ingest: float = 0.0
    compute: float = 0.0
    report: float = 0.0

    @property
    def total(self) -> float:
        """All of them."""
        return self.start + self.ingest + self.compute + self.report

    def plus(self, other: Phases, times: float = 1.0) -> Phases:
        """The sum, of the other one so many times."""
        return Phases(*(getattr(self, f) + times * getattr(other, f) for f in self.__dataclass_fields__))


@dataclass(frozen=True)
class Estimate:
    """What is to be done and what it costs. `further`: about how many trials searches will add to `units`; no
    other number counts them. `levels` are (CPU seconds, seconds of the largest group) of what can run
    side by side; `guesses` names statistics whose time is unknown until one of their units has run."""

    checkpoints: int
    unchanged: int
    present: int
    units: int
    groups: int
    read_bytes: float
    tensor_bytes: float
    result_bytes: float
    cache_bytes: float
    memory_bytes: int
    phases: Phases
    lines: tuple[CostLine, ...]
    levels: tuple[tuple[float, float], ...]
    guesses: tuple[str, ...] = ()
    dense_seconds: float = 0.0
    further: int = 0
    report_bytes: int = 0

    @property
    def stored_bytes(self) -> float:
        """What the store grows by: tensors and results."""
        return self.tensor_bytes + self.result_bytes

    @property
    def operations(self) -> dict[str, float]:
        """Kind → operations of all statistics."""
        sums: dict[str, float] = {}
        for line in self.lines:
            for kind, count in line.operations.items():
                sums[kind] = sums.get(kind, 0.0) + count
        return sums

    @property
    def flops(self) -> float:
        """Floating-point operations of dense linear algebra."""
        return sum(count for kind, count in self.operations.items() if kind in DENSE)

    def wall(self, workers: int, calibration: Calibration) -> float:
        """Wall seconds with so many workers on idle cores; reading and the report are one process's."""
        computing = sum(max(all_of / workers, largest) for all_of, largest in self.levels)
        overhead = max(0.0, self.phases.compute - sum(all_of for all_of, _ in self.levels)) / workers
        start = self.phases.start + (calibration.handling.worker if workers > 1 and self.units else 0.0)
        return start + self.phases.ingest + computing + overhead + self.phases.report

    def plus(self, other: Estimate, times: float = 1.0) -> Estimate:
        """Both, of the other one so many times (less of it when negative). The memory is the larger one's; levels go
        side by side, the largest group of each being the larger of both."""
        lines = {line.statistic: line for line in self.lines}
        for line in other.lines:
            before = lines.get(line.statistic, CostLine(line.statistic, 0, 0.0, {}, 0.0))
            operations = {
                kind: before.operations.get(kind, 0.0) + times * line.operations.get(kind, 0.0)
                for kind in {**before.operations, **line.operations}
            }
            lines[line.statistic] = CostLine(
                line.statistic,
                round(before.units + times * line.units),
                before.seconds + times * line.seconds,
                operations,
                before.result_bytes + times * line.result_bytes,
            )
        levels = [
            (ours[0] + times * theirs[0], max(ours[1], theirs[1]))
            for ours, theirs in zip_longest(self.levels, other.levels, fillvalue=(0.0, 0.0))
        ]
        summed = {name: getattr(self, name) + times * getattr(other, name) for name in _SUMMED}
        counted = {name: round(getattr(self, name) + times * getattr(other, name)) for name in _COUNTED}
        return replace(
            self,
            **summed,
            **counted,
            memory_bytes=max(self.memory_bytes, other.memory_bytes),
            report_bytes=max(self.report_bytes, other.report_bytes),
            phases=self.phases.plus(other.phases, times),
            lines=tuple(lines.values()),
            levels=tuple(levels),
            guesses=tuple(sorted({*self.guesses, *other.guesses})),
        )

    def times(self, runs: int) -> Estimate:
        """So many archives like this one, in one analysis each but for the start."""
        whole = self if runs == 1 else self.plus(self, runs - 1)
        return replace(whole, phases=replace(whole.phases, start=self.phases.start))

    def onwards(self, longer: Estimate, longest: Estimate, times: int) -> Estimate:
        """This one continued by so many steps, from estimates of one and two steps more. Costs grow with the steps, and
        those of products between all steps with their square: the second difference stays the same."""
        pairs = times * (times - 1) // 2
        return self.plus(longer, times - 2 * pairs).plus(longest, pairs).plus(self, pairs - times)

    def gpu_wall(self, name: str) -> float:
        """Wall seconds with one such GPU for the dense arithmetic, and one thread for all else."""
        dense = sum(n / (GPUS[name] * GPU_SHARES[kind]) for kind, n in self.operations.items() if kind in DENSE)
        return self.phases.total - self.dense_seconds + dense + self.read_bytes / MOVE_BYTES


_COUNTED = ("checkpoints", "unchanged", "present", "units", "groups", "further")
_SUMMED = ("read_bytes", "tensor_bytes", "result_bytes", "cache_bytes", "dense_seconds")


def estimate(
    planned: Plan,
    calibration: Calibration,
    tensors: Iterable[TensorHeader] = (),
    read_bytes: float = 0.0,
    checkpoints: int = 0,
    unchanged: int = 0,
    report_units: int = 0,
    report_bytes: int = 0,
) -> Estimate:
    """The estimate for a plan. `tensors` are those that an ingest would store, `read_bytes` what it reads for them, and
    `report_units` how many results the report is derived from, in a process of `report_bytes`."""
    headers = list(tensors)
    handling = calibration.handling
    leveled = [
        group_units(joined([stage.jobs for stage in level]), calibration=calibration) for level in planned.levels
    ]
    groups = [group for level in leveled for group in level]
    lines: dict[str, CostLine] = {}
    for group in groups:
        lines[group.statistic.name] = _line(lines.get(group.statistic.name), group)
    ingest = (
        sum(t.nbytes for t in headers) / handling.ingest_bytes
        + len(headers) * handling.ingest_tensor
        + checkpoints * handling.ingest_checkpoint
    )
    bases = _bases(planned)
    vectors = [one for m, n in bases for one in (gram(m, n), eigh(min(m, n)), gemm(m, n, min(m, n)))]
    if vectors:
        made = {kind: sum(w.operations for w in vectors if w.kind == kind) for kind in ("gemm", "eigh")}
        lines[BASES] = CostLine(BASES, 0, seconds(vectors, calibration.rates), made, 0.0)
    levels = tuple((sum(g.seconds for g in level), max(g.seconds for g in level)) for level in leveled if level)
    overhead = planned.missing * handling.unit + len(groups) * handling.group
    report = handling.report + report_units * handling.report_unit
    dense = [*vectors, *(one for group in groups for one in group.work if one.kind in DENSE)]
    return Estimate(
        checkpoints=checkpoints,
        unchanged=unchanged,
        present=planned.present,
        units=planned.missing,
        groups=len(groups),
        read_bytes=read_bytes,
        tensor_bytes=sum(t.nbytes * calibration.ratio(t.dtype) for t in headers),
        result_bytes=sum(line.result_bytes for line in lines.values()),
        cache_bytes=float(sum(min(m, n) * (4 * (m + n) + 8) for m, n in bases)),
        memory_bytes=max((group.memory_bytes for group in groups), default=0) + WORKER_BYTES,
        phases=Phases(handling.start, ingest, sum(line.seconds for line in lines.values()) + overhead, report),
        lines=tuple(lines.values()),
        levels=levels,
        guesses=tuple(sorted({g.statistic.name for g in groups if g.statistic.reads_models and not g.work})),
        dense_seconds=seconds(dense, calibration.rates),
        further=planned.further,
        report_bytes=report_bytes,
    )


def _line(before: CostLine | None, group: Group) -> CostLine:
    operations = dict(before.operations) if before else {}
    for one in group.work:
        operations[one.kind] = operations.get(one.kind, 0.0) + one.operations
    nbytes = group.result_bytes or _RESULT_BYTES * len(group.units)
    return CostLine(
        group.statistic.name,
        len(group.units) + (before.units if before else 0),
        group.seconds + (before.seconds if before else 0.0),
        operations,
        nbytes + (before.result_bytes if before else 0.0),
    )


def _bases(planned: Plan) -> list[tuple[int, int]]:
    """The shapes of all base matrices that a missing unit compares with: their vectors are made once, and kept in the
    cache as U and V in float32 and σ in float64."""
    found = {
        m.reference.key: m.reference.info.shape
        for job in planned.jobs
        if job.statistic.reads_matrices and job.statistic.against == "base"
        for m in job.members
        if m.reference is not None
    }
    return list(found.values())
