"""`varve.analyze`: everything that the command does, for a notebook, without Prefect."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.analysis.request import AnalysisRequest

if TYPE_CHECKING:
    import xarray as xr


def analyze(runs: str | Path, out: str | Path = "out", **options: Any) -> xr.DataTree:
    """Ingests the checkpoints below `runs`, computes what is missing and writes OUT/report.html and OUT/report.zarr.

    Returns the report. `options` are the fields of `AnalysisRequest`, that is the options of `varve analyze`: `base`,
    `analyzers`, `settings` (analyzer → key → value), `tasks`, `probes`, `metrics`, `include`, `exclude`, `steps`,
    `workers`, ...; a single text will do where several may stand. What could not be read or measured is printed and
    listed in the report.
    """
    from flows.cli.words import summary
    from flows.cli.words.console import say
    from flows.cli.words.narrator import Narrator
    from pipeline.analysis import driver
    from pipeline.analysis.resolve import resolve
    from pipeline.report import load

    resolved = resolve(AnalysisRequest.of(runs=runs, out=out, **options))
    with Narrator() as tell:
        outcome = driver.analyze(resolved, tell=tell)
    for line in summary.lines(outcome):
        say(line)
    return load(outcome.written.zarr)


def _signature() -> inspect.Signature:
    """The keywords of `analyze` with their types and defaults, as `help(varve.analyze)` shows them."""
    kinds = inspect.Parameter
    parameters = [
        kinds(
            name,
            kinds.POSITIONAL_OR_KEYWORD if name in ("runs", "out") else kinds.KEYWORD_ONLY,
            default=kinds.empty if field.is_required() else field.default,
            annotation=field.annotation,
        )
        for name, field in AnalysisRequest.model_fields.items()
    ]
    return inspect.Signature(parameters, return_annotation="xr.DataTree")


analyze.__signature__ = _signature()  # type: ignore[attr-defined]  # an attribute that inspect reads
