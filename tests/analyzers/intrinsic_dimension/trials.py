"""Checkpoints in memory, and searches carried out without a store."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch

from analyzers.contract import Context, Observation, Result, Trial, Unit
from analyzers.errors import Unmeasurable
from analyzers.intrinsic_dimension.landscape import Landscape
from analyzers.intrinsic_dimension.task import Task
from analyzers.models import Material, ParameterInfo, WholeCheckpoint


def checkpoint(state: Mapping[str, torch.Tensor], step: int = 0, run: str = "run") -> WholeCheckpoint:
    """A checkpoint of tensors in memory; keys tell equal bits."""
    infos = tuple(
        ParameterInfo(n, tuple(t.shape), str(t.dtype).removeprefix("torch."), str(hash(t.numpy().tobytes())))
        for n, t in state.items()
    )
    return WholeCheckpoint(run, step, f"{run}@{step}", {}, infos, lambda name: state[name].clone())


def mlp(widths: tuple[int, ...] = (64, 64, 10), seed: int = 0) -> dict[str, torch.Tensor]:
    """Torch's own initialisation of an MLP under the names of a Sequential with activations between."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        linears = [torch.nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    state: dict[str, torch.Tensor] = {}
    for number, linear in enumerate(linears):
        state[f"{2 * number}.weight"] = linear.weight.detach()
        state[f"{2 * number}.bias"] = linear.bias.detach()
    return state


class OneTask:
    """`Models` of a single task."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def open(self, material: Material) -> Task:
        return self.task

    def build(self, checkpoint: WholeCheckpoint, factory: str | None = None) -> torch.nn.Module:
        raise Unmeasurable("no models here")


MATERIAL = Material("task", "digits", "d" * 32, "digits")


def carry_out(
    statistic: Landscape, of: WholeCheckpoint, task: Task, most: int = 400
) -> list[tuple[Trial, Result | Unmeasurable]]:
    """All rounds of a search, as the pipeline would."""
    finished: list[tuple[Trial, Result | Unmeasurable]] = []
    while trials := list(statistic.propose(finished)):
        assert len(finished) + len(trials) <= most, "the search does not end"
        finished += zip(trials, run(statistic, of, task, trials), strict=True)
    return finished


def run(statistic: Landscape, of: WholeCheckpoint, task: Task, trials: list[Trial]) -> list[Any]:
    """The results of some trials, trained as the groups of a plan would be."""
    units = [Unit((Observation(of.run, of.step, None, None, checkpoint=of),), trial) for trial in trials]
    contexts = [Context(models=OneTask(task))] * len(units)
    results = statistic.compute_batch(units, contexts)
    for result in results:
        if isinstance(result, Exception) and not isinstance(result, Unmeasurable):
            raise result
    return results
