"""Runs statistics of pathways on checkpoints in memory, as a worker would."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from analyzers.contract import Context, Observation, Result, Statistic, Unit
from analyzers.models import Material, WholeCheckpoint
from analyzers.pathway_metrics.probe import Probe, ProbeColumn, Trace
from analyzers.pathway_metrics.routing import Routing
from pipeline.models.build import build_model

MATERIAL = Material("probe", "test", "digest", "source")


@dataclass
class InMemory:
    """`Models` of one probe, and of checkpoints built as the pipeline builds them (or of a given module)."""

    probe: Probe
    model: torch.nn.Module | None = None

    def open(self, material: Material) -> Probe:
        return self.probe

    def build(self, checkpoint: WholeCheckpoint, factory: str | None = None) -> torch.nn.Module:
        return build_model(checkpoint, factory) if self.model is None else self.model


def run(statistic: Statistic, probe: Probe, model: torch.nn.Module) -> Result:
    """The statistic's result on a module."""
    checkpoint = WholeCheckpoint("run", 0, "key", {}, (), lambda name: torch.zeros(0))
    unit = Unit((Observation("run", 0, None, None, checkpoint=checkpoint),))
    return statistic.compute(unit, Context(models=InMemory(probe, model)))


def routing_of_trace(trace: Trace | None, probe: Probe) -> Result:
    """The routing of a recorded trace of run@7."""
    probe = replace(probe, traces=lambda run, step: trace)
    checkpoint = WholeCheckpoint("run", 7, "key", {}, (), torch.zeros)
    unit = Unit((Observation("run", 7, None, None, checkpoint=checkpoint),))
    return Routing(MATERIAL).compute(unit, Context(models=InMemory(probe)))


def token_probe(lengths: list[int], largest: int = 60, seed: int = 0, padding: int = 0, **more: Any) -> Probe:
    """Random token ids from 3 to `largest` − 1, padded to the longest."""
    draw = np.random.default_rng(seed)
    inputs = draw.integers(3, largest, (len(lengths), max(lengths)))
    inputs[np.arange(max(lengths)) >= np.array(lengths)[:, None]] = padding
    columns = {"class": ProbeColumn.of(np.arange(len(lengths)) % 2)}
    return Probe("test", inputs, np.array(lengths), columns=columns, **more)
