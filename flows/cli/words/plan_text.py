"""A plan in words and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analyzers.errors import ParameterError
from flows.cli.words.console import duration, json_text, number, plural, size, table
from pipeline.analysis.estimating import PlannedAnalysis
from pipeline.compute.calibration import Calibration
from pipeline.compute.estimate import GPUS, Estimate
from pipeline.store.limits import cores

_ASSUMED = (
    "This is an upper bound: it assumes that every tensor changes between checkpoints and that none are tied. Equal "
    "tensors are stored and measured only once. If no tensor changed between checkpoints, the cost would be:"
)


def gpus(name: str | None) -> tuple[str, ...]:
    """The GPUs to list. Raises `ParameterError` for one without a data sheet here."""
    if name is None:
        return ("a100", "h100")
    if name.lower() not in GPUS:
        raise ParameterError(f"--gpu {name!r}: no data sheet for it here; known: {', '.join(sorted(GPUS))}")
    return (name.lower(),)


def count(number: float) -> str:
    """A large number in a few characters: 512, 9,500, 3.4e+12."""
    return f"{number:,.0f}" if number < 10_000 else f"{number:.2g}"


def worker_counts(asked: int | None) -> tuple[int, ...]:
    """The numbers of workers to list."""
    return (asked,) if asked else tuple(sorted({1, cores(), 8, 64}))


def text(planned: PlannedAnalysis, calibration: Calibration, gpus: Sequence[str], workers: int | None) -> str:
    """The plan for people."""
    upper, lower = planned.upper, planned.lower
    lines = [*_work(upper), "", *_phases(upper), "", *_times(upper, calibration, gpus, workers), ""]
    lines += [
        _ASSUMED,
        f"  {plural(lower.units, 'unit')}, {size(lower.tensor_bytes)} of tensors to store, "
        f"{duration(lower.phases.total)} of one core.",
    ]
    lines += notes(upper, calibration)
    if planned.problems:
        lines += ["", f"{plural(len(planned.problems), 'problem')}:", *(f"  {line}" for line in planned.problems)]
    return "\n".join(lines)


def notes(estimate: Estimate, calibration: Calibration) -> list[str]:
    """What the reader must know about the numbers."""
    lines = ["", f"Rates: {describe(calibration)}"]
    if estimate.guesses:
        one = len(estimate.guesses) == 1
        lines.append(
            f"Guesses: the times of {', '.join(estimate.guesses)}, which {'runs or trains' if one else 'run or train'} "
            "whole models. How long that takes is not known until one has run."
        )
    return lines


def describe(calibration: Calibration) -> str:
    """Where the rates come from."""
    if not calibration.measured:
        return (
            "those of a reference machine, not of this one; `varve plan --calibrate` measures this one in about 20 s."
        )
    where = calibration.machine.get("processor", "this machine")
    return f"measured on {calibration.date} on {where}, torch {calibration.software.get('torch', '?')}."


def _work(e: Estimate) -> list[str]:
    cached = f", plus {size(e.cache_bytes)} of base vectors in a cache that may be deleted" if e.cache_bytes else ""
    there = f" ({plural(e.present, 'unit')} already in the store)" if e.present else ""
    unchanged = f" ({number(e.unchanged)} unchanged, already in the store)" if e.unchanged else ""
    further = f", about {number(e.further)} of them trials that searches add as results come in" if e.further else ""
    return [
        f"To read:    {plural(e.checkpoints, 'checkpoint')}, {size(e.read_bytes)}{unchanged}",
        f"To store:   {size(e.tensor_bytes)} of tensors and {size(e.result_bytes)} of results{cached}",
        f"To compute: {plural(e.units + e.further, 'unit')}{further}{there}",
        f"            in {plural(e.groups, 'group')}, {count(e.flops)} floating-point operations of dense algebra",
        f"Memory:     {size(e.memory_bytes)} per worker, {size(e.report_bytes)} to make the report",
    ]


def _phases(e: Estimate) -> list[str]:
    rows: list[tuple[str, str, str, str]] = [
        (
            line.statistic,
            number(line.units),
            count(sum(line.operations.get(k, 0.0) for k in _dense())),
            f"{line.seconds:.2f}",
        )
        for line in sorted(e.lines, key=lambda line: -line.seconds)
    ]
    handling = e.phases.compute - sum(line.seconds for line in e.lines)
    rows += [("(further trials)", f"about {number(e.further)}", "", "")] if e.further else []
    rows += [("(overhead per unit)", "", "", f"{handling:.2f}")] if e.lines else []
    rows += [
        ("(startup)", "", "", f"{e.phases.start:.2f}"),
        ("(read and store)", "", "", f"{e.phases.ingest:.2f}"),
        ("(report)", "", "", f"{e.phases.report:.2f}"),
        ("total", number(e.units + e.further), count(e.flops), f"{e.phases.total:.2f}"),
    ]
    return [table(("statistic", "units", "flop", "CPU seconds"), rows, right=(1, 2, 3))]


def _dense() -> tuple[str, ...]:
    from pipeline.compute.estimate import DENSE

    return DENSE


def _times(e: Estimate, calibration: Calibration, gpus: Sequence[str], workers: int | None) -> list[str]:
    rows = [(plural(n, "worker"), duration(e.wall(n, calibration))) for n in worker_counts(workers)]
    rows += [(f"one {name.upper()} (data sheet)", duration(e.gpu_wall(name))) for name in gpus]
    return [table(("on idle cores with", "time"), rows, right=(1,))]


def estimate_data(e: Estimate, calibration: Calibration, gpus: Sequence[str], workers: int | None) -> dict[str, Any]:
    """An estimate as JSON data: bytes, operations, CPU seconds of one thread, wall seconds."""
    return {
        "checkpoints": e.checkpoints,
        "unchanged": e.unchanged,
        "units": e.units,
        "further": e.further,
        "present": e.present,
        "groups": e.groups,
        "read_bytes": round(e.read_bytes),
        "tensor_bytes": round(e.tensor_bytes),
        "result_bytes": round(e.result_bytes),
        "cache_bytes": round(e.cache_bytes),
        "memory_bytes": e.memory_bytes,
        "report_bytes": e.report_bytes,
        "operations": e.operations,
        "flops": e.flops,
        "phases": {name: getattr(e.phases, name) for name in ("start", "ingest", "compute", "report", "total")},
        "statistics": {
            line.statistic: {"units": line.units, "seconds": line.seconds, "operations": dict(line.operations)}
            for line in e.lines
        },
        "wall_seconds": {
            **{f"workers={n}": e.wall(n, calibration) for n in worker_counts(workers)},
            **{f"gpu={name}": e.gpu_wall(name) for name in gpus},
        },
        "guesses": list(e.guesses),
    }


def as_json(planned: PlannedAnalysis, calibration: Calibration, gpus: Sequence[str], workers: int | None) -> str:
    """The plan for programs."""
    data = {
        "archive": planned.name,
        "calibration": calibration.to_json(),
        "upper": estimate_data(planned.upper, calibration, gpus, workers),
        "lower": estimate_data(planned.lower, calibration, gpus, workers),
        "problems": list(planned.problems),
    }
    return json_text(data)


def calibration_json(calibration: Calibration) -> str:
    """What was measured, for programs."""
    return json_text(calibration.to_json())


def calibration_lines(calibration: Calibration, path: Path) -> str:
    """What was measured, for people."""
    sides = sorted({side for by in calibration.rates.values() for side in by if side})
    rows = [
        (kind, *(f"{by[side] / 1e9:.1f}" if side in by else "" for side in sides))
        for kind, by in calibration.rates.items()
        if kind in _dense()
    ]
    shown = table(("10⁹ flop/s at side", *map(str, sides)), rows, right=tuple(range(1, len(sides) + 1)))
    ingest = f"ingest {size(calibration.handling.ingest_bytes)} per CPU second"
    return f"{shown}\n{ingest}; startup {calibration.handling.start:.1f} CPU seconds\nSaved to {path}"
