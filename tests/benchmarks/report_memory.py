"""Peak memory of an analysis, and of the report alone, where the number of results and not the weights is large.

    python -m tests.benchmarks.report_memory [--case many-nets|large|large-report] [--folder FOLDER] [--analyzers A,B]

many-nets: `varve analyze` of 16 runs that share no parameter name, 4 checkpoints of 40 matrices each, at most 700 MB
(the largest process counts). large: `varve analyze` of 6 runs of 100 checkpoints of 300 matrices, no two of them equal,
at most 2 GB. Nearly all of it is real: ingest, plan, rounds, the writing of two million results, the report. Only the
statistics, which would take hours, are computed once for each number of checkpoints that they see; the other units get
the same values under their own keys. large-report: `varve report` of the store that `large` left in FOLDER, in a
process of its own. `--runs`, `--checkpoints` and `--matrices` change the size.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from safetensors.numpy import save_file

SIDE = 8
_VARVE = "from varve.command import main; main()"
_COPYING = "from tests.benchmarks.report_memory import copying_main; copying_main()"


@dataclass(frozen=True)
class Case:
    """An archive's numbers of runs, checkpoints and matrices; whether its runs share the names of parameters; the verb
    that is measured; whether results are copied; bytes allowed."""

    runs: int
    checkpoints: int
    matrices: int
    shared_names: bool
    verb: str
    copied: bool
    limit: int


CASES = {
    "many-nets": Case(16, 4, 40, False, "analyze", False, 700 * 10**6),
    "large": Case(6, 100, 300, True, "analyze", True, 2 * 10**9),
    "large-report": Case(6, 100, 300, True, "report", True, 2 * 10**9),
}


def make_archive(folder: Path, case: Case) -> Path:
    """FOLDER/runs with runs of square float32 matrices that drift from step to step; no two matrices are equal."""
    rng = np.random.default_rng(0)
    for run in range(case.runs):
        weights = rng.standard_normal((case.matrices, SIDE, SIDE), np.float32)
        net, first = ("", 0) if case.shared_names else (f"net{run}.", 1 + run)
        for checkpoint in range(case.checkpoints):
            path = folder / "runs" / f"run{run}" / f"checkpoint-{first + 1000 * checkpoint}" / "model.safetensors"
            path.parent.mkdir(parents=True)
            save_file({f"{net}layers.{at}.weight": values for at, values in enumerate(weights)}, path)
            weights = weights + np.float32(0.05) * rng.standard_normal(weights.shape, np.float32)
    return folder / "runs"


def copying_main() -> None:
    """`varve`, whose workers compute one unit of each statistic and number of members, and copy its result."""
    from pipeline.compute import cluster, work
    from varve.command import main as varve

    class Copying(cluster.ThreadCluster):
        patterns: ClassVar[dict[tuple[str, int], work.UnitOutcome]] = {}

        def submit(self, function: Callable[..., Any], *arguments: Any, device: str = "cpu") -> Any:
            return super().submit(self._copied, function, *arguments, device=device)

        def _copied(
            self, function: Callable[..., Any], path: str, whole: work.GroupWork, *others: Any
        ) -> list[work.UnitOutcome]:
            outcomes: list[work.UnitOutcome] = []
            for unit in whole.group.units:
                like = (unit.statistic.name, len(unit.members))
                if like not in self.patterns:
                    alone = replace(whole, group=replace(whole.group, units=(unit,)))
                    (self.patterns[like],) = function(path, alone, *others)
                outcomes.append(replace(self.patterns[like], key=unit.key))
            return outcomes

    @contextmanager
    def opened(*_: Any, **__: Any) -> Iterator[cluster.ThreadCluster]:
        with Copying() as threads:
            yield threads

    cluster.open_cluster = opened
    varve()


def measure(case: Case, folder: Path, analyzers: str | None = None) -> tuple[int, float]:
    """Peak bytes of the largest process of the command of a case, and its seconds."""
    options = ["--out", str(folder / "out"), *(["--analyzers", analyzers] if analyzers else []), "--no-flow"]
    if case.verb == "report":
        command = ["report", str(folder / "out" / "store.zarr"), *options]
    else:
        runs = folder / "runs"
        command = ["analyze", str(runs if runs.exists() else make_archive(folder, case)), *options]
    started = time.perf_counter()
    script = _COPYING if case.copied and case.verb == "analyze" else _VARVE
    subprocess.run([sys.executable, "-c", script, *command], check=True, stdout=subprocess.DEVNULL)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024, time.perf_counter() - started


def main() -> None:
    """Prints a line: the case, its peak and its bound. Exit code 1 where the bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, default="many-nets")
    parser.add_argument("--folder", type=Path, help="to work in, empty or as an earlier call left it")
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
