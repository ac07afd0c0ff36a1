"""One archive of many layouts, together with what every matrix of it really is: the truth the report is held to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

Tensors = dict[str, np.ndarray]


@dataclass(frozen=True)
class Truth:
    """One matrix at one step: W as tuned and its base in float64 (m, n), and what the report should call it.

    `stored`: the values that stand in the file (dense matrices); `factors`: (B, A, scale) of an adapter.
    """

    w: np.ndarray
    base: np.ndarray | None
    kind: str
    layer: float
    orientation: str = "out_in"
    stored: np.ndarray | None = None
    factors: tuple[np.ndarray, np.ndarray, float] | None = None

    @property
    def measured(self) -> np.ndarray:
        """What `weight_spectra` measures: W, or an adapter's Δ."""
        return self.delta if self.factors else self.w

    @property
    def delta(self) -> np.ndarray:
        """Δ = W − W0."""
        if self.factors:
            b, a, scale = self.factors
            return scale * (b.astype(np.float64) @ a.astype(np.float64))
        assert self.base is not None
        return self.w - self.base


Truths = dict[tuple[str, int, str], Truth]
"""(run, step, matrix) → what it is."""


def structured(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Noise and a few strong directions, float32."""
    flat = rng.standard_normal((shape[0], int(np.prod(shape[1:]))))
    for strength in (6.0, 3.0, 2.0):
        flat += strength * np.outer(rng.standard_normal(flat.shape[0]), rng.standard_normal(flat.shape[1])) / 8
    return (0.05 * flat).reshape(shape).astype(np.float32)


def build(root: Path) -> Truths:
    """Writes the archive; every run is an own series with an own base."""
    truths: Truths = {}
    _dense(root / "dense", truths)
    _half(root / "half", truths)
    _conv1d(root / "gpt", truths)
    _convolutions(root / "convnet", truths)
    _experts(root / "moe", truths)
    return truths


def save(folder: Path, tensors: Mapping[str, np.ndarray], config: dict | None = None) -> None:
    """A model.safetensors and its config.json."""
    folder.mkdir(parents=True)
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))


def save_adapter(folder: Path, factors: Mapping[str, tuple[np.ndarray, np.ndarray]], config: dict) -> None:
    """PEFT's two files; factors by module: (B, A)."""
    folder.mkdir(parents=True)
    tensors = {}
    for module, (b, a) in factors.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = a
        tensors[f"base_model.model.{module}.lora_B.weight"] = b
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "bias": "none", **config}))


LINEAR = {
    "layers.0.self_attn.q_proj": ("attention.query", 0, (40, 40)),
    "layers.0.mlp.up_proj": ("mlp.up", 0, (96, 40)),
    "layers.1.mlp.down_proj": ("mlp.down", 1, (40, 96)),
    "layers.1.deficient": ("linear", 1, (30, 36)),
    "layers.2.wide": ("linear", 2, (3, 300)),
    "layers.2.tall": ("linear", 2, (300, 3)),
    "layers.3.tiny": ("linear", 3, (2, 2)),
}


