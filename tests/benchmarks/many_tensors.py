"""What thousands of small tensors take: `python -m tests.benchmarks.many_tensors FOLDER [--blocks 25 250]`.

An archive of one run with three checkpoints of six matrices (32 × 48 to 64 × 48) and six vectors a block: 250 blocks
are 3000 tensors. Prints CPU seconds by stage and what a unit of each statistic takes; for each further number of blocks
also what a tensor costs there over what it costs in the first archive: 1 where cost grows with the archive, less where
it is fixed. One worker thread, every default analyzer, by the library route. About two CPU minutes and 200 MB.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors.numpy import save_file

import pipeline
from pipeline.api import configured
from pipeline.compute.cluster import ThreadCluster
from pipeline.compute.plan import plan
from pipeline.compute.profile import Profile
from pipeline.compute.run import compute

SHAPES: dict[str, tuple[int, ...]] = {
    "attn.q.weight": (32, 48),
    "attn.k.weight": (32, 48),
    "attn.v.weight": (32, 48),
    "attn.o.weight": (48, 32),
    "mlp.up.weight": (64, 48),
    "mlp.down.weight": (48, 64),
    "attn.q.bias": (32,),
    "attn.k.bias": (32,),
    "attn.v.bias": (32,),
    "attn.o.bias": (48,),
    "mlp.up.bias": (64,),
    "norm.weight": (48,),
}
CHECKPOINTS = 3
Value = TypeVar("Value")


def write(folder: Path, blocks: int) -> None:
    """The archive: Gaussian weights that drift by an eighth of their size a checkpoint."""
    draw = np.random.default_rng(0)
    weights = {
        f"blocks.{block}.{name}": (draw.standard_normal(shape) / 7).astype(np.float32)
        for block in range(blocks)
        for name, shape in SHAPES.items()
    }
    for step in range(CHECKPOINTS):
        checkpoint = folder / f"run/checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        save_file(weights, checkpoint / "model.safetensors")
        weights = {name: w + (0.02 * draw.standard_normal(w.shape)).astype(np.float32) for name, w in weights.items()}


def measure(folder: Path, blocks: int) -> dict[str, float]:
    """CPU seconds by stage; prints the statistics' own."""
    write(folder / "archive", blocks)
    taken: dict[str, float] = {}

    def timed(stage: str, work: Callable[[], Value]) -> Value:
        started = time.process_time()
        value = work()
        taken[stage] = time.process_time() - started
        return value

    analyzers, profile = configured(None, None), Profile()
    store = timed("ingest", lambda: pipeline.ingest(folder / "archive", folder / "store.zarr"))
    timed("plan", lambda: plan(store, analyzers))
    with ThreadCluster(1) as cluster:
        timed("compute", lambda: compute(store, analyzers, cluster, profile=profile))
    timed("nothing new", lambda: plan(pipeline.ingest(folder / "archive", folder / "store.zarr"), analyzers))
    tree = timed("assemble", lambda: pipeline.assemble(store, analyzers))
    timed("save and page", lambda: pipeline.write_report(tree, folder / "out"))
    cost = {
        name: round(1e3 * sum(seconds.cpu for seconds in spent.values()) / profile.units[name], 2)
        for name, spent in profile.by_statistic.items()
        if profile.units[name]
    }
    print(json.dumps({"blocks": blocks, "CPU ms a unit": dict(sorted(cost.items(), key=lambda item: -item[1]))}))
    print(json.dumps({"blocks": blocks, "CPU s": {stage: round(seconds, 2) for stage, seconds in taken.items()}}))
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--blocks", type=int, nargs="+", default=[25, 250])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    first: tuple[int, dict[str, float]] | None = None
    for blocks in arguments.blocks:
        taken = measure(arguments.folder / str(blocks), blocks)
        if first is None:
            first = blocks, taken
            continue
        times = {stage: round(taken[stage] / seconds * first[0] / blocks, 2) for stage, seconds in first[1].items()}
        print(json.dumps({"blocks": blocks, f"a tensor's cost over that of {first[0]} blocks": times}))


if __name__ == "__main__":
    main()
