"""`varve doctor`: what is wrong with this installation, and how to fix it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import AsJson, Words, with_options
from flows.cli.words.console import json_text, plural, say, table


@with_options("scheduler")
def doctor(
    words: Words,
    store: Annotated[Path | None, typer.Option("--store", help="Also check that this store can be read.")] = None,
    as_json: AsJson = False,
) -> int:
    """Check versions, devices, memory, disk, Prefect, plugins, and a Dask scheduler or store if given.

    \b
      varve doctor
      varve doctor --scheduler tcp://10.0.0.1:8786 --store out/store.zarr

    Each problem is listed with its fix. Exit code 1 if there is a problem. Starts nothing and changes nothing.
    """
    from flows.cli.examination import examine

    checks = examine(words["scheduler"], store)
    bad = [c for c in checks if c.state == "bad"]
    if as_json:
        say(json_text({"ok": not bad, "checks": [asdict(c) for c in checks]}))
        return 1 if bad else 0
    say(table(("", "what", "found"), [(c.state, c.name, c.found) for c in checks]))
    unsound = [c for c in checks if c.state != "ok"]
    for check in unsound:
        say(f"\n{check.name}: {check.found}\n  fix: {check.fix}")
    say(f"\n{plural(len(bad), 'problem')} found." if bad else "\nNo problems found.")
    return 1 if bad else 0
