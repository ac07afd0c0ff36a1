"""Small real archives for the end-to-end tests, and what they call: the command as a user calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

SHAPES = {
    "layers.0.self_attn.q_proj.weight": (24, 24),
    "layers.0.self_attn.k_proj.weight": (24, 24),
    "layers.0.mlp.up_proj.weight": (48, 24),
    "layers.0.mlp.down_proj.weight": (24, 48),
    "layers.0.input_layernorm.weight": (24,),
}


def weights(seed: int, shapes: Mapping[str, tuple[int, ...]] = SHAPES) -> dict[str, np.ndarray]:
    """Gaussian float32 tensors with a decaying spectrum added, so that nothing is degenerate."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, shape in shapes.items():
        value = rng.standard_normal(shape) / np.sqrt(shape[-1])
        if len(shape) == 2:
            value = value + np.outer(rng.standard_normal(shape[0]), rng.standard_normal(shape[1])) / np.sqrt(shape[0])
        found[name] = value.astype(np.float32)
    return found


def write_run(folder: Path, steps: int | list[int], seed: int = 0, drift: float = 0.05, **shapes: Mapping) -> Path:
    """A run of checkpoint-N folders whose weights drift from one step to the next."""
    base = weights(seed, shapes.get("shapes", SHAPES))
    for index, step in enumerate(range(0, 10 * steps, 10) if isinstance(steps, int) else steps):
        moved = weights(1000 * seed + index + 1, shapes.get("shapes", SHAPES))
        tensors = {name: (base[name] + drift * index * moved[name]).astype(np.float32) for name in base}
        checkpoint = folder / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        save_file(tensors, checkpoint / "model.safetensors")
    return folder


def write_adapter(folder: Path, step: int, base: str, rank: int = 2, seed: int = 0) -> Path:
    """A PEFT LoRA checkpoint on the linear maps of SHAPES, α = 2 rank."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in SHAPES.items():
        if len(shape) == 2:
            module = "base_model.model." + name.removesuffix(".weight")
            tensors[f"{module}.lora_A.weight"] = rng.standard_normal((rank, shape[1])).astype(np.float32)
            tensors[f"{module}.lora_B.weight"] = (0.1 * rng.standard_normal((shape[0], rank))).astype(np.float32)
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    save_file(tensors, checkpoint / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "base_model_name_or_path": base}
    config |= {"target_modules": ["q_proj", "k_proj", "up_proj", "down_proj"], "fan_in_fan_out": False, "bias": "none"}
    (checkpoint / "adapter_config.json").write_text(json.dumps(config))
    return checkpoint


def command(*arguments: str | Path) -> list[str]:
    """The `varve` command of the interpreter that runs the tests."""
    return [str(Path(sys.executable).with_name("varve")), *map(str, arguments)]


def varve(*arguments: str | Path, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `varve` to its end and returns code, stdout and stderr."""
    env = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", **environment}
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=timeout, env=env, check=False)
