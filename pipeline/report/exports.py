"""A report as netCDF, CSV, Parquet or JSON, for whoever does not read Zarr."""

from __future__ import annotations

import contextlib
import difflib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from analyzers.errors import ReportError
from pipeline.report.swap import fresh_path, replace_file, replace_folder, sweep
from pipeline.report.tables import datasets_of, plain_attributes, storable
from pipeline.report.tidy import TidyTable, tidy_tables

MARKER = "report.json"
"""The file of an exported folder that holds the root's attributes; a folder with it may be replaced."""


def export(tree: xr.DataTree, format: str, out: Path | str, variables: Sequence[str] = ()) -> Path:
    """Writes the report in another format and returns the path.

    netcdf: one file, groups kept (h5netcdf). csv, parquet: a folder of tidy tables, one row per run, step, matrix and
    further dimensions, one file per node and set of dimensions; CSV has long names and units in `columns.csv`, Parquet
    in its schema. json: one file of records. The target is replaced when it is such an export, whole or not at all.
    `variables`: globs on names, or on paths as in "weight_spectra/alpha"; all others are left out.
    """
    if variables:
        tree = only_variables(tree, variables)
    try:
        writer, is_folder = WRITERS[format.lower().lstrip(".")]
    except KeyError:
        near = difflib.get_close_matches(format.lower(), WRITERS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        formats = ", ".join(FORMATS)
        raise ReportError(f"unknown export format {format!r}: {hint}formats are {formats}") from None
    target = Path(out)
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


def only_variables(tree: xr.DataTree, globs: Sequence[str]) -> xr.DataTree:
    """The report with the variables that match; a node without one is left out. ReportError: a glob matches none."""
    chosen: dict[str, xr.Dataset] = {}
    names: set[str] = set()
    unmatched = dict.fromkeys(globs)
    for path, dataset in datasets_of(tree).items():
        own = {str(name): f"{path.strip('/')}/{name}" for name in dataset.data_vars}
        names.update(own)
        hits = {g: [n for n, p in own.items() if fnmatchcase(n, g) or fnmatchcase(p, g)] for g in globs}
        kept = set().union(*hits.values())
        unmatched = {glob: None for glob in unmatched if not hits[glob]}
        if kept:
            chosen[path] = dataset[[name for name in own if name in kept]]
    for glob in unmatched:
        near = difflib.get_close_matches(glob, sorted(names), n=3)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "the report's variables are in its nodes"
        raise ReportError(f"no variable of the report matches {glob!r}: {hint}")
    made = xr.DataTree.from_dict({"/": xr.Dataset(attrs=tree.attrs), **chosen})
    made.attrs = dict(tree.attrs)
    return made


def _check_target(target: Path, is_folder: bool) -> None:
    if is_folder and target.is_dir():
        if any(target.iterdir()) and not (target / MARKER).is_file():
            raise ReportError(f"{target} holds files that are not an export of varve: choose an empty or new folder")
    elif is_folder and target.exists():
        raise ReportError(f"{target} is a file, and this format writes a folder: choose another path")
    elif target.is_dir():
        raise ReportError(f"{target} is a folder, and this format writes one file: name the file, e.g. {target}/report")


def _write_netcdf(tree: xr.DataTree, path: Path) -> None:
    for index, (group, dataset) in enumerate(datasets_of(tree).items()):
        plain = storable(dataset.load())
        encoding = {
            str(name): {"zlib": True, "complevel": 4, "shuffle": True}
            for name, variable in plain.variables.items()
            if variable.dtype.kind == "f" and variable.nbytes > 2**16
        }
        plain.to_netcdf(path, mode="a" if index else "w", group=group, engine="h5netcdf", encoding=encoding)


def _write_csv(tree: xr.DataTree, folder: Path) -> None:
    columns: list[dict[str, Any]] = []
    for item in tidy_tables(tree):
        _harmless(item.frame).to_csv(folder / f"{item.name}.csv", index=False)
        columns += [
            {
                "file": f"{item.name}.csv",
                "column": name,
                **{k: attrs.get(k, "") for k in ("long_name", "units", "source")},
            }
            for name, attrs in item.attributes.items()
        ]
    described = pd.DataFrame(columns, columns=["file", "column", "long_name", "units", "source"])
    _harmless(described).to_csv(folder / "columns.csv", index=False)
    _write_marker(tree, folder)


_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet takes a cell that begins so for a formula, and runs it."""


def _harmless(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with an apostrophe before each text, in cells and headers, that a spreadsheet would take for a formula.
    Columns of numbers stay numbers."""
    texts = [name for name in frame.columns if not pd.api.types.is_numeric_dtype(frame[name])]
    changed = frame.assign(**{name: frame[name].map(_no_formula) for name in texts}) if texts else frame
    return changed.rename(columns=_no_formula)


def _no_formula(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    text = f"'{cell}" if cell.lstrip(" \n").startswith(_FORMULA) else cell
    return text.replace("\r", "\\r")  # unquoted, it would begin a row, and a cell, of its own


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
    _write_marker(tree, folder)


def _write_marker(tree: xr.DataTree, folder: Path) -> None:
    text = json.dumps(plain_attributes(tree.attrs), indent=2, ensure_ascii=False)
    (folder / MARKER).write_text(text + "\n", encoding="utf-8")


def _write_json(tree: xr.DataTree, path: Path) -> None:
    """{"attributes": …, "tables": {name: {"attributes", "columns": {column: {…}}, "records": [{…}]}}}, a row a line."""
    with path.open("w", encoding="utf-8") as out:
        out.write('{"attributes": ' + _dumps(plain_attributes(tree.attrs)) + ',\n"tables": {')
        for index, item in enumerate(tidy_tables(tree)):
            head = f'"attributes": {_dumps(item.node_attributes)}, "columns": {_dumps(item.attributes)}'
            out.write(("," if index else "") + f'\n{_dumps(item.name)}: {{{head}, "records": [')
            for number, record in enumerate(_records(item)):
                out.write(("," if number else "") + "\n" + _dumps(record))
            out.write("]}")
        out.write("}}\n")


def _records(item: TidyTable) -> Iterator[dict[str, Any]]:
    names = list(item.frame.columns)
    columns = [[_json_value(v) for v in item.frame[name].tolist()] for name in names]
    for row in zip(*columns, strict=True):
        yield dict(zip(names, row, strict=True))


def _json_value(value: Any) -> Any:
    """NaN is null; JSON has no infinity, so that it is the string "inf" or "-inf", which `float()` reads."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value.item() if isinstance(value, np.generic) else value


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


Writer = Callable[[xr.DataTree, Path], None]
WRITERS: dict[str, tuple[Writer, bool]] = {
    "netcdf": (_write_netcdf, False),
    "csv": (_write_csv, True),
    "parquet": (_write_parquet, True),
    "json": (_write_json, False),
    "nc": (_write_netcdf, False),
}
FORMATS = ("netcdf", "csv", "parquet", "json")
