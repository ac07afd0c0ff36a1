"""Peak memory of the process that makes a report, where the report and not the weights is what is large.

    python -m tests.benchmarks.report_memory [--case many-nets|large] [--folder FOLDER] [--analyzers A,B]

many-nets: `varve analyze` of 16 runs that share no parameter name, 4 checkpoints of 40 matrices each, at most 700 MB
(the largest process counts). large: `varve report` of 6 runs of 100 checkpoints of 300 matrices, at most 2 GB. Its
store is filled and not computed, which would take three hours: statistics are computed of each run's first two
checkpoints and its last one, and the last one's results stand, under other keys, for those of the checkpoints between.
Every other matrix is frozen and the same in all runs. `--runs`, `--checkpoints` and `--matrices` change the size.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from analyzers.contract import Analyzer, Result, Statistic
from pipeline.api import analyzers_of
from pipeline.archive.types import Checkpoint, Layout, Run
from pipeline.compute.cluster import ThreadCluster
from pipeline.compute.run import compute
from pipeline.report.results import Results
from pipeline.store import Store, ingest_checkpoint, record_run
from pipeline.store.addresses import Selection
from tests.benchmarks import scale_store

SIDE = 8
_VARVE = "from varve.command import main; main()"
_Values = dict[str | None, Result | str]
"""Matrix → what a statistic says of it at one step."""


@dataclass(frozen=True)
class Case:
    """An archive's numbers of runs, checkpoints and matrices; whether its store is filled; bytes allowed."""

    runs: int
    checkpoints: int
    matrices: int
    filled: bool
    limit: int


CASES = {
    "many-nets": Case(16, 4, 40, False, 700 * 10**6),
    "large": Case(6, 100, 300, True, 2 * 10**9),
}


def make_archive(folder: Path, case: Case) -> Path:
    """FOLDER/runs with runs of square float32 matrices that drift from step to step; no two runs share a name."""
    rng = np.random.default_rng(0)
    for run in range(case.runs):
        weights = rng.standard_normal((case.matrices, SIDE, SIDE), np.float32)
        for checkpoint in range(case.checkpoints):
            path = folder / "runs" / f"run{run}" / f"checkpoint-{1 + 1000 * checkpoint + run}" / "model.safetensors"
            path.parent.mkdir(parents=True)
            save_file({f"net{run}.layers.{at}.weight": values for at, values in enumerate(weights)}, path)
            weights = weights + 0.05 * rng.standard_normal(weights.shape, np.float32)
    return folder / "runs"


@contextmanager
def _open(checkpoint: Checkpoint) -> Iterator[scale_store.Synthetic]:
    """The reader of a checkpoint of the filled store, whose numbers depend on its run and step."""
    yield scale_store.Synthetic(1000 * int(checkpoint.run.removeprefix("x/run")) + checkpoint.step + 1)


def fill_store(path: Path, case: Case, analyzers: Sequence[Analyzer]) -> None:
    """A store of a case, each run on its own first step: some statistics are computed, the others copied from them."""
    scale_store.SIDE = SIDE
    layout = scale_store.synthetic_layout(case.matrices)
    store = Store.create(path)
    runs = [f"x/run{run}" for run in range(case.runs)]
    for run in runs:
        record_run(store, Run(run, Path(f"/nowhere/{run}"), ()), base=f"{run}@0", base_kind="first_step")
    computed = (0, 1, case.checkpoints - 1)
    for run in runs:
        for step in computed:
            _ingest(store, run, step, layout)
    with ThreadCluster(1) as cluster:
        compute(store, analyzers, cluster)
    statistics = [statistic for analyzer in analyzers for statistic in analyzer.statistics()]
    patterns = {statistic: _pattern(store, statistic, statistics, case.checkpoints - 1) for statistic in statistics}
    for run in runs:
        for step in range(2, case.checkpoints - 1):
            _ingest(store, run, step, layout)
    for statistic, pattern in patterns.items():
        _copy(store, statistic, statistics, pattern)


def _ingest(store: Store, run: str, step: int, layout: Layout) -> None:
    checkpoint = replace(scale_store.synthetic_checkpoint(step, layout), run=run)
    ingest_checkpoint(store, checkpoint, layout, open_tensors=_open)


def _pattern(store: Store, statistic: Statistic, statistics: Sequence[Statistic], step: int) -> _Values:
    """What is stored of the first run at a step."""
    places = Results(store, statistics, Selection()).found(statistic).places
    keys = {matrix: key for (run, at, matrix), key in places.items() if run == "x/run0" and at == step}
    values = store.statistic(statistic.name).read(keys.values())
    return {matrix: values[key] for matrix, key in keys.items()}


def _copy(store: Store, statistic: Statistic, statistics: Sequence[Statistic], pattern: _Values) -> None:
    """Writes the pattern's results for all checkpoints that have none, one batch for each, and compacts them."""
    table = store.statistic(statistic.name)
    seen = set(table.keys())
    of_checkpoints: dict[tuple[str | None, int | None], list[tuple[str, Result | str]]] = {}
    for (run, step, matrix), key in Results(store, statistics, Selection()).found(statistic).places.items():
        if key not in seen and matrix in pattern:
            seen.add(key)
            of_checkpoints.setdefault((run, step), []).append((key, pattern[matrix]))
    for rows in of_checkpoints.values():
        table.write(rows, provenance={"version": statistic.version})
    table.compact()


def measure(case: Case, folder: Path, analyzers: str | None = None) -> tuple[int, float]:
    """Peak bytes of the largest process of the command that makes the report of a case, and its seconds."""
    options = ["--out", str(folder / "out"), *(["--analyzers", analyzers] if analyzers else [])]
    if case.filled:
        store = folder / "store.zarr"
        if not store.exists():
            fill_store(store, case, analyzers_of(analyzers.split(",") if analyzers else ()))
        command = ["report", str(store), *options]
    else:
        command = ["analyze", str(make_archive(folder, case)), *options]
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", _VARVE, *command, "--no-flow"], check=True, stdout=subprocess.DEVNULL)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024, time.perf_counter() - started


def main() -> None:
    """Prints a line: the case, its peak and its bound. Exit code 1 where the bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, default="many-nets")
    parser.add_argument("--folder", type=Path, help="to work in, empty or with the filled store of an earlier call")
    parser.add_argument("--analyzers", help="as for `varve analyze`")
    for name in ("runs", "checkpoints", "matrices"):
        parser.add_argument(f"--{name}", type=int)
    given = parser.parse_args()
    sizes = {name: size for name in ("runs", "checkpoints", "matrices") if (size := getattr(given, name)) is not None}
    case = replace(CASES[given.case], **sizes)
    with tempfile.TemporaryDirectory() as temporary:
        peak, seconds = measure(case, given.folder or Path(temporary), given.analyzers)
    verdict = "met" if peak <= case.limit else "MISSED"
    print(
        f"{given.case}: {case.runs} runs × {case.checkpoints} checkpoints × {case.matrices} matrices: "
        f"peak {peak / 1e6:.0f} MB, bound {case.limit / 1e6:.0f} MB ({verdict}), {seconds:.0f} s"
    )
    sys.exit(peak > case.limit)


if __name__ == "__main__":
    main()
