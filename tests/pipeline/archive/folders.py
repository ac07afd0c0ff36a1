"""Writes checkpoint folders as training loops do, small and fast."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from pipeline.archive import open_archive
from pipeline.archive.types import Archive, Run


def weights(seed: int = 0, prefix: str = "") -> dict[str, torch.Tensor]:
    """A small state dict with a matrix in float32, a matrix in bfloat16 and a vector."""
    draw = torch.Generator().manual_seed(seed)
    return {
        f"{prefix}fc1.weight": torch.randn(6, 4, generator=draw),
        f"{prefix}fc2.weight": torch.randn(3, 6, generator=draw).bfloat16(),
        f"{prefix}fc1.bias": torch.randn(6, generator=draw),
    }


def save(path: Path, state: Any = None, seed: int = 0) -> Path:
    """A weights file in the format of its suffix, its folders made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = weights(seed) if state is None else state
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def write_json(path: Path, data: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))
    return path


def trainer_checkpoint(folder: Path, step: int, max_steps: int = 1000, seed: int | None = None, **state: Any) -> Path:
    """A folder as the Hugging Face Trainer leaves it: weights, optimizer, scheduler, random and trainer state."""
    save(folder / "model.safetensors", seed=step if seed is None else seed)
    save(folder / "optimizer.pt", {"state": {0: {"exp_avg": torch.zeros(3)}}})
    save(folder / "scheduler.pt", {"last_epoch": step})
    save(folder / "rng_state.pth", {"cpu": torch.zeros(8, dtype=torch.uint8)})
    save(folder / "training_args.bin", {"learning_rate": 0.1})
    write_json(folder / "config.json", {"model_type": "tiny"})
    rows = [{"step": at, "loss": 1 / at, "epoch": at / 10} for at in range(10, step + 1, 10)]
    write_json(
        folder / "trainer_state.json", {"global_step": step, "max_steps": max_steps, "log_history": rows, **state}
    )
    return folder


def steps(archive: Archive) -> dict[str, list[int]]:
    """Run id → its steps."""
    return {run.id: [checkpoint.step for checkpoint in run.checkpoints] for run in archive.runs}


def only_run(root: Path, **options: Any) -> Run:
    archive = open_archive(root, **options)
    assert len(archive.runs) == 1, steps(archive)
    return archive.runs[0]


@contextmanager
def unprivileged() -> Iterator[None]:
    """As nobody, where the tests run as root: root reads and writes whatever the permissions say."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def bits(array: np.ndarray) -> tuple[str, tuple[int, ...], bytes]:
    """dtype, shape and bytes: equal only for bit-equal arrays, NaN included."""
    return str(array.dtype), array.shape, array.tobytes()


def torch_bits(tensor: torch.Tensor) -> tuple[str, tuple[int, ...], bytes]:
    """`bits` of a torch tensor, by torch's own view of its bytes."""
    tensor = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())
    raw = tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
    return str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), raw
