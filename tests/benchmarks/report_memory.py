"""Peak memory of `varve analyze` where the report, not the weights, is what is large: many tiny matrices.

    python -m tests.benchmarks.report_memory [--case many-nets|large] [--folder FOLDER] [--analyzers A,B]

many-nets: 16 runs that share no parameter name, 4 checkpoints of 40 matrices each, at most 700 MB. large: 6 runs of 100
checkpoints of 300 matrices, at most 2 GB. The number is the resident memory of the largest process of the command.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

SIDE = 8
_VARVE = "from varve.command import main; main()"


@dataclass(frozen=True)
class Case:
    """An archive's numbers of runs, checkpoints and matrices; whether the runs share names; bytes allowed."""

    runs: int
    checkpoints: int
    matrices: int
    shared: bool
    limit: int


CASES = {
    "many-nets": Case(16, 4, 40, False, 700 * 10**6),
    "large": Case(6, 100, 300, True, 2 * 10**9),
}


def make_archive(folder: Path, case: Case) -> Path:
    """FOLDER/runs with runs of square float32 matrices that drift from step to step."""
    rng = np.random.default_rng(0)
    for run in range(case.runs):
        prefix = "net" if case.shared else f"net{run}"
        weights = rng.standard_normal((case.matrices, SIDE, SIDE), np.float32)
        for checkpoint in range(case.checkpoints):
            step = 1 + 1000 * checkpoint + (0 if case.shared else run)
            path = folder / "runs" / f"run{run}" / f"checkpoint-{step}" / "model.safetensors"
            path.parent.mkdir(parents=True)
            save_file({f"{prefix}.layers.{at}.weight": values for at, values in enumerate(weights)}, path)
            weights = weights + 0.05 * rng.standard_normal(weights.shape, np.float32)
    return folder / "runs"


def measure(case: Case, folder: Path, options: Sequence[str] = ()) -> tuple[int, float]:
    """Peak bytes of the largest process of `varve analyze` over the archive of a case, and seconds."""
    runs = make_archive(folder, case)
    started = time.perf_counter()
    command = [sys.executable, "-c", _VARVE, "analyze", str(runs), "--out", str(folder / "out"), *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024, time.perf_counter() - started


def main() -> None:
    """Prints a line: the case, its peak and its bound. Exit code 1 where the bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, default="many-nets")
    parser.add_argument("--folder", type=Path, help="an empty folder to work in; default: a temporary one")
    parser.add_argument("--analyzers", help="as for `varve analyze`")
    given = parser.parse_args()
    case = CASES[given.case]
    options = ["--analyzers", given.analyzers] if given.analyzers else []
    with tempfile.TemporaryDirectory() as temporary:
        peak, seconds = measure(case, given.folder or Path(temporary), options)
    verdict = "met" if peak <= case.limit else "MISSED"
    print(
        f"{given.case}: {case.runs} runs × {case.checkpoints} checkpoints × {case.matrices} matrices: "
        f"peak {peak / 1e6:.0f} MB, bound {case.limit / 1e6:.0f} MB ({verdict}), {seconds:.0f} s"
    )
    sys.exit(peak > case.limit)


if __name__ == "__main__":
    main()
