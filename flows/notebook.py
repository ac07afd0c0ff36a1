"""`varve.analyze`: everything that the command does, for a notebook, without Prefect."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xarray as xr


def analyze(runs: str | Path, out: str | Path = "out", **options: Any) -> xr.DataTree:
    """Ingests the checkpoints below `runs`, computes what is missing and writes OUT/report.html and OUT/report.zarr.

    Returns the report. `options` are those of `AnalyzeOptions`, that is of `varve analyze`: `base`, `analyzers`,
    `settings` (analyzer → key → value), `tasks`, `probes`, `metrics`, `include`, `exclude`, `steps`, `workers`, ...; a
    single text will do where several may stand. What could not be read or measured is printed and listed in the report.
    """
    from flows import analysis, summary
    from flows.console import say
    from flows.options import AnalyzeOptions
    from flows.running import PlainRunner
    from pipeline.report import load

    chosen = AnalyzeOptions(runs=str(runs), out=str(out), **{name: _several(name, v) for name, v in options.items()})
    analysis.check(chosen)
    outcome = analysis.analyze(chosen, PlainRunner())
    for line in summary.lines(outcome):
        say(line)
    return load(outcome.written.zarr)


def _several(name: str, value: Any) -> Any:
    several: Sequence[str] = ("base", "analyzers", "tasks", "probes", "metrics", "include", "exclude")
    if name in several:
        return (str(value),) if isinstance(value, str | Path) else tuple(map(str, value))
    return str(value) if isinstance(value, Path) else value
