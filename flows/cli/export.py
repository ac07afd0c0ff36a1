"""`varve export`: a report in the format of another tool."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from analyzers.errors import ParameterError
from flows.cli.words.console import place, say


def export(
    report: Annotated[Path, typer.Argument(metavar="REPORT.zarr", help="A report.zarr.")],
    format: Annotated[
        str,
        typer.Option("--format", "-f", metavar="netcdf|csv|parquet|json", help="What to write; also csv.gz, json.gz."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="File (netcdf, json) or folder (csv, parquet) to write.")],
    variables: Annotated[
        str | None,
        typer.Option(
            "--variables",
            metavar="GLOBS",
            help="Only these variables, comma-separated: total_*,alpha, or weight_spectra/alpha.  [default: all; in "
            'CSV and JSON without whole spectra and other vectors, which "*" includes]',
        ),
    ] = None,
) -> None:
    """Write a report as netCDF, CSV, Parquet or JSON.

    \b
      varve export out/report.zarr --format netcdf --out report.nc
      varve export out/report.zarr --format csv --out tables/
      varve export out/report.zarr --format json --out report.json.gz
      varve export out/report.zarr --format json --out some.json --variables "total_*,alpha"
      varve export out/report.zarr --format csv --out all/ --variables "*"
    """
    from pipeline.report import export as export_report
    from pipeline.report import load
    from pipeline.report.exports import vectors_left_out

    globs = None if variables is None else [glob.strip() for glob in variables.split(",") if glob.strip()]
    if globs == []:
        raise ParameterError(
            f'--variables {variables!r}: names no variable; use "*" for all, or --variables "total_*,alpha"'
        )
    tree = load(report)
    say(f"Wrote {place(export_report(tree, format, out, globs))}")
    if left_out := vectors_left_out(tree, format, globs):
        say(f"Vectors left out: {', '.join(left_out)}.")
        say(f'To export them, name them, as in --variables "{left_out[0]}"; --variables "*" writes everything.')
