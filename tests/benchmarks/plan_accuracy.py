"""`varve plan` against what then happened, on three archives that no constant of the plan was fitted to.

    python -m tests.benchmarks.plan_accuracy FOLDER [ARCHIVE ...]

Without ARCHIVEs it writes three into FOLDER: a GPT-2 in float16 (full checkpoints), a Llama in bfloat16 with adapters
of rank 4 and 64, a mixture of experts in float32. Time is CPU seconds of `varve analyze --no-flow --workers 1`;
bytes are those of the store's tensors and results.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.benchmarks.rows import single_thread

if __name__ == "__main__":
    single_thread()

import torch
from safetensors.torch import save_file

from tests.benchmarks.lora_series import save_adapter

Shapes = Mapping[str, tuple[int, ...]]
_VARVE = str(Path(sys.executable).with_name("varve"))
_CHOSEN = ("--analyzers", "weight_spectra,intruder_dimensions")


def gpt2() -> tuple[dict[str, object], Shapes]:
    """Config and shapes of a small GPT-2, whose linear weights are stored transposed."""
    d, layers = 512, 3
    config = {"model_type": "gpt2", "n_embd": d, "n_head": 8, "n_layer": layers, "vocab_size": 4000}
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (4000, d), "wpe.weight": (256, d)}
    for i in range(layers):
        for name, shape in {
            "attn.c_attn": (d, 3 * d),
            "attn.c_proj": (d, d),
            "mlp.c_fc": (d, 4 * d),
            "mlp.c_proj": (4 * d, d),
        }.items():
            shapes[f"h.{i}.{name}.weight"] = shape
            shapes[f"h.{i}.{name}.bias"] = shape[1:]
    return config, shapes


def llama() -> tuple[dict[str, object], Shapes]:
    """Config and shapes of a small Llama."""
    d, f, layers = 640, 1728, 2
    config = {"model_type": "llama", "hidden_size": d, "intermediate_size": f, "num_hidden_layers": layers}
    config |= {"num_attention_heads": 10, "num_key_value_heads": 10, "vocab_size": 3000}
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (3000, d), "lm_head.weight": (3000, d)}
    for i in range(layers):
        at = f"model.layers.{i}"
        shapes |= {f"{at}.self_attn.{p}_proj.weight": (d, d) for p in "qkvo"}
        shapes |= {f"{at}.mlp.{p}_proj.weight": (f, d) for p in ("gate", "up")}
        shapes[f"{at}.mlp.down_proj.weight"] = (d, f)
    return config, shapes


def olmoe() -> tuple[dict[str, object], Shapes]:
    """Config and shapes of a small OLMoE, one tensor per expert."""
    d, f, layers, experts = 192, 128, 2, 16
    config = {"model_type": "olmoe", "hidden_size": d, "intermediate_size": f, "num_hidden_layers": layers}
    config |= {"num_attention_heads": 6, "num_key_value_heads": 6, "num_experts": experts, "vocab_size": 2000}
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (2000, d), "lm_head.weight": (2000, d)}
    for i in range(layers):
        at = f"model.layers.{i}"
        shapes |= {f"{at}.self_attn.{p}_proj.weight": (d, d) for p in "qkvo"}
        shapes[f"{at}.mlp.gate.weight"] = (experts, d)
        for e in range(experts):
            shapes |= {f"{at}.mlp.experts.{e}.{p}_proj.weight": (f, d) for p in ("gate", "up")}
            shapes[f"{at}.mlp.experts.{e}.down_proj.weight"] = (d, f)
    return config, shapes


def write_full(
    run: Path, config: Mapping[str, object], shapes: Shapes, dtype: torch.dtype, steps: tuple[int, ...]
) -> None:
    """A run that drifts away from a start whose columns fall in size, so that spectra fall as trained ones do."""
    draw = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(shape, generator=draw) * 0.1 * torch.arange(1, shape[-1] + 1) ** -0.5
        for name, shape in shapes.items()
    }
    for step in steps:
        at = run / f"checkpoint-{step}"
        at.mkdir(parents=True)
        (at / "config.json").write_text(json.dumps(config))
        save_file({name: w.to(dtype).contiguous() for name, w in weights.items()}, at / "model.safetensors")
        for w in weights.values():
            w += 0.002 * torch.randn(w.shape, generator=draw)


def write_adapters(run: Path, shapes: Shapes, rank: int, steps: tuple[int, ...]) -> None:
    """A LoRA of all linear matrices."""
    draw = torch.Generator().manual_seed(rank)
    linear = {n.removesuffix(".weight"): s for n, s in shapes.items() if ".layers." in n}
    a = {n: torch.randn((rank, s[1]), generator=draw) / s[1] ** 0.5 for n, s in linear.items()}
    b = {n: torch.zeros((s[0], rank)) for n, s in linear.items()}
    for step in steps:
        for name in linear:
            b[name] += 0.01 * torch.randn(b[name].shape, generator=draw)
            a[name] += 0.002 * torch.randn(a[name].shape, generator=draw)
        save_adapter(run / f"checkpoint-{step}", a, b, rank)


def archives(folder: Path) -> Iterator[Path]:
    """The three, written where they are not there yet."""
    for name in ("gpt2", "adapters", "experts"):
        root = folder / name
        if not root.exists():
            if name == "gpt2":
                write_full(root / "run", *gpt2(), torch.float16, (0, 100, 200, 400, 800))
            elif name == "adapters":
                config, shapes = llama()
                write_full(root / "base", config, shapes, torch.bfloat16, (0,))
                for rank in (4, 64):
                    write_adapters(root / f"lora-r{rank}", shapes, rank, (10, 20, 30, 40, 50))
            else:
                write_full(root / "run", *olmoe(), torch.float32, (0, 500, 1000, 2000))
        yield root


def taken(archive: Path, out: Path) -> tuple[float, int]:
    """CPU seconds of the analysis, and the bytes of the store it wrote."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [_VARVE, "analyze", str(archive), "--out", str(out), "--no-flow", "--workers", "1", *_CHOSEN]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    size = sum(f.stat().st_size for f in (out / "store.zarr").rglob("*") if f.is_file())
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, size


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("archives", type=Path, nargs="*")
    arguments = parser.parse_args()
    print("| archive | units | CPU s planned | taken | | MB planned | written | |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for archive in arguments.archives or archives(arguments.folder):
        said = subprocess.run([_VARVE, "plan", str(archive), "--json", *_CHOSEN], check=True, capture_output=True)
        planned = json.loads(said.stdout)["upper"]
        seconds, size = taken(archive, arguments.folder / f"out-{archive.name}")
        expected, stored = planned["phases"]["total"], planned["tensor_bytes"] + planned["result_bytes"]
        print(
            f"| {archive.name} | {planned['units']} | {expected:.1f} | {seconds:.1f} | {expected / seconds - 1:+.0%} "
            f"| {stored / 1e6:.1f} | {size / 1e6:.1f} | {stored / size - 1:+.0%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
