"""Fuzzes everything that reads an archive: `python -m tests.faults.fuzz_parsers --minutes 20 --corpus FOLDER`.

Real files of every format are damaged (`mutations`), and a child process lists the archive, looks for its bases, makes
its layouts and reads its tensors. A case fails when an exception escapes that is not one of ours, when something is
imported, executed, connected to, or opened outside of the archive (an audit hook tells), or when it takes more than
5 s of processor time or 500 MB. Prints a tally; failed cases and one of each kind of finding go to the corpus.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import resource
import select
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.mutations import make_seeds, mutate

CORPUS = Path(__file__).parent / "corpus"
CORPUS_BYTES = 190_000
SECONDS = 5.0
MEMORY = 500 << 20
# The watchdog looks ten times a second.
TOLERANCE = 1.0
HANGS_AFTER = 30.0

_ENDS = ("subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.", "exec", "compile", "import")


@dataclass
class Tally:
    """What came of the cases."""

    cases: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    findings: set[str] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0

    def lines(self) -> Iterator[str]:
        yield f"{self.cases} cases, {len(self.failures)} failures, {len(self.findings)} kinds of finding"
        yield f"slowest: {self.slowest:.2f} s of processor time"
        yield from (f"  {count:7} {outcome}" for outcome, count in self.outcomes.most_common())
        yield from (f"FAILED {failure}" for failure in self.failures)


# -- in the child


def child() -> None:
    """Reads folders' names from stdin and answers each with a line of JSON."""
    watched: list[str] = []
    allowed: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if not allowed:
            return
        if event == "open":
            name = arguments[0]
            path = os.path.realpath(os.fsdecode(name)) if isinstance(name, str | bytes | os.PathLike) else ""
            if path and not path.startswith(allowed[0]):
                watched.append(f"open {path}")
        elif event.startswith(_ENDS):
            watched.append(f"{event} {arguments!r:.200}")

    for encoding in (
        "utf-16",
        "utf-32",
        "utf-16-le",
        "utf-16-be",
        "utf-32-le",
        "utf-32-be",
        "utf-8-sig",
        "raw-unicode-escape",
    ):
        "".encode(encoding)  # JSON comes in all of these, and Python loads each when it is first met
    sys.addaudithook(hook)
    first = True
    for line in sys.stdin:
        folder = json.loads(line)
        if not first:
            allowed[:] = [os.path.realpath(folder)]
        started = time.process_time()
        before = len(watched)
        try:
            reasons, error = examine(Path(folder)), ""
        except BaseException:  # this is what is tested: nothing may escape
            reasons, error = [], traceback.format_exc()
        allowed.clear()
        seconds = time.process_time() - started
        answer = {"reasons": reasons, "error": error, "seconds": seconds, "watched": watched[before:]}
        print(json.dumps(answer), flush=True)
        if first:
            # What is loaded once does not count.
            first = False
            size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))


def examine(folder: Path) -> list[str]:
    """All that is read of an archive; returns the reasons of its findings."""
    from analyzers.errors import ArchiveError
    from pipeline.analysis.intake import layout_of
    from pipeline.archive import open_archive, open_tensors, resolve_base

    try:
        archive = open_archive(folder, "fuzzed")
    except ArchiveError as error:
        return [str(error)]
    reasons = [problem.reason for problem in archive.problems] + list(archive.notes)
    for run in archive.runs:
        try:
            resolve_base(run, archive, environ={"HF_HOME": str(folder / "none")})
        except ArchiveError as error:
            reasons.append(str(error))
        for checkpoint in run.checkpoints:
            reasons += [problem.reason for problem in checkpoint.problems]
            layout = layout_of(checkpoint)
            reasons += [one.reason for one in layout.unmeasured]
            json.dumps([dict(checkpoint.config), dict(checkpoint.adapter or {}), [dict(row) for row in run.metrics]])
            try:
                with open_tensors(checkpoint) as tensors:
                    for header in checkpoint.tensors:
                        for _ in tensors.blocks(header.name, 1 << 20) if header.nbytes < 8 << 20 else ():
                            pass
            except ArchiveError as error:
                reasons.append(str(error))
    return reasons


# -- in the parent


