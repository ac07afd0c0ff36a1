"""TwoNN, MLE and GRIDE of a cloud against scikit-dimension, in one process: CPU seconds, ratios, and that they agree.

OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python -m tests.benchmarks.neighbours --points 4000 --dims 1024
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import skdim.id
import torch

from analyzers.intrinsic_dimension.estimators import gride, levina_bickel, two_nn
from analyzers.linalg.neighbours import nearest

SCALES = (1, 2, 4, 8, 16, 32)
Estimate = Callable[[], np.ndarray]


def cpu_seconds(work: Estimate) -> float:
    """Of this process."""
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=4000)
    parser.add_argument("--dims", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    x = torch.randn(given.points, given.dims, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cloud = x.numpy()

    def scales(distances: np.ndarray) -> np.ndarray:
        return np.array([gride(distances, scale, 2 * scale) for scale in SCALES])

    def together() -> np.ndarray:
        distances = nearest(x, 64)[0].numpy()
        return np.array([two_nn(distances), levina_bickel(distances[:, :20]), *scales(distances)])

    pairs: dict[str, tuple[Estimate, Estimate]] = {
        "TwoNN": (
            lambda: np.array([two_nn(nearest(x, 2)[0].numpy())]),
            lambda: np.array([skdim.id.TwoNN(method="mle", discard_fraction=0).fit(cloud).dimension_]),
        ),
        "MLE": (
            lambda: np.array([levina_bickel(nearest(x, 20)[0].numpy())]),
            lambda: np.array([skdim.id.MLE().fit(cloud, n_neighbors=20).dimension_]),
        ),
        "GRIDE": (
            lambda: scales(nearest(x, 64)[0].numpy()),
            lambda: np.array(skdim.id.GRIDE(multiscale=True, range_max=64).fit(cloud).dimension_scales_),
        ),
    }
    pairs["all three"] = (together, lambda: np.concatenate([theirs() for _, theirs in list(pairs.values())[:3]]))
    for name, (ours, theirs) in pairs.items():
        error = float(np.max(np.abs(ours() / theirs() - 1)))
        times = [(cpu_seconds(ours), cpu_seconds(theirs)) for _ in range(given.repeats)]
        mine, oracle = (statistics.median(column) for column in zip(*times, strict=True))
        print(
            f"{name}: {mine:.2f} s against {oracle:.2f} s ({oracle / mine:.1f} x), difference {error:.0e}", flush=True
        )


if __name__ == "__main__":
    main()
