"""Trains trials: several at once as an ensemble, or one by one in the model's own memory.

A net that has `together` (all members in one batched product, nearly twice as fast on the digits) is trained by that,
another under vmap. A member draws its batches from its own seed, so that what comes of it does not depend on its
neighbours (but for the rounding of larger matrix products).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch.func import functional_call

from analyzers.intrinsic_dimension.controls import Splits
from analyzers.intrinsic_dimension.subspace import Span, Steering
from analyzers.intrinsic_dimension.task import Data, Task

BETAS, EPSILON, WARMUP = (0.9, 0.999), 1e-8, 0.05
SMALL = 300_000
"""Below this D a model is trained on one thread."""
DRAWN = 64
"""Batches that are drawn at a time."""
EVALUATED = 4096
"""Examples per forward pass of an evaluation, over all members together."""


@dataclass(frozen=True)
class TrainingCurve:
    """One member's training. `steps` (K + 1,) begins with 0; `tune` and `score` are mean scores there, NaN from where
    it diverged; `loss` the mean training loss since the evaluation before. `diverged_at`: a step, or −1."""

    steps: np.ndarray
    tune: np.ndarray
    score: np.ndarray
    loss: np.ndarray
    diverged_at: int


class Model:
    """A module whose trained parameters are views of one vector, and its gradients of another: no copies are made.

    `theta0` (D,) is where training starts.
    """

    def __init__(self, module: torch.nn.Module, spans: Sequence[Span], theta0: torch.Tensor) -> None:
        self.module, self.spans, self.theta0 = module, tuple(spans), theta0
        for parameter in module.parameters():
            parameter.requires_grad_(False)

    def bind(self) -> tuple[torch.Tensor, torch.Tensor]:
        """θ and its gradient, (D,) each, that the module now computes with."""
        theta, gradient = self.theta0.clone(), torch.zeros_like(self.theta0)
        parameters = dict(self.module.named_parameters())
        for span in self.spans:
            parameter = parameters[span.name]
            parameter.data = theta[span.start : span.stop].view(span.shape)
            parameter.requires_grad_(True)
            parameter.grad = gradient[span.start : span.stop].view(span.shape)
        return theta, gradient


@dataclass
class _Adam:
    """Adam over (E, k), each member with its own rate."""

    first: torch.Tensor
    second: torch.Tensor
    count: int = 0

    @staticmethod
    def of(v: torch.Tensor) -> _Adam:
        return _Adam(torch.zeros_like(v), torch.zeros_like(v))

    def step(self, v: torch.Tensor, g: torch.Tensor, rates: torch.Tensor) -> None:
        self.count += 1
        beta1, beta2 = BETAS
        self.first.lerp_(g, 1 - beta1)
        self.second.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        scale = math.sqrt(1 - beta2**self.count)
        denominator = self.second.sqrt().add_(EPSILON * scale)
        v.sub_(self.first.div(denominator).mul_(rates[:, None] * (scale / (1 - beta1**self.count))))


class _Batches:
    """Indices of one member's batches: every epoch a new order of all examples, drawn from its seed."""

    def __init__(self, count: int, size: int, seed: int) -> None:
        self._count, self._size = count, min(size, count)
        self._draw = torch.Generator().manual_seed(seed)
        self._order = torch.empty(0, dtype=torch.int64)

    def take(self, count: int) -> torch.Tensor:
        """The next `count` batches, (count, size)."""
        wanted = count * self._size
        parts = [self._order]
        there = len(self._order)
        while there < wanted:
            parts.append(torch.randperm(self._count, generator=self._draw))
            there += self._count
        order = torch.cat(parts)
        taken, self._order = order[:wanted], order[wanted:]
        return taken.view(count, self._size)


