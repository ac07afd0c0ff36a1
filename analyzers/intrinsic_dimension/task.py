"""What a task is: data in three splits, a loss, a score, and a model around a checkpoint.

The tasks that ship are read from YAML by `pipeline.models.tasks`; ``--task package.module:factory`` names a function
without arguments that returns an object with these attributes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from analyzers.models import Models, WholeCheckpoint

Metric = Literal["accuracy", "loss"]
Split = Literal["train", "tune", "score"]


@dataclass(frozen=True)
class Data:
    """Examples. `inputs` are the model's positional arguments, each (n, …); `targets` (n, …) integers."""

    inputs: tuple[torch.Tensor, ...]
    targets: torch.Tensor

    def __len__(self) -> int:
        return int(self.targets.shape[0])

    def take(self, index: torch.Tensor) -> Data:
        """The examples at `index`, of any shape: (…, …)."""
        return Data(tuple(part[index] for part in self.inputs), self.targets[index])

    def to(self, device: torch.device) -> Data:
        """On a device."""
        return Data(tuple(part.to(device) for part in self.inputs), self.targets.to(device))


@dataclass(frozen=True)
class Training:
    """How a trial is trained: Adam for `steps` steps of `batch_size` examples, the rate falling to zero by a cosine
    after a warm-up of 5 %. `lr` is where the search for the rate begins: the step of one parameter (root mean square),
    so that a coordinate of z moves by lr · √(D/d). `evaluations` are spread evenly; one of them is the stop."""

    steps: int = 1000
    batch_size: int = 128
    lr: float = 1e-3
    evaluations: int = 4


@dataclass(frozen=True)
class Built:
    """A model in eval mode (no dropout), called with the task's inputs. `fresh` names the parameters that the
    checkpoint does not hold: they were drawn from the seed."""

    module: torch.nn.Module
    fresh: tuple[str, ...] = ()


class Task(Protocol):
    """A task. `train` is learned from, `tune` chooses rate and stop, `score` is only scored.

    `reference_score`: what the field calls full marks (MNIST: 1.0), for the global threshold; None: there is none.
    `ensembles`: whether the model can be trained many at a time under `torch.vmap`. Faster still, where they are there:
    a method `together(parameters, *inputs)` of the module, every argument with an axis of members in front, and
    `losses(outputs, targets)` of the task, the loss of each member.
    """

    @property
    def name(self) -> str: ...
    @property
    def metric(self) -> Metric: ...
    @property
    def reference_score(self) -> float | None: ...
    @property
    def training(self) -> Training: ...
    @property
    def ensembles(self) -> bool: ...

    def data(self, split: Split) -> Data:
        """The examples of a split."""
        ...

    def build(self, checkpoint: WholeCheckpoint, models: Models, seed: int, random: bool) -> Built:
        """The model around the checkpoint; `random`: with freshly drawn parameters instead. The seed draws what the
        checkpoint does not give. Raises `Unmeasurable` where the checkpoint does not fit the task."""
        ...

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean loss of a batch, a scalar."""
        ...

    def scores(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """(n,) what each example scores, greater is better: 1 or 0 for accuracy, minus the loss for a loss."""
        ...

    def shuffled(self, data: Data, seed: int) -> Data:
        """The same examples with pixels or tokens out of order: the same order for equal seeds."""
        ...
