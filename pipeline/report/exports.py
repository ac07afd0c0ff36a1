"""A report as netCDF, CSV, Parquet or JSON, for whoever does not read Zarr."""

from __future__ import annotations

import contextlib
import difflib
import json
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import xarray as xr

from analyzers.errors import ReportError
from pipeline.report.choice import chosen, without_vectors
from pipeline.report.swap import fresh_path, replace_file, replace_folder, sweep
from pipeline.report.tables import datasets_of, storable
from pipeline.report.text_exports import MARKER, write_csv, write_json, write_marker
from pipeline.report.tidy import tidy_tables


def export(tree: xr.DataTree, format: str, out: Path | str, variables: Sequence[str] | None = None) -> Path:
    """Writes the report in another format and returns the path.

    netcdf: one file, groups kept (h5netcdf). csv, parquet: a folder of tidy tables, one row per run, step, matrix and
    further dimensions, one file per node and set of dimensions; CSV has long names and units in `columns.csv`, Parquet
    in its schema. json: one file of the same tables. csv.gz, json.gz: compressed, as is JSON where `out` ends in .gz.
    The target is replaced when it is such an export, whole or not at all.

    `variables`: globs on names, or on nodes and names as in "weight_spectra/alpha"; all others are left out. Without
    globs an export holds everything, in CSV and JSON everything but `vectors_left_out`, which its attributes name.
    """
    target = Path(out)
    chosen_format = _format(format, target)
    writer, is_folder = WRITERS[chosen_format]
    left_out = vectors_left_out(tree, format, variables)
    if variables is not None:
        tree = chosen(tree, variables)
    elif left_out:
        tree, _ = without_vectors(tree)
        tree.attrs["left_out"] = ",".join(left_out)
    _check_target(target, is_folder)
    fresh = fresh_path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target)
        if is_folder:
            fresh.mkdir()
        writer(tree, fresh)
        replace_folder(fresh, target) if is_folder else replace_file(fresh, target)
    except OSError as error:
        raise ReportError(f"cannot export to {target}: {error}") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(fresh) if is_folder else fresh.unlink()
    return target


def vectors_left_out(tree: xr.DataTree, format: str, variables: Sequence[str] | None = None) -> tuple[str, ...]:
    """What an export leaves out unless `variables` name it: in formats of text the vectors, as node/name."""
    if variables is not None or _format(format, Path()) not in TEXT:
        return ()
    return without_vectors(tree)[1]


def _format(name: str, target: Path) -> str:
    known = name.lower().lstrip(".")
    if known == "json" and target.suffix.lower() == ".gz":
        known = "json.gz"
    if known in WRITERS:
        return known
    near = difflib.get_close_matches(known, WRITERS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ReportError(f"unknown export format {name!r}: {hint}known formats: {', '.join(FORMATS)}; csv.gz, json.gz")


def _check_target(target: Path, is_folder: bool) -> None:
    if is_folder and target.is_dir():
        if any(target.iterdir()) and not (target / MARKER).is_file():
            raise ReportError(f"{target} holds files that are not a varve export: choose an empty or new folder")
    elif is_folder and target.exists():
        raise ReportError(f"{target} is a file, but this format writes a folder: choose another path")
    elif target.is_dir():
        raise ReportError(
            f"{target} is a folder, but this format writes one file: name the file, for example {target}/report"
        )


def _write_netcdf(tree: xr.DataTree, path: Path) -> None:
    for index, (group, dataset) in enumerate(datasets_of(tree).items()):
        plain = storable(dataset.load())
        encoding = {
            str(name): {"zlib": True, "complevel": 4, "shuffle": True}
            for name, variable in plain.variables.items()
            if variable.dtype.kind == "f" and variable.nbytes > 2**16
        }
        plain.to_netcdf(path, mode="a" if index else "w", group=group, engine="h5netcdf", encoding=encoding)


def _write_parquet(tree: xr.DataTree, folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for item in tidy_tables(tree):
        arrow = pa.Table.from_pandas(item.frame, preserve_index=False)
        fields = [
            field.with_metadata({k: str(v) for k, v in item.attributes[field.name].items()}) for field in arrow.schema
        ]
        metadata = {**(arrow.schema.metadata or {}), b"varve": json.dumps(item.node_attributes).encode()}
        pq.write_table(arrow.cast(pa.schema(fields, metadata=metadata)), folder / f"{item.name}.parquet")
    write_marker(tree, folder)


Writer = Callable[[xr.DataTree, Path], None]
WRITERS: dict[str, tuple[Writer, bool]] = {
    "netcdf": (_write_netcdf, False),
    "csv": (write_csv, True),
    "csv.gz": (partial(write_csv, compressed=True), True),
    "parquet": (_write_parquet, True),
    "json": (write_json, False),
    "json.gz": (partial(write_json, compressed=True), False),
    "nc": (_write_netcdf, False),
}
"""Format → how it is written, and whether into a folder."""
TEXT = ("csv", "csv.gz", "json", "json.gz")
FORMATS = ("netcdf", "csv", "parquet", "json")
