"""`varve report`: derive and assemble anew from what a store holds, without touching the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import NoFlow, Words, request_of, with_options


@with_options("out", "analyzers", "settings", "tasks", "probes", "metrics", "model", "include", "exclude", "steps")
def report(
    words: Words,
    store: Annotated[Path, typer.Argument(metavar="S.zarr", help="The store.")],
    runs: Annotated[
        list[str] | None, typer.Option("--runs", metavar="GLOB", help="Only runs whose ids match; repeatable.")
    ] = None,
    no_flow: NoFlow = False,
) -> int:
    """Re-derive and re-assemble the report from stored statistics: a new threshold or grouping takes seconds.

    \b
      varve report out/store.zarr --out out2/ --set intruder_dimensions.epsilons=0.4,0.6
      varve report out/store.zarr --out out2/ --metrics losses.csv

    What the settings ask for and the store does not hold is missing in the report, which says so; `varve analyze`
    computes it. Tasks and probe sets are by default those that the store was analysed with.
    Writes report.zarr and report.html.
    """
    from flows.cli.running import run_report

    return run_report(request_of(words, runs=store, store=store), tuple(runs or ()), with_prefect=not no_flow)