class Child:
    """A process that examines archives, started anew after one that killed it."""

    def __init__(self, folder: Path) -> None:
        self._seed = folder
        self._process: subprocess.Popen[str] | None = None

    def ask(self, folder: Path) -> dict[str, Any]:
        if self._process is None or self._process.poll() is not None:
            self._start()
        return self._answer(folder)

    def _start(self) -> None:
        command = [sys.executable, "-W", "ignore", "-m", "tests.faults.fuzz_parsers", "--child"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert not self._answer(self._seed)["error"]

    def _answer(self, folder: Path) -> dict[str, Any]:
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(str(folder)) + "\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], HANGS_AFTER)
        line = process.stdout.readline() if ready else ""
        if not line:
            self.close()
            error = "the process died" if ready else f"no answer within {HANGS_AFTER:.0f} s"
            return {"reasons": [], "error": error, "seconds": 0.0, "watched": []}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def fuzz(seconds: float, seed: int, corpus: Path | None = None, cases: int | None = None) -> Tally:
    """Damages and examines until time, or the number of cases, is up."""
    tally = Tally()
    until = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="varve-fuzz-") as scratch:
        seeds = make_seeds(Path(scratch, "seeds"))
        warm = Path(scratch, "seeds")
        process = Child(warm)
        try:
            while time.monotonic() < until and (cases is None or tally.cases < cases):
                number = seed + tally.cases
                rng = random.Random(number)
                name = rng.choice(list(seeds))
                case = Path(scratch, "case", name)
                shutil.rmtree(case.parent, ignore_errors=True)
                shutil.copytree(seeds[name], case)
                how = mutate(case, rng)
                _judge(tally, process.ask(case), f"seed {number}: {name}, {how}", case, corpus)
        finally:
            process.close()
    return tally


def replay(corpus: Path) -> Tally:
    """Examines the cases of a corpus."""
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="varve-fuzz-") as scratch:
        make_seeds(Path(scratch, "seeds"))
        process = Child(Path(scratch, "seeds"))
        try:
            for path in sorted(corpus.glob("*.tar.gz")):
                case = Path(scratch, path.name)
                with tarfile.open(path) as packed:
                    packed.extractall(case, filter="fully_trusted")
                _judge(tally, process.ask(case), path.name, case, None)
                shutil.rmtree(case)
        finally:
            process.close()
    return tally


def _judge(tally: Tally, answer: dict[str, Any], case: str, folder: Path, corpus: Path | None) -> None:
    tally.cases += 1
    tally.slowest = max(tally.slowest, answer["seconds"])
    wrong = ""
    if answer["error"]:
        wrong = f"escaped: {answer['error'].strip().splitlines()[-1]}"
    elif answer["watched"]:
        wrong = f"reached out: {answer['watched'][0]}"
    elif answer["seconds"] > SECONDS + TOLERANCE:
        wrong = f"took {answer['seconds']:.1f} s"
    elif any("more memory than is available" in reason for reason in answer["reasons"]):
        wrong = "took more than 500 MB"
    if wrong:
        tally.failures.append(f"{case}: {wrong}" + (f"\n{answer['error']}" if answer["error"] else ""))
    tally.outcomes[wrong.partition(":")[0] or ("a finding" if answer["reasons"] else "read")] += 1
    kinds = {re.sub(r"\W*\d+\W*|/\S+", " ", reason)[-60:] for reason in answer["reasons"]}
    if corpus is not None and (wrong or kinds - tally.findings):
        _keep(folder, corpus, bool(wrong))
    tally.findings |= kinds


def _keep(folder: Path, corpus: Path, failed: bool) -> None:
    corpus.mkdir(parents=True, exist_ok=True)
    scratch = corpus / "new"
    with tarfile.open(scratch, "w:gz", compresslevel=9) as packed:
        packed.add(folder, folder.name)
    size = scratch.stat().st_size
    kept = sum(path.stat().st_size for path in corpus.glob("*.tar.gz"))
    small = size < 3000 and kept + size < CORPUS_BYTES
    if failed or small:
        name = hashlib.sha256(scratch.read_bytes()).hexdigest()[:12]
        scratch.rename(corpus / f"{'failed-' if failed else ''}{folder.name}-{name}.tar.gz")
    else:
        scratch.unlink()


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--corpus", type=Path, help="where failed and new kinds of cases are kept")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child()
        return 0
    tally = fuzz(60 * given.minutes, given.seed, given.corpus)
    print(*tally.lines(), sep="\n")
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
