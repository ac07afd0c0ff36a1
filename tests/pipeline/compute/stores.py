"""Small real stores for tests: safetensors written to disk, found by the archive and ingested."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from pipeline.archive import describe, open_archive
from pipeline.store import Store, ingest_checkpoint, record_run

Tensors = Mapping[str, np.ndarray]
LAYERS = tuple(f"model.layers.{i}.mlp.up_proj.weight" for i in (0, 1))


def weights(seed: int, shape: tuple[int, int] = (8, 6)) -> dict[str, np.ndarray]:
    """Two Gaussian matrices of one shape and one of another, float32."""
    draw = np.random.default_rng(seed)
    made = {name: draw.standard_normal(shape).astype(np.float32) for name in LAYERS}
    made["model.layers.0.mlp.down_proj.weight"] = draw.standard_normal(shape[::-1]).astype(np.float32)
    return made


def write_full(folder: Path, tensors: Tensors) -> None:
    """A checkpoint as one safetensors file."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), folder / "model.safetensors")


def write_adapter(folder: Path, factors: Mapping[str, tuple[np.ndarray, np.ndarray]], alpha: float, rank: int) -> None:
    """A PEFT LoRA checkpoint: module → (A (r, n), B (m, r))."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {}
    for module, (a, b) in factors.items():
        named[f"base_model.model.{module}.lora_A.weight"] = a
        named[f"base_model.model.{module}.lora_B.weight"] = b
    save_file(named, folder / "adapter_model.safetensors")
    modules = sorted({module.rsplit(".", 1)[-1] for module in factors})
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": modules}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def ingest(root: Path, store_path: Path, bases: Mapping[str, tuple[str, str]] | None = None) -> Store:
    """Everything under `root` in a store. bases: run id → (base "run@step", its kind)."""
    store = Store.open(store_path, "a")
    for run in open_archive(root).runs:
        base, kind = (bases or {}).get(run.id, (None, None))
        record_run(store, run, base, kind)
        for checkpoint in run.checkpoints:
            ingest_checkpoint(store, checkpoint, describe(checkpoint))
    return store


def small_archive(root: Path, steps: tuple[int, ...] = (10, 20, 30)) -> Path:
    """root/base, root/full (checkpoint-N, moving away from the base) and root/lora (an adapter on the base)."""
    base = weights(0)
    write_full(root / "base", base)
    for position, step in enumerate(steps, start=1):
        moved = {n: (w + 0.1 * position * weights(1)[n]).astype(np.float32) for n, w in base.items()}
        write_full(root / "full" / f"checkpoint-{step}", moved)
        draw = np.random.default_rng(position)
        factors = {
            name.removesuffix(".weight"): (
                draw.standard_normal((2, 6)).astype(np.float32),
                draw.standard_normal((8, 2)).astype(np.float32),
            )
            for name in LAYERS
        }
        write_adapter(root / "lora" / f"checkpoint-{step}", factors, alpha=4, rank=2)
    return root


def small_store(tmp: Path, steps: tuple[int, ...] = (10, 20, 30)) -> Store:
    """The store of `small_archive`, both runs compared with the base."""
    root = small_archive(tmp / "runs", steps)
    names = {run.id.rsplit("/", 1)[-1]: run.id for run in open_archive(root).runs}
    base = f"{names['base']}@0"
    return ingest(root, tmp / "S.zarr", {names["full"]: (base, "sibling"), names["lora"]: (base, "sibling")})