def rate_at(step: int, steps: int) -> float:
    """The share of the learning rate at step 0 … steps − 1: linear warm-up, then a cosine to zero."""
    warm = max(1, round(WARMUP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def evaluation_steps(steps: int, evaluations: int) -> tuple[int, ...]:
    """0 and `evaluations` evenly spread steps, the last one included."""
    return tuple(sorted({0, *(round(steps * (i + 1) / evaluations) for i in range(evaluations))}))


def train_ensemble(
    task: Task,
    module: torch.nn.Module,
    spans: Sequence[Span],
    theta0: torch.Tensor,
    steering: Steering,
    splits: Splits,
    seeds: Sequence[int],
    rates: Sequence[float],
    steps: int,
) -> list[TrainingCurve]:
    """E members at once. theta0 (E, D) or (1, D); seeds and rates (a parameter's step) of each."""
    members = len(seeds)
    shapes = [span.shape for span in spans]
    sizes = [span.stop - span.start for span in spans]
    names = [span.name for span in spans]

    def parameters(theta: torch.Tensor) -> dict[str, torch.Tensor]:
        parts = theta.split(sizes, dim=1)
        return {n: p.view(members, *shape) for n, p, shape in zip(names, parts, shapes, strict=True)}

    def loss(one: dict[str, torch.Tensor], inputs: tuple[torch.Tensor, ...], targets: torch.Tensor) -> torch.Tensor:
        return task.loss(functional_call(module, one, inputs), targets)

    def scores(one: dict[str, torch.Tensor], inputs: tuple[torch.Tensor, ...], targets: torch.Tensor) -> torch.Tensor:
        return task.scores(functional_call(module, one, inputs), targets)

    together, losses_of = getattr(module, "together", None), getattr(task, "losses", None)

    def gradient(v: torch.Tensor, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        theta = (theta0 + steering.move(v)).requires_grad_()
        taken = splits.train.take(batch)
        with torch.enable_grad():
            if together is None:
                losses = torch.vmap(loss)(parameters(theta), taken.inputs, taken.targets)
            else:
                outputs = together(parameters(theta), *taken.inputs)
                losses = (losses_of or torch.vmap(task.loss))(outputs, taken.targets)
            (g,) = torch.autograd.grad(losses.sum(), theta)
        return losses.detach(), g

    def evaluate(v: torch.Tensor, data: Data) -> torch.Tensor:
        of = parameters(theta0 + steering.move(v))
        total = torch.zeros(members, dtype=torch.float64, device=v.device)
        for index in torch.arange(len(data), device=v.device).split(max(1, EVALUATED // members)):
            part = data.take(index)
            if together is None:
                each = torch.vmap(scores, in_dims=(0, None, None))(of, part.inputs, part.targets)
            else:
                outputs = together(of, *(one.expand(members, *one.shape) for one in part.inputs))
                each = task.scores(outputs.flatten(0, 1), part.targets.repeat(members, *[1] * (part.targets.ndim - 1)))
            total += each.reshape(members, len(index), -1).double().mean(-1).sum(-1)
        return total / len(data)

    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return _train(task, steering, splits, seeds, rates, steps, theta0.device, theta0.shape[1], gradient, evaluate)


def train_alone(
    task: Task, model: Model, steering: Steering, splits: Splits, seed: int, rate: float, steps: int
) -> TrainingCurve:
    """One member in the model's own memory: beside it two vectors of D, and what the steering holds."""
    theta, held = model.bind()

    def place(v: torch.Tensor) -> None:
        torch.add(model.theta0, steering.move(v)[0], out=theta)

    def gradient(v: torch.Tensor, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        place(v)
        held.zero_()
        taken = splits.train.take(batch[0])
        with torch.enable_grad():
            loss = task.loss(model.module(*taken.inputs), taken.targets)
            loss.backward()
        return loss.detach()[None], held[None]

    def evaluate(v: torch.Tensor, data: Data) -> torch.Tensor:
        place(v)
        total = torch.zeros(1, dtype=torch.float64)
        size = 1024 if task.ensembles else 64
        for index in torch.arange(len(data), device=v.device).split(size):
            part = data.take(index)
            scores = task.scores(model.module(*part.inputs), part.targets)
            total += float(scores.reshape(len(index), -1).double().mean(-1).sum())
        return total / len(data)

    device = model.theta0.device
    return _train(task, steering, splits, [seed], [rate], steps, device, len(theta), gradient, evaluate)[0]


@contextmanager
def _threads(n_full: int) -> Iterator[None]:
    """One thread for a small model: its operations take microseconds, and threads that wait for each other at every
    one of them made training ten times slower on a busy machine."""
    before = torch.get_num_threads()
    if n_full < SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def _train(
    task: Task,
    steering: Steering,
    splits: Splits,
    seeds: Sequence[int],
    rates: Sequence[float],
    steps: int,
    device: torch.device,
    n_full: int,
    gradient: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    evaluate: Callable[[torch.Tensor, Data], torch.Tensor],
) -> list[TrainingCurve]:
    with _threads(n_full):
        return _rounds(task, steering, splits, seeds, rates, steps, device, gradient, evaluate)


def _rounds(
    task: Task,
    steering: Steering,
    splits: Splits,
    seeds: Sequence[int],
    rates: Sequence[float],
    steps: int,
    device: torch.device,
    gradient: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    evaluate: Callable[[torch.Tensor, Data], torch.Tensor],
) -> list[TrainingCurve]:
    v = steering.start(len(seeds), device)
    adam = _Adam.of(v)
    batches = {seed: _Batches(len(splits.train), task.training.batch_size, seed) for seed in seeds}
    rate = steering.rate * torch.tensor(list(rates), dtype=torch.float32, device=device)
    looks = evaluation_steps(steps, task.training.evaluations)
    alive = torch.ones(len(seeds), dtype=torch.bool, device=device)
    diverged_at = np.full(len(seeds), -1)
    rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    summed, since = torch.zeros(len(seeds), dtype=torch.float64, device=device), 0
    for step in range(steps + 1):
        if step in looks:
            living = alive.cpu().numpy()
            seen = [np.where(living, evaluate(v, data).cpu().numpy(), np.nan) for data in (splits.tune, splits.score)]
            lost = np.where(living & (since > 0), (summed / max(1, since)).cpu().numpy(), np.nan)
            rows.append((seen[0], seen[1], lost))
            summed, since = torch.zeros_like(summed), 0
        if step == steps:
            break
        if step % DRAWN == 0:
            each = {seed: of_seed.take(min(DRAWN, steps - step)) for seed, of_seed in batches.items()}
            drawn = torch.stack([each[seed] for seed in seeds], dim=1).to(device)
        losses, g = gradient(v, drawn[step % DRAWN])
        pulled = steering.pull(v, g)
        fine = torch.isfinite(losses) & torch.isfinite(pulled.sum(dim=1))
        if not bool((fine | ~alive).all()):
            diverged_at = np.where((alive & ~fine).cpu().numpy(), step, diverged_at)
            alive &= fine
        if not bool(alive.all()):
            pulled = torch.where(alive[:, None], pulled, torch.zeros(()))
            v = torch.where(alive[:, None], v, steering.start(len(seeds), device))
        adam.step(v, pulled, rate * rate_at(step, steps))
        summed += torch.where(alive, losses.double(), 0.0)
        since += 1
    tune, score, loss = (np.stack(column, axis=1) for column in zip(*rows, strict=True))
    at = np.array(looks, dtype=np.int64)
    return [TrainingCurve(at, tune[i], score[i], loss[i], int(diverged_at[i])) for i in range(len(seeds))]
