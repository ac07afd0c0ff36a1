"""A report as text, CSV tables or one JSON file: each number in the fewest digits that give it back in its own dtype.

Both hold the same tidy tables (`pipeline.report.tidy`). What was not measured is an empty cell, in JSON null; a table's
rows in which nothing was measured are left out.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import xarray as xr

from pipeline.report.tables import plain_attributes
from pipeline.report.tidy import TidyTable, tidy_tables

MARKER = "report.json"
"""The file of an exported folder that holds the root's attributes; a folder with it may be replaced."""
_DESCRIPTION = ("long_name", "units", "source")


@contextmanager
def _writing(path: Path, compressed: bool) -> Iterator[IO[str]]:
    """A text file; compressed, it is the same bytes for the same text."""
    if not compressed:
        with path.open("w", encoding="utf-8", newline="") as opened:
            yield opened
        return
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", newline="") as text,
    ):
        yield text


def write_csv(tree: xr.DataTree, folder: Path, compressed: bool = False) -> None:
    """A file for each table, `columns.csv` with what the columns are, and the report's attributes."""
    columns: list[dict[str, Any]] = []
    for item in tidy_tables(tree):
        name = f"{item.name}.csv" + (".gz" if compressed else "")
        with _writing(folder / name, compressed) as out:
            _harmless(_short(item.frame)).to_csv(out, index=False, lineterminator="\n")
        columns += [
            {"file": name, "column": column, "dtype": _dtype(item.frame[column])}
            | {key: described.get(key, "") for key in _DESCRIPTION}
            for column, described in item.attributes.items()
        ]
    described = pd.DataFrame(columns, columns=["file", "column", "dtype", *_DESCRIPTION])
    _harmless(described).to_csv(folder / "columns.csv", index=False)
    write_marker(tree, folder)


def write_marker(tree: xr.DataTree, folder: Path) -> None:
    """The report's attributes, in a file that also marks the folder as an export."""
    text = json.dumps(plain_attributes(tree.attrs), indent=2, ensure_ascii=False)
    (folder / MARKER).write_text(text + "\n", encoding="utf-8")


def write_json(tree: xr.DataTree, path: Path, compressed: bool = False) -> None:
    """{"attributes": …, "tables": {name: {"attributes": …, "columns": {column: {…}}, "rows": [[…], …]}}}, a row a line,
    its cells in the order of the columns."""
    with _writing(path, compressed) as out:
        out.write(f'{{"attributes": {_dumps(plain_attributes(tree.attrs))},\n"tables": {{')
        for index, item in enumerate(tidy_tables(tree)):
            columns = {n: {**described, "dtype": _dtype(item.frame[n])} for n, described in item.attributes.items()}
            head = f'"attributes": {_dumps(item.node_attributes)}, "columns": {_dumps(columns)}'
            out.write(("," if index else "") + f'\n{_dumps(item.name)}: {{{head}, "rows": [')
            out.writelines(("," if number else "") + f"\n[{row}]" for number, row in enumerate(_rows(item)))
            out.write("]}")
        out.write("}}\n")


def _rows(item: TidyTable) -> Iterator[str]:
    frame = _short(item.frame)
    return map(",".join, zip(*(_json_cells(frame[name]) for name in item.attributes), strict=True))


def _json_cells(column: pd.Series[Any]) -> list[str]:
    """NaN is null; JSON has no infinity, so that it is the string "inf" or "-inf", which `float()` reads."""
    if not pd.api.types.is_numeric_dtype(column):
        texts = {value: _dumps(value) for value in column.unique()}
        return [texts[value] for value in column]
    if pd.api.types.is_bool_dtype(column):
        return [_dumps(bool(value)) for value in column]
    if column.dtype == pd.Int64Dtype():
        return ["null" if value is pd.NA else str(value) for value in column]
    texts = {"nan": "null", "inf": '"inf"', "-inf": '"-inf"'}
    return [texts.get(text, text) for text in column.to_numpy().astype(str).tolist()]


def _short(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with columns of whole numbers, which the report keeps as floats, as integers."""
    whole = {name: frame[name].astype("Int64") for name in frame.columns if _is_whole(frame[name])}
    return frame.assign(**whole) if whole else frame


def _is_whole(column: pd.Series[Any]) -> bool:
    if column.dtype.kind != "f":
        return False
    values = column.to_numpy(np.float64)[column.notna()]
    exact = np.isfinite(values) & (np.abs(values) < 2**53)
    return bool(np.all(exact & (values == np.trunc(values)) & ~((values == 0) & np.signbit(values))))


def _dtype(column: pd.Series[Any]) -> str:
    return str(column.dtype) if pd.api.types.is_numeric_dtype(column) else "string"


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


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
