"""What a worker gives to statistics that run models: tasks and probe sets opened once, models built when asked for."""

from __future__ import annotations

import functools
from typing import Any

import torch

from analyzers.errors import ResourceError
from analyzers.models import Material, WholeCheckpoint


class WorkerModels:
    """The `Models` of a worker's process."""

    def open(self, material: Material) -> Any:
        """The task or probe set; kept, since every unit of a worker asks for the same few."""
        return _open(material)

    def build(self, checkpoint: WholeCheckpoint, factory: str | None = None) -> torch.nn.Module:
        """The model with the checkpoint's parameters. Raises `Unmeasurable` where none can be built."""
        from pipeline.models.build import build_model

        return build_model(checkpoint, factory)


@functools.lru_cache(maxsize=8)
def _open(material: Material) -> Any:
    from pipeline.models.materials import open_material

    opened, digest = open_material(material)
    if digest != material.digest:
        raise ResourceError(
            f"the {material.kind} {material.name} ({material.source}) changed since the analysis was planned"
        )
    return opened


MODELS = WorkerModels()