def _dense(root: Path, truths: Truths) -> None:
    rng = np.random.default_rng(1)
    base = {name: structured(rng, *shape) for name, (_, _, shape) in LINEAR.items()}
    half = rng.standard_normal((30, 7)), rng.standard_normal((7, 36))
    base["layers.1.deficient"] = np.float32(np.rint(4 * half[0])) @ np.float32(np.rint(4 * half[1]))
    embedding = structured(rng, 70, 40)
    norm = np.ones(40, np.float32)
    extra = {"embed_tokens.weight": embedding, "layers.0.input_layernorm.weight": norm}
    save(root / "base", {f"model.{k}.weight": v for k, v in base.items()} | {"model." + k: v for k, v in extra.items()})
    for step in (100, 200, 400):
        tensors = {k: v + np.float32(0.002 * step / 100) * structured(rng, *v.shape) * 3 for k, v in base.items()}
        moved = embedding + np.float32(0.01) * structured(rng, 70, 40)
        if step == 400:  # one matrix with an update far out of the base's span, one that does not move
            tensors["layers.0.self_attn.q_proj"] = base["layers.0.self_attn.q_proj"] + structured(rng, 40, 40) * 2
            tensors["layers.1.mlp.down_proj"] = base["layers.1.mlp.down_proj"].copy()
        everything = {f"model.{k}.weight": v for k, v in tensors.items()}
        save(root / f"full/checkpoint-{step}", everything | {"model.embed_tokens.weight": moved})
        for name, value in tensors.items():
            kind, layer, _ = LINEAR[name]
            truths["zoo/dense/full", step, name] = Truth(
                value.astype(np.float64), base[name].astype(np.float64), kind, layer, stored=value
            )
        truths["zoo/dense/full", step, "embed_tokens"] = Truth(
            moved.T.astype(np.float64),
            embedding.T.astype(np.float64),
            "embedding",
            np.nan,
            "in_out",
            stored=moved.T,
        )
    adapted = list(LINEAR)[:3]
    variants = {
        "lora_r1": (1, 3.0, {"r": 1, "lora_alpha": 3}, (50,)),
        "lora_r4": (4, 2.5, {"r": 4, "lora_alpha": 10}, (100, 300)),
        "rslora": (4, 8 / 2.0, {"r": 4, "lora_alpha": 8, "use_rslora": True}, (100,)),
    }
    for run, (rank, scale, config, steps) in variants.items():
        for step in steps:
            config = {**config, "rank_pattern": {}, "alpha_pattern": {}}
            factors, scales = {}, {}
            for name in adapted:
                r, s = rank, scale
                if run == "lora_r4" and name.endswith("up_proj"):
                    config["rank_pattern"], config["alpha_pattern"] = {"up_proj": 6}, {"mlp.up_proj": 3}
                    r, s = 6, 0.5
                m, n = LINEAR[name][2]
                b, a = rng.standard_normal((m, r)), rng.standard_normal((r, n))
                b *= np.sqrt(step) / 400
                factors[name], scales[name] = (b.astype(np.float32), a.astype(np.float32)), s
            save_adapter(root / f"{run}/checkpoint-{step}", {f"model.{k}": v for k, v in factors.items()}, config)
            for name, (b, a) in factors.items():
                w0 = base[name].astype(np.float64)
                delta = scales[name] * (b.astype(np.float64) @ a.astype(np.float64))
                kind, layer, _ = LINEAR[name]
                truths[f"zoo/dense/{run}", step, name] = Truth(
                    w0 + delta, w0, kind, layer, factors=(b, a, scales[name])
                )


def _half(root: Path, truths: Truths) -> None:
    """bfloat16, base and tuned; a matrix name that another run has with another shape."""
    rng = np.random.default_rng(2)
    name = "layers.0.self_attn.q_proj"
    base = structured(rng, 64, 32).astype(ml_dtypes.bfloat16)
    save(root / "base", {f"model.{name}.weight": base})
    for step in (7, 100):
        tuned = (base.astype(np.float32) + structured(rng, 64, 32) * np.float32(0.05)).astype(ml_dtypes.bfloat16)
        save(root / f"sft/step_{step}", {f"model.{name}.weight": tuned})
        truths["zoo/half/sft", step, name] = Truth(
            tuned.astype(np.float64), base.astype(np.float64), "attention.query", 0, stored=tuned
        )


