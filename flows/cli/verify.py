"""`varve verify`: compare a store or a report with the digests it was written with, and repair a store."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from analyzers.errors import ParameterError
from flows.cli.options import AsJson
from flows.cli.words.console import LOG_EVERY_SECONDS, json_text, plural, say, size


class Seen:
    """Counts what was read, and says so now and then."""

    def __init__(self) -> None:
        self.count, self.nbytes, self._spoken = 0, 0, time.monotonic()

    def __call__(self, name: str, nbytes: int) -> None:
        self.count += 1
        self.nbytes += nbytes
        if time.monotonic() - self._spoken >= LOG_EVERY_SECONDS:
            self._spoken = time.monotonic()
            say(f"verifying: {size(self.nbytes)} read, now {name}")


def verify(
    store: Annotated[Path, typer.Argument(metavar="S.zarr", help="A store, or a report.")],
    repair: Annotated[
        bool, typer.Option("--repair", help="Remove what is damaged, so that the next `varve analyze` recreates it.")
    ] = False,
    discard_unchecked: Annotated[
        bool,
        typer.Option(
            "--discard-unchecked",
            help="With --repair: also remove the results of an older varve, which did not check what it read.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Read everything that is stored and compare it with the digests that it was written with.

    \b
      varve verify out/store.zarr             tensors, documents, results, the cache; and what was deleted
      varve verify out/store.zarr --repair    the same, and removes what is damaged
      varve verify out/report.zarr            the files of a report; `varve report` writes a damaged one again

    Exit code 3 when something is damaged (it is listed, with what to do), 0 when all is as it was written.
    """
    from pipeline.report.files import is_report, verify_report

    if is_report(store):
        return _told([{"reason": reason} for reason in verify_report(store)], [], as_json)
    from pipeline.analysis.lock import writing
    from pipeline.store import Store, unchecked
    from pipeline.store import repair as repair_store
    from pipeline.store import verify as verify_store

    seen = Seen()
    done: list[str] = []
    if repair:
        with writing(store):
            done = repair_store(store, None if as_json else seen, discard_unchecked)
    elif discard_unchecked:
        raise ParameterError("--discard-unchecked removes results: give it together with --repair")
    opened = Store.open(store, mode="r")
    problems = verify_store(opened, progress=None if as_json else seen)
    notes = [_note(store, name, count) for name, (count, _) in unchecked(opened).items()]
    if not as_json:
        say(f"Read {plural(seen.count, 'stored object')}, {size(seen.nbytes)}.")
    listed = [{"path": p.path, "tensor": p.tensor, "reason": p.reason, "hint": p.hint} for p in problems]
    return _told(listed, done, as_json, [str(problem) for problem in problems], notes)


def _note(store: Path, statistic: str, count: int) -> str:
    return (
        f"{statistic}: {plural(count, 'result')} stored by an older varve, which did not check what it read. If the "
        f"store was damaged then, they can be wrong: `varve verify {store} --repair --discard-unchecked` removes them, "
        "and the next `varve analyze` computes them again."
    )


def _told(
    listed: list[dict[str, str | None]],
    done: list[str],
    as_json: bool,
    lines: list[str] | None = None,
    notes: Sequence[str] = (),
) -> int:
    if as_json:
        say(json_text({"ok": not listed, "problems": listed, "notes": list(notes), "repaired": done}))
        return 3 if listed else 0
    for note in notes:
        say(f"note: {note}")
    for line in done:
        say(f"repaired: {line}")
    for line in lines if lines is not None else [str(entry["reason"]) for entry in listed]:
        say(line)
    say(f"{plural(len(listed), 'problem')} found." if listed else "Everything matches its digests.")
    return 3 if listed else 0
