"""Models larger than memory: the layers that do not fit lie in a scratch folder and are read as the forward pass comes
to them (accelerate)."""

from __future__ import annotations

import math
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from analyzers.errors import ResourceError
from analyzers.models import WholeCheckpoint
from pipeline.store.limits import available_memory

SHARE = 0.8
"""Of the free memory, what a model may take: activations and the layer in hand need the rest."""


@dataclass
class Placement:
    """Arguments for `from_pretrained`, and the scratch folder that lives as long as the model."""

    arguments: dict[str, Any] = field(default_factory=dict)
    folder: str | None = None
    kept: bool = False

    def keep_with(self, model: torch.nn.Module) -> None:
        """The folder goes when the model does."""
        if self.folder is not None:
            self.kept = True
            weakref.finalize(model, shutil.rmtree, self.folder, True)


@contextmanager
def disk_placement(checkpoint: WholeCheckpoint, dtype: torch.dtype, memory_bytes: int | None) -> Iterator[Placement]:
    """Where the parameters of a model of this checkpoint go: all in memory, or by layers on disk beyond the limit.

    The scratch folder is TMPDIR's and takes as much as does not fit. Raises `ResourceError` without accelerate or room.
    """
    limit = int(SHARE * available_memory()) if memory_bytes is None else memory_bytes
    size = sum(math.prod(info.shape) for info in checkpoint.parameters) * dtype.itemsize
    if size <= limit:
        yield Placement()
        return
    where = f"{checkpoint.run}@{checkpoint.step}"
    try:
        import accelerate  # noqa: F401 - transformers uses it
    except ImportError as error:
        raise ResourceError(
            f"{where}: the model takes {size / 1e9:.1f} GB and {limit / 1e9:.1f} GB are free; install "
            "accelerate (pip install accelerate) to read it layer by layer"
        ) from error
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < 1.05 * size:
        raise ResourceError(
            f"{where}: the model takes {size / 1e9:.1f} GB, {limit / 1e9:.1f} GB of memory are free and "
            f"{free / 1e9:.1f} GB in {tempfile.gettempdir()}: set TMPDIR to a folder with enough space"
        )
    folder = tempfile.mkdtemp(prefix="varve-model-")
    placement = Placement(
        {"device_map": "auto", "max_memory": {"cpu": limit}, "offload_folder": folder, "offload_buffers": False}, folder
    )
    try:
        yield placement
    finally:
        if not placement.kept:
            shutil.rmtree(folder, ignore_errors=True)
