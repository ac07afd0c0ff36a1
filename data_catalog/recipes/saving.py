"""How recipes save: run folders with `checkpoint-N/`, a config.json and a trainer_state.json, as trainers do.

A run is written below a temporary name and renamed when it is complete, so an interrupted recipe repeats one run only.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

Log = list[dict[str, float]]


def write_checkpoint(
    folder: Path, tensors: Mapping[str, torch.Tensor], step: int, log: Sequence[Mapping[str, float]], **files: Any
) -> None:
    """One checkpoint: weights, `NAME.json` for each of `files` (adapter_config, config), and the log up to this step.

    The weights are named adapter_model.safetensors when there is an adapter_config, else model.safetensors.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = "adapter_model.safetensors" if "adapter_config" in files else "model.safetensors"
    # The config files first: a reader that finds weights finds what they mean.
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
    state = {"global_step": step, "log_history": list(log)}
    (folder / "trainer_state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
    save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, folder / weights, {"format": "pt"})


def complete(run: Path, say: Callable[[str], None], train: Callable[[Path], None]) -> None:
    """Calls `train(folder)` and moves what it wrote to `run`, unless `run` is there already."""
    if run.exists():
        say(f"{run.name}: already there")
        return
    unfinished = run.with_name(f".{run.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    train(unfinished)
    unfinished.rename(run)
