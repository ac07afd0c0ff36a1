"""Plans on paper: models described by a config or a YAML list, without weights and without an archive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from analyzers.errors import ParameterError
from pipeline.analysis.estimating import estimate_paper
from pipeline.analysis.request import AnalysisRequest
from pipeline.analysis.resolve import analyzers_for
from pipeline.models.yaml_file import read_yaml

if TYPE_CHECKING:
    from pipeline.analysis.paper_models import PaperModel
    from pipeline.compute.calibration import Calibration
    from pipeline.compute.estimate import Estimate

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
    from pipeline.analysis.paper_models import PaperModel

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


def plan_models(models: Sequence[PaperModel], request: AnalysisRequest, calibration: Calibration) -> list[PaperPlan]:
    """A plan for each model, all its runs together. Steps of a selection would be of nothing and are refused."""
    if request.steps or request.base or request.store:
        raise ParameterError(
            "--steps, --base and --store apply to an archive; a plan on paper takes --checkpoints instead"
        )
    analyzers = analyzers_for(request)

    def one(model: PaperModel, checkpoints: int) -> Estimate:
        from pipeline.analysis.paper import PaperStore
        from pipeline.analysis.paper_models import paper_archive

        archive, bases = paper_archive(model, checkpoints)
        return estimate_paper(PaperStore(archive, bases), analyzers, calibration, request)

    plans = []
    for model in models:
        if model.checkpoints <= SAMPLED + 2:
            whole = one(model, model.checkpoints)
        else:
            few, more, most = (one(model, SAMPLED + further) for further in range(3))
            whole = few.onwards(more, most, model.checkpoints - SAMPLED)
        plans.append(PaperPlan(model, whole.times(model.runs)))
    return plans
