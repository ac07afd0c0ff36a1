"""The task of telling classes of vectors or images apart, around an MLP, a LeNet or a model of the user's."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from analyzers.errors import ParameterError, Unmeasurable
from analyzers.intrinsic_dimension.task import Built, Data, Metric, Split, Training
from analyzers.models import Models, WholeCheckpoint
from pipeline.models import nets
from pipeline.models.task_data import (
    Arrays,
    checked,
    data_of,
    digits,
    existing,
    file_digest,
    limited,
    read_idx,
    read_npz,
    split,
)
from pipeline.models.task_file import ArrayTask, DataPart

FRACTIONS = {"train": 0.6, "tune": 0.15, "score": 0.25}
TUNE_OF_TRAIN = {"train": 0.9, "tune": 0.1}


@dataclass(frozen=True)
class Classification:
    """`Task` of an `ArrayTask`. Every split is in memory."""

    name: str
    splits: dict[Split, Data] = field(repr=False)
    model: str
    activation: str
    reference_score: float | None
    training: Training
    n_classes: int
    metric: Metric = "accuracy"

    @property
    def ensembles(self) -> bool:
        """The nets that ship can be trained many at a time."""
        return self.model in ("mlp", "lenet")

    def data(self, split: Split) -> Data:
        """The examples of a split."""
        return self.splits[split]

    def build(self, checkpoint: WholeCheckpoint, models: Models, seed: int, random: bool) -> Built:
        """The net with the checkpoint's parameters, or freshly drawn ones. Raises `Unmeasurable` where it does not fit
        the data."""
        if self.model in ("mlp", "lenet"):
            net = nets.chain(checkpoint, self.model, self.activation, seed if random else None)
            self._check(net, checkpoint)
            return Built(net)
        module = models.build(checkpoint, None if self.model == "config" else self.model)
        return Built(reinitialised(module, seed) if random else module)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cross-entropy."""
        return torch.nn.functional.cross_entropy(_logits(outputs), targets)

    def losses(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of each member of an ensemble, (members,), from (members, n, classes)."""
        return torch.nn.functional.cross_entropy(outputs.transpose(1, 2), targets, reduction="none").mean(dim=1)

    def scores(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """1 where the greatest output is the class."""
        return (_logits(outputs).argmax(dim=-1) == targets).to(torch.float32)

    def shuffled(self, data: Data, seed: int) -> Data:
        """Pixels of every example in one order, drawn once."""
        (x,) = data.inputs
        order = torch.randperm(x[0].numel(), generator=torch.Generator().manual_seed(seed))
        return Data((x.reshape(len(x), -1)[:, order].reshape(x.shape),), data.targets)

    def _check(self, net: nets.Chain, checkpoint: WholeCheckpoint) -> None:
        where = f"{checkpoint.run}@{checkpoint.step}"
        (x,) = self.splits["train"].inputs
        wanted = nets.expected_inputs(net)
        if wanted is not None and x[0].numel() != wanted:
            raise Unmeasurable(
                f"{where}: takes {wanted} inputs, but the examples of task {self.name} have {x[0].numel()}"
            )
        if nets.outputs_of(net) < self.n_classes:
            raise Unmeasurable(
                f"{where}: has {nets.outputs_of(net)} outputs, but the labels of task {self.name} go up to "
                f"{self.n_classes - 1}"
            )
        try:
            net(x[:1])
        except RuntimeError as error:
            raise Unmeasurable(
                f"{where}: an example of shape {tuple(x.shape[1:])} cannot pass through it: {error}"
            ) from error


def read_array_task(told: ArrayTask, folder: Path) -> tuple[Classification, list[str]]:
    """The task, and the digests of its files. Raises `ParameterError` for data that cannot be learned from."""
    if told.model not in ("mlp", "lenet", "config") and ":" not in told.model:
        raise ParameterError(f"task {told.name}: model {told.model!r} is not mlp, lenet, config or package.module:name")
    flat = told.flatten if told.flatten is not None else told.model == "mlp"
    digests: list[str] = []
    if isinstance(told.data, dict):
        if set(told.data) != {"train", "score"}:
            raise ParameterError(f"task {told.name}: data names {sorted(told.data)}, but needs train and score")
        train, score = (_arrays(told, told.data[part], folder, digests) for part in ("train", "score"))
        parts = split(data_of(train, told.scale, told.mean, told.std, flat), TUNE_OF_TRAIN)
        parts["score"] = data_of(score, told.scale, told.mean, told.std, flat)
        n_classes = 1 + int(max(train.labels.max(), score.labels.max()))
    else:
        every = _arrays(told, told.data, folder, digests)
        parts = split(data_of(every, told.scale, told.mean, told.std, flat), FRACTIONS)
        n_classes = 1 + int(every.labels.max())
    names: tuple[Split, ...] = ("train", "tune", "score")
    splits = {name: limited(parts[name], told.limit.get(name)) for name in names}
    training = Training(**told.training.model_dump())
    task = Classification(told.name, splits, told.model, told.activation, told.reference_score, training, n_classes)
    return task, digests


def _arrays(told: ArrayTask, part: str | DataPart, folder: Path, digests: list[str]) -> Arrays:
    where = f"task {told.name}"
    if part == "digits":
        return checked(digits(), where)
    if isinstance(part, str):
        path = existing(part, folder, where)
        digests += [file_digest(path), told.inputs, told.labels]
        return checked(read_npz(path, told.inputs, told.labels), f"{where}, {path}")
    if part.npz is not None:
        path = existing(part.npz, folder, where)
        digests += [file_digest(path), part.inputs, part.labels]
        return checked(read_npz(path, part.inputs, part.labels), f"{where}, {path}")
    inputs, labels = existing(part.inputs, folder, where), existing(part.labels, folder, where)
    digests += [file_digest(inputs), file_digest(labels)]
    return checked(Arrays(read_idx(inputs), read_idx(labels)), f"{where}, {inputs}")


def reinitialised(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Parameters drawn anew from the seed: by transformers' own rule where the model is one of its, else by each
    layer's `reset_parameters`. Raises `Unmeasurable` where a parameter belongs to a layer without one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = getattr(module, "config", None)
        if config is not None and hasattr(module, "init_weights"):
            return type(module)(config).eval()
        for name, layer in module.named_modules():
            own = dict(layer.named_parameters(recurse=False))
            reset = getattr(layer, "reset_parameters", None)
            if own and not callable(reset):
                raise Unmeasurable(f"the control random_init cannot redraw {name}.{next(iter(own))}")
            if callable(reset):
                reset()
    return module.eval()


def _logits(outputs: object) -> torch.Tensor:
    found = getattr(outputs, "logits", outputs)
    assert isinstance(found, torch.Tensor)
    return found
