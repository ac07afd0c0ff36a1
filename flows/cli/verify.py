"""`varve verify`: re-hash what is stored against its digests."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.arguments import AsJson
from flows.console import LOG_EVERY_SECONDS, json_text, plural, say, size


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


def verify(store: Annotated[Path, typer.Argument(metavar="S.zarr", help="The store.")], as_json: AsJson = False) -> int:
    """Read every stored tensor and compare it with the digest that it was stored under.

    \b
      varve verify out/store.zarr

    Exit code 3 when something is damaged (it is listed, with what to do), 0 when all is as it was written.
    """
    from pipeline.store import Store
    from pipeline.store import verify as verify_store

    opened = Store.open(store, mode="r")
    if as_json:
        problems = verify_store(opened)
        listed = [{"path": p.path, "tensor": p.tensor, "reason": p.reason, "hint": p.hint} for p in problems]
        say(json_text({"ok": not problems, "problems": listed}))
        return 3 if problems else 0
    seen = Seen()
    problems = verify_store(opened, progress=seen)
    say(f"Read {plural(seen.count, 'stored object')}, {size(seen.nbytes)}.")
    for problem in problems:
        say(str(problem))
    say(f"{plural(len(problems), 'problem')} found." if problems else "Everything is as it was written.")
    return 3 if problems else 0
