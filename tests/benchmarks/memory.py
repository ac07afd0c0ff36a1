"""Peak memory of a worker per statistic, on a synthetic checkpoint that is much larger than one matrix.

    python -m tests.benchmarks.memory FOLDER [--side 4096 --matrices 28]

The promise: 700 MB and three times the largest matrix in float64, five times where singular vectors are needed. Each
statistic runs in a process of its own, on two of the matrices, so that its peak is its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

WORKER_BYTES = 700 * 10**6
_MEASURED = 2
_CHILD = """
import json, sys
from pathlib import Path
import torch
import scipy.linalg
from pipeline.analysis.resolve import analyzers_of
from pipeline.compute.cluster import ThreadCluster
from pipeline.compute.plan import plan
from pipeline.units.selection import Selection
from pipeline.compute.run import run_groups
from pipeline.store import Store

def status(field):
    # Not ru_maxrss: Linux carries the parent's over exec.
    return int(Path("/proc/self/status").read_text().split(field + ":")[1].split()[0]) * 1024

store, analyzer, statistic, include = Store.open(sys.argv[1], "a"), sys.argv[2], sys.argv[3], sys.argv[4].split(",")
torch.set_num_threads(1)
parts = Selection(include=tuple(include))
groups = [g for g in plan(store, analyzers_of([analyzer]), parts).groups if g.statistic.name == statistic]
before = status("VmRSS")
with ThreadCluster(1) as cluster:
    tally = run_groups(store, groups, cluster)
assert not tally.failures, tally.failures[0].traceback
print(json.dumps([statistic, tally.measured, before, status("VmHWM")]))
"""


@dataclass(frozen=True)
class Peak:
    """Bytes of one worker: `before` the units of a statistic, and at their peak."""

    statistic: str
    units: int
    before: int
    peak: int

    def copies(self, side: int) -> float:
        """The peak above `before`, in float64 matrices."""
        return (self.peak - self.before) / (8 * side**2)


def make_archive(folder: Path, side: int, matrices: int) -> Path:
    """FOLDER/runs with a base and two runs of one checkpoint, each of `matrices` square float32 matrices; the runs'
    differ in two from the base's, by a full-rank update."""
    rng = np.random.default_rng(0)
    tensors = {f"w{i}.weight": rng.standard_normal((side, side), np.float32) for i in range(matrices)}
    drifts = {"base": 0.0, "one/checkpoint-10": 0.01, "two/checkpoint-10": 0.01}
    for place, drift in ((f"{folder}/model.safetensors", drift) for folder, drift in drifts.items()):
        path = folder / "runs" / place
        path.parent.mkdir(parents=True)
        if drift:
            for i in range(_MEASURED):
                tensors[f"w{i}.weight"] += drift * rng.standard_normal((side, side), np.float32)
        save_file(tensors, path)
    return folder / "runs"


def ingest(runs: Path, store: Path) -> Peak:
    """The peak of reading the archive."""
    code = (
        "import sys, pipeline\nfrom pathlib import Path\nimport pipeline.store, pipeline.archive.reader\n"
        "status = lambda f: int(Path('/proc/self/status').read_text().split(f + ':')[1].split()[0]) * 1024\n"
        "before = status('VmRSS')\npipeline.ingest(sys.argv[1], sys.argv[2])\nprint(before, status('VmHWM'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(runs), str(store)], check=True, capture_output=True, text=True
    )
    before, peak = map(int, done.stdout.split())
    return Peak("(ingest)", 2, before, peak)


def measure(store: Path, analyzer: str) -> Iterator[Peak]:
    """The peaks of the analyzer's statistics, inputs first, each in a new process."""
    from pipeline.analysis.resolve import analyzers_of
    from pipeline.compute.plan import plan
    from pipeline.store import Store
    from pipeline.units.selection import Selection

    include = [f"w{i}.weight" for i in range(_MEASURED)]
    planned = plan(Store.open(store), analyzers_of([analyzer]), Selection(include=tuple(include)))
    for name in dict.fromkeys(group.statistic.name for group in planned.groups):
        command = [sys.executable, "-c", _CHILD, str(store), analyzer, name, ",".join(include)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr)
        yield Peak(*json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--matrices", type=int, default=28)
    parser.add_argument("--analyzers", default="weight_spectra,intruder_dimensions")
    given = parser.parse_args()
    store = given.folder / "S.zarr"
    runs = make_archive(given.folder, given.side, given.matrices)
    print(f"{'statistic':32} {'units':>5} {'before MB':>9} {'peak MB':>8} {'limit MB':>8} {'copies':>6}")
    _tell(ingest(runs, store), 3, given.side)
    for analyzer in given.analyzers.split(","):
        for peak in measure(store, analyzer):
            _tell(peak, 5 if analyzer == "intruder_dimensions" else 3, given.side)


def _tell(peak: Peak, allowed: int, side: int) -> None:
    limit = WORKER_BYTES + allowed * 8 * side**2
    verdict = "" if peak.peak <= limit else "  ABOVE"
    print(
        f"{peak.statistic:32} {peak.units:5} {peak.before / 1e6:9.0f} {peak.peak / 1e6:8.0f} {limit / 1e6:8.0f} "
        f"{peak.copies(side):6.1f}{verdict}",
        flush=True,
    )


if __name__ == "__main__":
    main()
