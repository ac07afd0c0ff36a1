"""What the pipeline itself takes: `python -m tests.benchmarks.fanout FOLDER` (about two CPU minutes, 400 MB).

Overhead per unit of work, two workers against one, ingest against a plain copy through the same codec, a second pass
over an archive with one new checkpoint. CPU seconds, children included; only the comparison of workers is wall time,
and wants idle cores.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import blake3
import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

import pipeline
from analyzers.contract import Analyzer, Context, Cost, Derived, MatrixInfo, Result, Statistic, Unit, View
from pipeline.analysis.library import configured
from pipeline.compute.cluster import ThreadCluster
from pipeline.compute.dask_cluster import local_cpu
from pipeline.compute.plan import plan
from pipeline.compute.profile import Profile
from pipeline.compute.run import compute
from pipeline.store import Store
from pipeline.store.tensors import create_array


@dataclass(frozen=True)
class Nothing(Statistic):
    """Reads a matrix and says one number: what is left is the pipeline's own."""

    name: ClassVar[str] = "nothing"
    version: ClassVar[int] = 1
    scope: ClassVar = "matrix"

    def cost(self, infos: Sequence[MatrixInfo]) -> Cost:
        return Cost(1e-4 * len(infos), 1 << 20)

    def compute(self, unit: Unit, context: Context) -> Result:
        assert unit.only.matrix is not None
        return {"first": unit.only.matrix.dense()[0, 0].double().numpy()}


@dataclass(frozen=True)
class Eigenvalues(Statistic):
    """Equal work for every matrix of one shape, long enough for workers to matter."""

    name: ClassVar[str] = "eigenvalues"
    version: ClassVar[int] = 1
    scope: ClassVar = "matrix"

    def compute(self, unit: Unit, context: Context) -> Result:
        assert unit.only.matrix is not None
        matrix = unit.only.matrix.dense(torch.float64)
        return {"top": torch.linalg.svdvals(matrix)[:1].numpy()}


class Of(Analyzer):
    """An analyzer that only asks."""

    name, version, variables = "of", 1, ()
    statistic: Statistic

    def statistics(self) -> tuple[Statistic, ...]:
        return (self.statistic,)

    def derive(self, view: View) -> Derived:
        raise NotImplementedError("nothing is derived here")


def asking(statistic: Statistic) -> Of:
    analyzer = Of()
    analyzer.statistic = statistic
    return analyzer


def write(folder: Path, shapes: Sequence[tuple[int, int]], seed: int) -> None:
    """A checkpoint of Gaussian float32 matrices."""
    draw = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    tensors = {f"layers.{i}.mlp.fc.weight": draw.standard_normal(s, np.float32) for i, s in enumerate(shapes)}
    save_file(tensors, folder / "model.safetensors")


def overhead(folder: Path) -> dict[str, float]:
    """CPU milliseconds of the pipeline per unit that does nothing, in groups as the plan makes them."""
    for step in range(20):
        write(folder / f"run/checkpoint-{step}", [(32, 32)] * 100, step)
    store = pipeline.ingest(folder / "run", folder / "store.zarr")
    profile = Profile()
    with ThreadCluster(1) as cluster:
        started = time.process_time()
        done = compute(store, [asking(Nothing())], cluster, profile=profile)
        seconds = time.process_time() - started
    assert done.measured == 2000
    return {"overhead_ms_per_unit": 1e3 * seconds / done.measured, "groups": profile.groups}


def workers(folder: Path) -> dict[str, float]:
    """Wall seconds of equal matrices with one process over those with two."""
    write(folder / "run/checkpoint-0", [(512, 512)] * 160, 0)
    pipeline.ingest(folder / "run", folder / "store.zarr")
    wall = {}
    for count in (1, 2):
        shutil.copytree(folder / "store.zarr", folder / f"store{count}.zarr")
        store = Store.open(folder / f"store{count}.zarr", "a")
        with local_cpu(count, 2 * 2**30) as cluster:
            compute(store, [asking(Nothing())], cluster)  # workers import before the clock starts
            started = time.perf_counter()
            assert compute(store, [asking(Eigenvalues())], cluster).measured == 160
            wall[count] = time.perf_counter() - started
    return {"one_worker_s": wall[1], "two_workers_s": wall[2], "speedup": wall[1] / wall[2]}


def ingest(folder: Path) -> dict[str, float]:
    """CPU seconds: a plain copy through the codec over our ingest; the digest alone over an all-duplicate ingest."""
    write(folder / "run/checkpoint-0", [(2048, 2048)] * 24, 0)
    source = folder / "run/checkpoint-0/model.safetensors"
    shares: dict[str, list[float]] = {"ingest_share": [], "duplicate_share": []}
    for attempt in range(3):
        started = time.process_time()
        with safe_open(source, framework="np") as file:
            for name in file.keys():  # noqa: SIM118 - a safetensors file is no mapping
                value = file.get_tensor(name)
                array = create_array(folder / f"copy{attempt}" / name, value.dtype, value.shape, {})
                array[...] = value
        copied = time.process_time() - started
        store = folder / f"store{attempt}.zarr"
        started = time.process_time()
        pipeline.ingest(folder / "run", store)
        taken = time.process_time() - started
        shutil.copytree(folder / "run/checkpoint-0", folder / f"run{attempt}/checkpoint-0")
        started = time.process_time()
        with safe_open(source, framework="np") as file:
            for name in file.keys():  # noqa: SIM118 - a safetensors file is no mapping
                blake3.blake3(file.get_tensor(name).reshape(-1).view(np.uint8).data).digest()
        hashed = time.process_time() - started
        started = time.process_time()
        pipeline.ingest(folder / f"run{attempt}", store)
        shares["ingest_share"].append(copied / taken)
        shares["duplicate_share"].append(hashed / (time.process_time() - started))
    return {name: float(np.median(values)) for name, values in shares.items()}


def second_pass(folder: Path) -> dict[str, float]:
    """CPU seconds of ingest, plan and compute with one new checkpoint over those of the hundred before."""
    for step in range(100):
        write(folder / f"run/checkpoint-{step}", [(128, 128)] * 20, step)
    analyzers = configured(["weight_spectra"], {"weight_spectra": {}})
    taken = []
    for again in (False, True):
        if again:
            write(folder / "run/checkpoint-100", [(128, 128)] * 20, 100)
        started = time.process_time()
        store = pipeline.ingest(folder / "run", folder / "store.zarr")
        ingested = time.process_time() - started
        with ThreadCluster(1) as cluster:
            done = compute(store, analyzers, cluster)
        taken.append((time.process_time() - started, ingested, done.measured + done.unmeasurable))
    (first, *_), (second, ingested, units) = taken
    started = time.process_time()
    plan(store, analyzers)
    return {
        "first_s": first,
        "second_s": second,
        "second_share": second / first,
        "second_ingest_s": ingested,
        "plan_s": time.process_time() - started,
        "second_units": units,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=("overhead", "workers", "ingest", "second_pass"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for part in (overhead, workers, ingest, second_pass):
        if arguments.only in (None, part.__name__):
            folder = arguments.folder / part.__name__
            folder.mkdir(parents=True)
            print(json.dumps({part.__name__: {k: round(v, 4) for k, v in part(folder).items()}}), flush=True)


if __name__ == "__main__":
    main()
