"""`varve report`: derive and assemble anew from what a store holds, without touching the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli import arguments as a


def report(
    store: Annotated[Path, typer.Argument(metavar="S.zarr", help="The store.")],
    out: a.Out = Path("out"),
    analyzers: a.Analyzers = None,
    set_: a.Set = None,
    config: a.Config = None,
    runs: Annotated[
        list[str] | None, typer.Option("--runs", metavar="GLOB", help="Only runs whose id matches; repeatable.")
    ] = None,
    no_flow: a.NoFlow = False,
) -> int:
    """Re-derive and re-assemble the report from stored statistics: a new threshold or grouping takes seconds.

    \b
      varve report out/store.zarr --out out2/ --set intruder_dimensions.epsilons=0.4,0.6

    What the settings ask for and the store does not hold is missing in the report, which says so; `varve analyze`
    computes it. Writes report.zarr and report.html.
    """
    from flows.cli.request import options_from
    from flows.cli.running import run_report

    options = options_from(runs=store, out=out, store=store, analyzers=analyzers, set_=set_, config=config)
    return run_report(options, tuple(runs or ()), with_prefect=not no_flow)
