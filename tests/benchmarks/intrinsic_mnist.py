"""The table of 1804.08838 on real MNIST: intrinsic dimension of a 784-200-200-10 net (published 750) and a LeNet (290).

    python -m tests.benchmarks.intrinsic_mnist MNIST_FOLDER --net fc --methods one_hot --out /tmp/mnist-fc

MNIST_FOLDER holds the four idx files, gzipped or not. A second call with the same --out goes on where the first ended.
Prints d_int at 0.9, local (of the baseline) and global (of 1.0), with intervals, trials and CPU minutes.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
import xarray as xr
import yaml
from safetensors.torch import save_file

import pipeline
from analyzers.contract import Analyzer
from pipeline.analysis.resolve import analyzers_of

NETS = {"fc": 199_210, "lenet": 44_426}


def fc(seed: int) -> dict[str, torch.Tensor]:
    """784-200-200-10 as torch initialises it."""
    torch.manual_seed(seed)
    layers = [torch.nn.Linear(a, b) for a, b in ((784, 200), (200, 200), (200, 10))]
    return {f"{2 * i}.{n}": p.detach() for i, layer in enumerate(layers) for n, p in layer.named_parameters()}


def lenet(seed: int) -> dict[str, torch.Tensor]:
    """6 and 16 kernels of 5 × 5, then 256-120-84-10."""
    torch.manual_seed(seed)
    convolutions = {"conv1": torch.nn.Conv2d(1, 6, 5), "conv2": torch.nn.Conv2d(6, 16, 5)}
    linears = {f"fc{i}": torch.nn.Linear(a, b) for i, (a, b) in enumerate(((256, 120), (120, 84), (84, 10)), 1)}
    return {
        f"{m}.{n}": p.detach() for m, layer in (convolutions | linears).items() for n, p in layer.named_parameters()
    }


def write_task(folder: Path, mnist: Path, net: str, steps: int, lr: float) -> Path:
    """The task's YAML."""

    def part(which: str) -> dict[str, str]:
        found = {}
        for field, stem in (("inputs", f"{which}-images-idx3-ubyte"), ("labels", f"{which}-labels-idx1-ubyte")):
            path = next(p for p in (mnist / stem, mnist / f"{stem}.gz") if p.exists())
            found[field] = str(path.resolve())
        return found

    told = {
        "name": "mnist",
        "kind": "classification",
        "data": {"train": part("train"), "score": part("t10k")},
        "scale": 255,
        "model": "mlp" if net == "fc" else "lenet",
        "reference_score": 1.0,
        "limit": {"tune": 3000},
        "training": {"steps": steps, "batch_size": 128, "lr": lr, "evaluations": 2},
    }
    path = folder / "task.yaml"
    path.write_text(yaml.safe_dump(told))
    return path


def crossing(at: xr.Dataset) -> str:
    """d_int of one cell with its interval and flag, or the limit beyond which it lies."""
    ends = f"[{float(at.d_int_low):.0f}, {float(at.d_int_high):.0f}], flag {float(at.d_int_flag):.0f}"
    censored = float(at.censored)
    if censored != censored:
        return "not measured"
    if censored:
        return f"{'above' if censored > 0 else 'at or below'} {float(at.d_int_limit):.0f} {ends}"
    return f"{float(at.d_int):.0f} {ends}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mnist", type=Path)
    parser.add_argument("--net", choices=sorted(NETS), default="fc")
    parser.add_argument("--methods", default="one_hot", help="comma-separated: one_hot, fastfood, dense, sparse")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--set", action="append", default=[], help="a setting of the analyzer, KEY=JSON")
    given = parser.parse_args()
    torch.set_num_threads(1)
    run = given.out / "archive" / given.net / "checkpoint-0"
    state = (fc if given.net == "fc" else lenet)(0)
    assert sum(p.numel() for p in state.values()) == NETS[given.net]
    if not run.exists():
        run.mkdir(parents=True)
        save_file(state, run / "model.safetensors")
    task = write_task(given.out, given.mnist, given.net, given.steps, given.lr)
    settings = {
        "methods": given.methods.split(","),
        "refine_global": True,
        "trajectory": False,
        "representation": False,
        **{key: json.loads(value) for key, _, value in (one.partition("=") for one in given.set)},
    }
    chosen: tuple[Analyzer, ...] = analyzers_of(
        ["intrinsic_dimension"], {"intrinsic_dimension": settings}, tasks=[str(task)]
    )
    store = pipeline.ingest(given.out / "archive", given.out / "S.zarr")
    began = time.process_time()
    summary = pipeline.compute(store, chosen, workers=1)
    minutes = (time.process_time() - began) / 60
    report = pipeline.assemble(store, chosen)["intrinsic_dimension"].to_dataset()
    print(f"{given.net}: D = {NETS[given.net]}, {summary.measured} trials in {minutes:.1f} CPU minutes")
    for method in report["method"].values:
        one = report.sel({"method": method}).isel(run=0, step=0, task=0)
        print(f"{method}: baseline {float(one.baseline_score):.4f}, {int(one.n_trials)} trials")
        for threshold in ("local", "global"):
            at = one.sel(threshold=threshold, level=0.9)
            print(f"  d_int90 {threshold} ({float(at.threshold_score):.4f}): {crossing(at)}")
        for d in one["d"].values[one["n_seeds"].notnull().values]:
            point = one.sel(d=d)
            ends = f"[{float(point.score_low):.4f}, {float(point.score_high):.4f}]"
            print(f"  d {int(d):6d}: {float(point.score):.4f} {ends}")


if __name__ == "__main__":
    main()