def _conv1d(root: Path, truths: Truths) -> None:
    """GPT-2 stores (in, out), fuses q, k, v, and its adapter has fan_in_fan_out."""
    rng = np.random.default_rng(3)
    config = {"model_type": "gpt2", "n_head": 2, "n_embd": 24, "n_layer": 1}
    stored = {
        "h.0.attn.c_attn": structured(rng, 24, 72),
        "h.0.attn.c_proj": structured(rng, 24, 24),
        "h.0.mlp.c_fc": structured(rng, 24, 96),
    }
    save(root / "base", {f"transformer.{k}.weight": v for k, v in stored.items()}, config)
    factors = {}
    for name, value in stored.items():
        b = (0.1 * rng.standard_normal((value.shape[1], 2))).astype(np.float32)
        factors[name] = b, rng.standard_normal((2, value.shape[0])).astype(np.float32)
    save_adapter(
        root / "lora/checkpoint-9",
        {f"transformer.{k}": v for k, v in factors.items()},
        {"r": 2, "lora_alpha": 4, "fan_in_fan_out": True, "target_modules": ["c_attn", "c_proj", "c_fc"]},
    )
    tuned = {k: v + np.float32(0.1) * structured(rng, *v.shape) for k, v in stored.items()}
    save(root / "full/checkpoint-5", {f"transformer.{k}.weight": v for k, v in tuned.items()}, config)
    for name, value in stored.items():
        kind = {"c_proj": "attention.output", "c_fc": "mlp.up"}.get(name.rsplit(".", 1)[1], "")
        rows = value.shape[1]
        parts = {name: (slice(0, rows), kind)}
        if name.endswith("c_attn"):
            words = zip("qkv", ("query", "key", "value"), strict=True)
            parts = {
                f"{name}.{c}": (slice(24 * i, 24 * i + 24), f"attention.{word}") for i, (c, word) in enumerate(words)
            }
        b, a = factors[name]
        for part, (cut, kind_of_part) in parts.items():
            w0 = value.T[cut].astype(np.float64)
            delta = 2.0 * (b[cut].astype(np.float64) @ a.astype(np.float64))
            truths["zoo/gpt/lora", 9, part] = Truth(w0 + delta, w0, kind_of_part, 0, "*", factors=(b[cut], a, 2.0))
            w = tuned[name].T[cut]
            truths["zoo/gpt/full", 5, part] = Truth(w.astype(np.float64), w0, kind_of_part, 0, "in_out", stored=w)
    q, k, v = np.split(tuned["h.0.attn.c_attn"].T, 3)
    output = tuned["h.0.attn.c_proj"].T
    for head, cut in enumerate((slice(0, 12), slice(12, 24))):
        for word, factors_of in (("qk", (q[cut].T, k[cut])), ("ov", (output[:, cut], v[cut]))):
            product = factors_of[0].astype(np.float64) @ factors_of[1].astype(np.float64)
            truths["zoo/gpt/full", 5, f"h.0.attn.{word}.head{head}"] = Truth(
                product, None, f"attention.{word}", 0, "*", factors=(*factors_of, 1.0)
            )


def _convolutions(root: Path, truths: Truths) -> None:
    """No base: compared with its own first step."""
    rng = np.random.default_rng(4)
    first = {
        "conv1": structured(rng, 24, 3, 3, 3),
        "conv2": structured(rng, 32, 24, 3, 3),
        "fc": structured(rng, 10, 32),
    }
    for index, step in enumerate((0, 1000)):
        tensors = {k: v + np.float32(0.3 * index) * structured(rng, *v.shape) for k, v in first.items()}
        save(root / f"step{step}", {f"{k}.weight": v for k, v in tensors.items()})
        for name, value in tensors.items():
            flat, flat0 = value.reshape(len(value), -1), first[name].reshape(len(value), -1)
            kind = "conv" if name.startswith("conv") else "*"
            truths["zoo/convnet", step, name] = Truth(
                flat.astype(np.float64), flat0.astype(np.float64) if index else None, kind, np.nan, stored=flat
            )


def _experts(root: Path, truths: Truths) -> None:
    """Experts fused in memory layout: (E, 2F, D) and (E, D, F)."""
    rng = np.random.default_rng(6)
    config = {"model_type": "olmoe", "num_experts": 3, "hidden_size": 20, "intermediate_size": 28}
    prefix = "layers.0.mlp"
    first = {
        f"{prefix}.experts.gate_up_proj": structured(rng, 3, 56, 20),
        f"{prefix}.experts.down_proj": structured(rng, 3, 20, 28),
        f"{prefix}.gate": structured(rng, 3, 20),
    }
    for index, step in enumerate((1, 2)):
        tensors = {k: v + np.float32(0.4 * index) * structured(rng, *v.shape) for k, v in first.items()}
        bare = {f"model.{k}" + (".weight" if k.endswith("gate") else ""): v for k, v in tensors.items()}
        save(root / f"checkpoint-{step}", bare, config)
        for name, value in tensors.items():
            cuts: dict[str, tuple[np.ndarray, np.ndarray, str]] = {}
            if name.endswith("gate"):
                cuts[name] = value, first[name], "router"
            for e in range(3 if "experts" in name else 0):
                stem = f"{prefix}.experts.{e}"
                if name.endswith("gate_up_proj"):
                    cuts[f"{stem}.gate_proj"] = value[e, :28], first[name][e, :28], "expert.gate"
                    cuts[f"{stem}.up_proj"] = value[e, 28:], first[name][e, 28:], "expert.up"
                else:
                    cuts[f"{stem}.down_proj"] = value[e], first[name][e], "expert.down"
            for part, (w, w0, kind) in cuts.items():
                truths["zoo/moe", step, part] = Truth(
                    w.astype(np.float64), w0.astype(np.float64) if index else None, kind, 0, stored=w
                )
