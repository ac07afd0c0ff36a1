"""Plans on paper in words and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flows.cli.words import plan_text
from flows.cli.words.console import duration, json_text, number, plural, size, table
from pipeline.analysis.paper_plans import PaperPlan
from pipeline.compute.calibration import Calibration


def text(plans: Sequence[PaperPlan], calibration: Calibration, gpus: Sequence[str], workers: int | None) -> str:
    """A row for each model, and their sum."""
    counts = plan_text.worker_counts(workers)
    headers = ["model", "runs", "checkpoints", "units", "to read", "to store", "flop", "memory"]
    headers += [*(plural(n, "worker") for n in counts), *(f"one {name.upper()}" for name in gpus)]
    rows = [_row(plan.model.name, plan, calibration, counts, gpus) for plan in plans]
    if len(plans) > 1:
        rows.append(_row("total", _together(plans), calibration, counts, gpus))
    shown = table(headers, rows, right=tuple(range(1, len(headers))))
    return "\n".join((shown, *plan_text.notes(plans[0].estimate, calibration), _ASSUMED)) if plans else "No models."


_ASSUMED = (
    "Assumed: every tensor changes between checkpoints; a full run is compared with its first step, an adapter with "
    "its base; GPU times follow the data sheets."
)


def _together(plans: Sequence[PaperPlan]) -> PaperPlan:
    total = plans[0].estimate
    for plan in plans[1:]:
        total = total.plus(plan.estimate)
    runs = sum(p.model.runs for p in plans)
    return PaperPlan(replace(plans[0].model, runs=runs, checkpoints=0), total)


def _row(
    name: str, plan: PaperPlan, calibration: Calibration, counts: Sequence[int], gpus: Sequence[str]
) -> tuple[str, ...]:
    e = plan.estimate
    return (
        name,
        str(plan.model.runs),
        number(e.checkpoints),
        number(e.units + e.further),
        size(e.read_bytes),
        size(e.stored_bytes),
        plan_text.count(e.flops),
        size(e.memory_bytes),
        *(duration(e.wall(n, calibration)) for n in counts),
        *(duration(e.gpu_wall(gpu)) for gpu in gpus),
    )


def as_json(plans: Sequence[PaperPlan], calibration: Calibration, gpus: Sequence[str], workers: int | None) -> str:
    """The plans for programs."""
    data = {
        "calibration": calibration.to_json(),
        "models": [
            {
                "name": plan.model.name,
                "runs": plan.model.runs,
                "dtype": plan.model.dtype,
                "adapter_rank": plan.model.adapter_rank,
                **plan_text.estimate_data(plan.estimate, calibration, gpus, workers),
            }
            for plan in plans
        ],
    }
    return json_text(data)
