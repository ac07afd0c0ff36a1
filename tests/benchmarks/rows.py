"""One row of a benchmark's table, and how its seconds are taken: CPU time of one thread, least of a few repeats."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Row:
    """CPU seconds of the same work by us, by a peer and by the floor (None: not compared), and the bar it is held to.

    `bar` is a sentence; `met` None where there is no bar.
    """

    work: str
    ours: float
    theirs: float | None = None
    floor: float | None = None
    bar: str = ""
    met: bool | None = None
    note: str = ""

    def cells(self) -> list[str]:
        """As the table prints it."""
        ratio = "" if self.theirs is None else f"{self.theirs / self.ours:.1f} ×"
        over = "" if self.floor is None else f"{self.ours / self.floor:.2f}"
        verdict = "" if self.met is None else ("met" if self.met else "MISSED")
        return [self.work, _s(self.ours), _s(self.theirs), ratio, _s(self.floor), over, self.bar, verdict, self.note]


HEAD = ("work", "ours, CPU s", "theirs", "theirs/ours", "floor", "ours/floor", "bar", "", "note")


def single_thread() -> None:
    """Starts this script anew with one BLAS thread, unless it has one: a library reads that only once."""
    if all(os.environ.get(name) == "1" for name in THREADS):
        return
    os.environ.update(dict.fromkeys(THREADS, "1"))
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def cpu(work: Callable[[], T], repeat: int = 3) -> tuple[float, T]:
    """Least CPU seconds of this process over `repeat` calls, and what the last gave."""
    seconds = []
    for _ in range(repeat):
        start = time.process_time()
        answer = work()
        seconds.append(time.process_time() - start)
    return min(seconds), answer


def show(rows: Iterable[Row], title: str, keep: Path | None = None) -> None:
    """Prints a Markdown table, and writes the rows as JSON where asked."""
    rows = tuple(rows)
    print(f"\n### {title}\n")
    print("| " + " | ".join(HEAD) + " |")
    print("|" + "---|" * len(HEAD))
    for row in rows:
        print("| " + " | ".join(row.cells()) + " |")
    sys.stdout.flush()
    if keep is not None:
        keep.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")


def _s(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.3g}"
