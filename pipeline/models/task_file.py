"""What a task's YAML says, checked before anything is read: a wrong key names the nearest right one."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from analyzers.errors import ParameterError

_STRICT = ConfigDict(extra="forbid", frozen=True)


class TrainingSettings(BaseModel):
    """How each trial is trained."""

    model_config = _STRICT

    steps: int = Field(default=1000, ge=1)
    batch_size: int = Field(default=128, ge=1)
    lr: float = Field(
        default=1e-3, gt=0, description="where the search for the rate begins (Adam, step of one parameter)"
    )
    evaluations: int = Field(default=4, ge=1)


class DataPart(BaseModel):
    """Two idx files, or an npz file with its array names."""

    model_config = _STRICT

    inputs: str
    labels: str
    npz: str | None = None


class ArrayTask(BaseModel):
    """Classification of vectors or images from arrays."""

    model_config = _STRICT

    kind: Literal["classification"]
    name: str = Field(min_length=1)
    data: str | DataPart | dict[Literal["train", "score"], DataPart]
    inputs: str = Field("inputs", description="npz: the array of examples")
    labels: str = Field("labels", description="npz: the array of classes")
    scale: float = Field(1.0, gt=0)
    mean: float = 0.0
    std: float = Field(1.0, gt=0)
    flatten: bool | None = Field(None, description="default: for an mlp")
    model: str = Field("mlp", description='"mlp", "lenet", "config" (by config.json) or package.module:factory')
    activation: Literal["relu", "tanh", "gelu", "sigmoid"] = "relu"
    limit: dict[Literal["train", "tune", "score"], int] = {}
    reference_score: float | None = Field(None, gt=0)
    training: TrainingSettings = TrainingSettings()


class TextTask(BaseModel):
    """Classification of sentences, or the language modelling loss on a text file."""

    model_config = _STRICT

    kind: Literal["text_classification", "language_modelling"]
    name: str = Field(min_length=1)
    data: str | dict[Literal["train", "score"], str]
    text: str = Field("text", description="column of the sentences; of a TSV or CSV without a header its number")
    label: str = Field("label", description="column of the classes")
    header: bool = True
    tokenizer: str = Field(description="folder or tokenizer.json on this machine")
    max_tokens: int = Field(64, ge=2)
    layers: int | None = Field(None, ge=1, description="only the first so many layers of the model")
    model: str = Field("config", description='"config" (by config.json) or package.module:factory')
    limit: dict[Literal["train", "tune", "score"], int] = {}
    reference_score: float | None = Field(None, gt=0)
    training: TrainingSettings = TrainingSettings(lr=1e-4, batch_size=16)


TaskFile = ArrayTask | TextTask
KINDS = ("classification", "text_classification", "language_modelling")


def read_task_file(path: Path) -> TaskFile:
    """The description in a YAML file. Raises `ParameterError` that names file, key and remedy."""
    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ParameterError(f"task {path} cannot be read: {error}") from error
    if not isinstance(told, Mapping):
        raise ParameterError(f"task {path}: expected a mapping with name, kind and data, found {told!r:.80}")
    kind = told.get("kind")
    if kind not in KINDS:
        raise ParameterError(f"task {path}: kind {kind!r} is unknown; known: {', '.join(KINDS)}")
    model: type[ArrayTask] | type[TextTask] = ArrayTask if kind == "classification" else TextTask
    try:
        return model(**{str(key): value for key, value in told.items()})
    except ValidationError as error:
        raise ParameterError(f"task {path}: " + "; ".join(_said(model, one) for one in error.errors())) from error


def _said(model: type[BaseModel], one: Any) -> str:
    where = ".".join(str(part) for part in one["loc"])
    if one["type"] == "extra_forbidden":
        known = TrainingSettings.model_fields if "training" in one["loc"] else model.model_fields
        close = get_close_matches(str(one["loc"][-1]), list(known), n=1)
        remedy = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(known)}"
        return f"no such key {where!r}; {remedy}"
    return f"{where}: {one['msg'][:1].lower()}{one['msg'][1:]} (got {one['input']!r:.60})"
