"""`varve ingest`: checkpoints into a store, without measuring anything."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli import arguments as a


def ingest(
    runs: a.Runs,
    store: Annotated[Path, typer.Option("--store", help="The Zarr store; created if it does not exist.")],
    base: a.Base = None,
    steps: a.Steps = None,
    rehash: a.Rehash = False,
    name: a.Name = None,
    step_pattern: a.StepPattern = None,
    step_scale: a.StepScale = None,
    metrics: a.Metrics = None,
    no_flow: a.NoFlow = False,
) -> int:
    """Copy the checkpoints of an archive into a Zarr store, bit for bit; equal tensors are stored once.

    \b
      varve ingest RUNS/ --store S.zarr
      varve ingest RUNS/ --store S.zarr --steps "::10"
      varve ingest RUNS/ --store S.zarr --metrics losses.csv

    Checkpoints that are already there unchanged are not read again. Exit code 3 when something cannot be read.
    """
    from flows.cli.request import options_from
    from flows.cli.running import run_ingest

    options = options_from(
        runs=runs, out=store.parent, store=store, base=base, steps=steps, rehash=rehash, name=name,
        step_pattern=step_pattern, step_scale=step_scale, metrics=metrics,
    )  # fmt: skip
    return run_ingest(options, with_prefect=not no_flow)
