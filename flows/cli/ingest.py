"""`varve ingest`: checkpoints into a store, without measuring anything."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import NoFlow, Words, request_of, with_options


@with_options("runs", "base", "steps", "rehash", "name", "step_pattern", "step_scale", "metrics")
def ingest(
    words: Words,
    store: Annotated[Path, typer.Option("--store", help="The Zarr store; created if it does not exist.")],
    no_flow: NoFlow = False,
) -> int:
    """Copy the checkpoints of an archive into a Zarr store, bit for bit; equal tensors are stored once.

    \b
      varve ingest RUNS/ --store S.zarr
      varve ingest RUNS/ --store S.zarr --steps "::10"
      varve ingest RUNS/ --store S.zarr --metrics losses.csv

    Checkpoints that are already there unchanged are not read again. Exit code 3 when something cannot be read.
    """
    from flows.cli.running import run_ingest

    return run_ingest(request_of(words, out=store.parent, store=store), with_prefect=not no_flow)
