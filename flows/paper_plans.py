"""Plans on paper: models described by a config or a YAML list, without weights and without an archive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from analyzers.errors import ParameterError
from flows import plan_text
from flows.console import duration, json_text, number, plural, size, table
from flows.options import AnalyzeOptions
from flows.planning import estimate_paper
from pipeline.models.yaml_file import read_yaml

if TYPE_CHECKING:
    from pipeline.compute.calibration import Calibration
    from pipeline.compute.estimate import Estimate
    from pipeline.paper_models import PaperModel

SAMPLED = 4
"""Runs of more checkpoints are planned for this many, one and two more, and continued from these."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    config: dict[str, Any]
    checkpoints: int = Field(1, ge=1)
    dtype: str | None = None
    adapter_rank: int | None = Field(None, ge=1)
    runs: int = Field(1, ge=1)


class _Models(BaseModel):
    model_config = ConfigDict(extra="forbid")

    title: str = ""
    models: list[_Model]


@dataclass(frozen=True)
class PaperPlan:
    """A model and what analysing all its runs would cost."""

    model: PaperModel
    estimate: Estimate


def read_models(path: Path, checkpoints: int | None, adapter_rank: int | None, dtype: str | None) -> list[PaperModel]:
    """The models of a config.json, or of a YAML with a list `models`; the arguments win over the file. Raises
    `ParameterError` that names the file."""
    from pipeline.paper_models import PaperModel

    data = read_yaml(path, "--config")
    if not isinstance(data, Mapping):
        raise ParameterError(f"--config {path}: expected a config.json, or a YAML with a list `models`")
    if "models" not in data:
        data = {"models": [{"name": _name(path), "config": dict(data)}]}
    try:
        described = _Models.model_validate(data).models
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ParameterError(f"--config {path}: {faults}") from error
    return [
        PaperModel(
            m.name,
            m.config,
            checkpoints or m.checkpoints,
            dtype or m.dtype or str(m.config.get("dtype") or m.config.get("torch_dtype") or "bfloat16"),
            adapter_rank or m.adapter_rank,
            m.runs,
        )
        for m in described
    ]


def _name(path: Path) -> str:
    return path.absolute().parent.name if path.stem == "config" else path.stem


def plan_models(models: Sequence[PaperModel], options: AnalyzeOptions, calibration: Calibration) -> list[PaperPlan]:
    """A plan for each model, all its runs together. Steps of a selection would be of nothing and are refused."""
    from flows.analysis import analyzers_for

    if options.steps or options.base or options.store:
        raise ParameterError(
            "--steps, --base and --store apply to an archive; a plan on paper takes --checkpoints instead"
        )
    analyzers = analyzers_for(options)

    def one(model: PaperModel, checkpoints: int) -> Estimate:
        from pipeline.paper import PaperStore
        from pipeline.paper_models import paper_archive

        archive, bases = paper_archive(model, checkpoints)
        return estimate_paper(PaperStore(archive, bases), analyzers, calibration, options)

    plans = []
    for model in models:
        if model.checkpoints <= SAMPLED + 2:
            whole = one(model, model.checkpoints)
        else:
            few, more, most = (one(model, SAMPLED + further) for further in range(3))
            whole = few.onwards(more, most, model.checkpoints - SAMPLED)
        plans.append(PaperPlan(model, whole.times(model.runs)))
    return plans


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
