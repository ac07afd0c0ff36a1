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
    task: a.Task = None,
    probe: a.Probe = None,
    metrics: a.Metrics = None,
    model: a.Model = None,
    runs: Annotated[
        list[str] | None, typer.Option("--runs", metavar="GLOB", help="Only runs whose ids match; repeatable.")
    ] = None,
    include: a.Include = None,
    exclude: a.Exclude = None,
    steps: a.Steps = None,
    no_flow: a.NoFlow = False,
) -> int:
    """Re-derive and re-assemble the report from stored statistics: a new threshold or grouping takes seconds.

    \b
      varve report out/store.zarr --out out2/ --set intruder_dimensions.epsilons=0.4,0.6
      varve report out/store.zarr --out out2/ --metrics losses.csv

    What the settings ask for and the store does not hold is missing in the report, which says so; `varve analyze`
    computes it. Tasks and probe sets are by default those that the store was analysed with.
    Writes report.zarr and report.html.
    """
    from flows.cli.request import options_from
    from flows.cli.running import run_report

    options = options_from(
        runs=store, out=out, store=store, analyzers=analyzers, set_=set_, config=config, task=task, probe=probe,
        metrics=metrics, model=model, include=include, exclude=exclude, steps=steps,
    )  # fmt: skip
    return run_report(options, tuple(runs or ()), with_prefect=not no_flow)
