"""`varve export`: a report in the format of another tool."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.console import say


def export(
    report: Annotated[Path, typer.Argument(metavar="REPORT.zarr", help="A report.zarr.")],
    format: Annotated[str, typer.Option("--format", "-f", metavar="netcdf|csv|parquet|json", help="What to write.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File (netcdf, json) or folder (csv, parquet) to write.")],
    variables: Annotated[
        str | None,
        typer.Option(
            "--variables",
            metavar="GLOBS",
            help="Only these variables, comma-separated: total_*,alpha, or weight_spectra/alpha.  [default: all]",
        ),
    ] = None,
) -> None:
    """Write a report as netCDF, CSV, Parquet or JSON.

    \b
      varve export out/report.zarr --format netcdf --out report.nc
      varve export out/report.zarr --format csv --out tables/
      varve export out/report.zarr --format json --out some.json --variables "total_*,alpha"
    """
    from pipeline.report import export as export_report
    from pipeline.report import load

    globs = [glob.strip() for glob in (variables or "").split(",") if glob.strip()]
    say(f"Wrote {export_report(load(report), format, out, globs)}")
