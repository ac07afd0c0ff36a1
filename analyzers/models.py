"""What a statistic gets that reads or runs whole models: the checkpoint, and the task or probe set run through it.

Part of the contract (`Statistic.reads_models`, `Context.models`), apart from it because most statistics need none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch

from analyzers.errors import ContractError


@dataclass(frozen=True)
class Material:
    """A task or probe set that the user gave: a statistic's field like any other, of which only kind and digest (of
    the description and of the data it names) enter keys. `source` tells where a worker opens it: the path of a YAML
    file, or "package.module:factory". `Context.models.open` reads it; no analyzer opens a file itself.
    """

    kind: Literal["task", "probe"]
    name: str
    digest: str
    source: str


@dataclass(frozen=True)
class ParameterInfo:
    """A parameter of a checkpoint: its name in the file, shape and storage dtype. Equal keys mean equal bits."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    key: str


@dataclass(frozen=True)
class WholeCheckpoint:
    """A whole checkpoint, for statistics that `reads_models`: every parameter, biases and norms included.

    An adapter's are those of its base with the adapter merged. `config` is the model's config.json, empty where there
    is none. `read` gives one parameter by name, in storage dtype, on the CPU, read anew each time. `key` identifies
    parameters and config.
    """

    run: str
    step: int
    key: str
    config: Mapping[str, Any]
    parameters: tuple[ParameterInfo, ...]
    read: Callable[[str], torch.Tensor] = field(repr=False, compare=False)
    read_rows: Callable[[str, int, int], torch.Tensor] | None = field(default=None, repr=False, compare=False)

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Entries start..stop along the parameter's first axis; only they are read where the store can."""
        return self.read(name)[start:stop] if self.read_rows is None else self.read_rows(name, start, stop)


class Models(Protocol):
    """What a statistic needs beyond tensors: the user's tasks and probe sets, and models around checkpoints."""

    def open(self, material: Material) -> Any:
        """The task or probe set, read once per worker. Raises `ResourceError` where its data changed since."""
        ...

    def build(self, checkpoint: WholeCheckpoint, factory: str | None = None) -> torch.nn.Module:
        """The model with the checkpoint's parameters, on the CPU, in eval mode: from its config, or by the user's
        "package.module:factory". Raises `Unmeasurable` where no model can be built."""
        ...


class NoModels:
    """The `Models` of units that run none: for tests and notebooks."""

    def open(self, material: Material) -> Any:
        """Raises `ContractError`."""
        raise ContractError(f"no {material.kind} can be opened here: {material.name}")

    def build(self, checkpoint: WholeCheckpoint, factory: str | None = None) -> torch.nn.Module:
        """Raises `ContractError`."""
        raise ContractError(f"no model of {checkpoint.run}@{checkpoint.step} can be built here")
