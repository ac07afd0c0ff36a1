"""One batch of results on disk: all values of one dtype in one 1-D array, and a compact index of which lie where.

Entries with the same fields form a *table*; in it, the values of one field of all its entries are contiguous, so a
column of a thousand results is one slice, and the index of 300 results is a few hundred bytes beside their keys.
"""

from __future__ import annotations

import functools
import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analyzers.errors import StoreError
from pipeline.store.documents import FILE, damage, encode, read_document
from pipeline.store.key_index import packed
from pipeline.store.tensors import create_array, logical_dtype, open_array, plain, read_rows, tensor_digest

if TYPE_CHECKING:
    from analyzers.contract import Result

_CHUNK_BYTES = 8 * 2**20
_NONE: Mapping[str, Any] = {}
_GAP = 2**14
"""Slices of one array that lie closer than this many values are read as one."""


@dataclass(frozen=True)
class BatchEntry:
    """One result (or the reason why there is none) with its key, its extent and where it comes from."""

    key: str
    value: Result | str
    extent: int = 0
    provenance: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Column:
    """One field of a table: where its values start in the array of its dtype, and each entry's shape."""

    name: str
    dtype: str
    offset: int
    shape: tuple[int, ...] | None
    shapes: tuple[tuple[int, ...], ...] = ()

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Offsets of the entries, where shapes differ."""
        return tuple(accumulate((math.prod(shape) for shape in self.shapes), initial=self.offset))

    def place(self, row: int) -> tuple[int, tuple[int, ...]]:
        """(offset, shape) of one entry."""
        if self.shape is not None:
            return self.offset + row * math.prod(self.shape), self.shape
        return self.starts[row], self.shapes[row]

    def pieces(self, rows: Sequence[int]) -> list[tuple[int, int]]:
        """(start, stop) in the array for rows in order: one span where the rows are dense, else one piece each."""
        if self.shape is not None and (rows[-1] - rows[0] + 1) <= 2 * len(rows):
            size = math.prod(self.shape)
            return [(self.offset + rows[0] * size, self.offset + (rows[-1] + 1) * size)]
        places = [self.place(row) for row in rows]
        return [(offset, offset + math.prod(shape)) for offset, shape in places]

    def values(self, rows: Sequence[int], read: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The values of the rows, from what was read for `pieces`: views."""
        if self.shape is not None and len(read) == 1:
            block = read[0].reshape(rows[-1] - rows[0] + 1, *self.shape)
            return [block[row - rows[0], ...] for row in rows]
        return [flat.reshape(self.place(row)[1]) for row, flat in zip(rows, read, strict=True)]

    def stack(self, rows: Sequence[int], read: Sequence[np.ndarray]) -> np.ndarray:
        """The values (n, *shape) of rows of one shape, from what was read for `pieces`: a copy."""
        if self.shape is not None and len(read) == 1:
            block = read[0].reshape(rows[-1] - rows[0] + 1, *self.shape)
            return block[np.asarray(rows) - rows[0]]
        return np.stack(self.values(rows, read))


@dataclass(frozen=True)
class ResultTable:
    """Entries `first` … `last − 1` of a batch, whose results have the same fields."""

    first: int
    count: int
    columns: tuple[Column, ...]

    @property
    def last(self) -> int:
        """One past the last entry."""
        return self.first + self.count


@dataclass(frozen=True)
class Batch:
    """The index of one batch. `extents` and `provenance_of` are per entry, or one value for all."""

    name: str
    keys: Sequence[str]
    tables: tuple[ResultTable, ...]
    reasons: Mapping[int, str]
    extents: tuple[int, ...] | int
    provenances: tuple[Mapping[str, Any], ...]
    provenance_of: tuple[int, ...] | int
    digests: Mapping[str, str]

    def extent(self, entry: int) -> int:
        """Extent of an entry."""
        return self.extents if isinstance(self.extents, int) else self.extents[entry]

    def provenance(self, entry: int) -> Mapping[str, Any]:
        """What is known of how an entry was computed."""
        return self.provenances[
            self.provenance_of if isinstance(self.provenance_of, int) else self.provenance_of[entry]
        ]

    def table_of(self, entry: int) -> ResultTable | None:
        """The table that holds an entry; None for a reason."""
        for table in self.tables:
            if table.first <= entry < table.last:
                return table
        return None


def write_batch(folder: Path, statistic: str, entries: Sequence[BatchEntry]) -> None:
    """Writes arrays and index of a batch into `folder` (new and empty; the caller publishes it)."""
    groups: dict[tuple[Any, ...], list[tuple[BatchEntry, dict[str, np.ndarray]]]] = {}
    reasons: list[BatchEntry] = []
    for entry in entries:
        if isinstance(entry.value, str):
            reasons.append(entry)
            continue
        values = {name: _exact(statistic, entry.key, name, value) for name, value in entry.value.items()}
        signature = tuple((name, _dtype_name(value.dtype), value.ndim) for name, value in values.items())
        groups.setdefault(signature, []).append((entry, values))
    arrays: dict[str, list[np.ndarray]] = {}
    filled: dict[str, int] = {}
    ordered: list[BatchEntry] = []
    tables = []
    for members in groups.values():
        columns = []
        for name, example in members[0][1].items():
            dtype = _dtype_name(example.dtype)
            shapes = [list(values[name].shape) for _, values in members]
            offset = filled.get(dtype, 0)
            parts = [plain_values(values[name]) for _, values in members]
            arrays.setdefault(dtype, []).extend(parts)
            filled[dtype] = offset + sum(values[name].size for _, values in members)
            alike = all(shape == shapes[0] for shape in shapes)
            columns.append([name, dtype, offset, shapes[0]] if alike else [name, dtype, offset, None, shapes])
        tables.append({"count": len(members), "columns": columns})
        ordered += [entry for entry, _ in members]
    digests = {}
    for dtype, parts in arrays.items():
        joined = np.concatenate(parts)
        array = create_array(folder / dtype, joined.dtype, joined.shape, {"values_of": dtype}, _CHUNK_BYTES)
        if joined.size:
            array[...] = joined
        digests[dtype] = tensor_digest(joined)
    ordered += reasons
    index = {
        "varve": "statistic_batch",
        "statistic": statistic,
        "keys": _join([entry.key for entry in ordered]),
        "tables": tables,
        **_reasons_to_json(reasons),
        "extents": _uniform([entry.extent for entry in ordered], 0),
        **_provenances_to_json(ordered),
        "digests": digests,
    }
    (folder / FILE).write_bytes(encode(index, folder))


def read_batch(folder: Path) -> Batch:
    """The index of the batch at `folder`."""
    data = read_document(folder)
    try:
        tables, first = [], 0
        for table in data["tables"]:
            tables.append(ResultTable(first, table["count"], tuple(_column(column) for column in table["columns"])))
            first += table["count"]
        texts = data["reasons"]
        return Batch(
            folder.name,
            _split(data["keys"]),
            tuple(tables),
            {first + position: texts[which] for position, which in enumerate(data["reason_of"])},
            data["extents"] if isinstance(data["extents"], int) else tuple(data["extents"]),
            tuple(data["provenances"]),
            data["provenance_of"] if isinstance(data["provenance_of"], int) else tuple(data["provenance_of"]),
            data["digests"],
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise damage(folder / FILE, error) from error


def read_entries(
    folder: Path, batch: Batch, entries: Iterable[int], fields: Sequence[str] | None = None
) -> dict[str, Result | str]:
    """Chosen entries of a batch by key: of each, all fields or those named in `fields`, or its reason."""
    chosen = sorted(set(entries))
    found: dict[str, Result | str] = {batch.keys[at]: batch.reasons[at] for at in chosen if at in batch.reasons}
    work = []
    for table in batch.tables:
        rows = [at - table.first for at in chosen[bisect_left(chosen, table.first) : bisect_left(chosen, table.last)]]
        columns = [column for column in table.columns if fields is None or column.name in fields]
        if rows:
            work.append((table, rows, columns, [column.pieces(rows) for column in columns]))
    slices = read_slices(
        folder,
        (
            (column.dtype, *piece)
            for _, _, columns, pieces in work
            for column, of_column in zip(columns, pieces, strict=True)
            for piece in of_column
        ),
    )
    for table, rows, columns, pieces in work:
        keys = [batch.keys[table.first + row] for row in rows]
        names = [column.name for column in columns]
        values = [
            column.values(rows, [slices[(column.dtype, *piece)] for piece in of_column])
            for column, of_column in zip(columns, pieces, strict=True)
        ]
        for position, key in enumerate(keys):
            found[key] = {name: of_column[position] for name, of_column in zip(names, values, strict=True)}
    return found


def read_column(folder: Path, column: Column, rows: Sequence[int]) -> np.ndarray:
    """The values (n, *shape) of one column for ascending rows whose shapes are alike."""
    pieces = [(column.dtype, *piece) for piece in column.pieces(rows)]
    read = read_slices(folder, pieces)
    return column.stack(rows, [read[piece] for piece in pieces])


def read_slices(folder: Path, wanted: Iterable[tuple[str, int, int]]) -> dict[tuple[str, int, int], np.ndarray]:
    """The values start..stop of a dtype's array, for each (dtype, start, stop); neighbours are read together."""
    found: dict[tuple[str, int, int], np.ndarray] = {}
    by_dtype: dict[str, set[tuple[int, int]]] = {}
    for dtype, start, stop in wanted:
        by_dtype.setdefault(dtype, set()).add((start, stop))
    for dtype, pieces in by_dtype.items():
        array, logical = open_array(folder / dtype), _value_dtype(dtype)
        width = logical.itemsize // array.dtype.itemsize  # more than 1 for strings, which are held as bytes
        for low, high, members in _merged(sorted(pieces)):
            if high * width > array.shape[0]:
                raise damage(folder / dtype, f"it holds {array.shape[0]} values, and the index names {high * width}")
            block = read_rows(folder / dtype, array, low * width, high * width).view(logical)
            found.update({(dtype, start, stop): block[start - low : stop - low] for start, stop in members})
    return found


def _merged(pieces: Sequence[tuple[int, int]]) -> list[tuple[int, int, list[tuple[int, int]]]]:
    """(start, stop, members) of the reads that cover sorted pieces."""
    reads: list[tuple[int, int, list[tuple[int, int]]]] = []
    for start, stop in pieces:
        if reads and start - reads[-1][1] <= _GAP:
            low, high, members = reads[-1]
            members.append((start, stop))
            reads[-1] = (low, max(high, stop), members)
        else:
            reads.append((start, stop, [(start, stop)]))
    return reads


def plain_values(value: np.ndarray) -> np.ndarray:
    """A result's values as the 1-D array that Zarr holds."""
    if value.dtype.kind in "USMm":
        return np.ascontiguousarray(value).reshape(-1).view(np.uint8)
    return plain(value).reshape(-1)


def _exact(statistic: str, key: str, name: str, value: Any) -> np.ndarray:
    """A field's value as a little-endian array; StoreError where its dtype cannot be stored."""
    array = np.asarray(value)
    try:
        dtype = _held_dtype(array.dtype)
    except StoreError as error:
        raise StoreError(f"statistic {statistic!r}, key {key}: field {name!r} cannot be stored: {error}") from error
    return array if array.dtype is dtype else array.astype(dtype, copy=False)


@functools.lru_cache(maxsize=256)
def _held_dtype(dtype: np.dtype) -> np.dtype:
    if dtype.itemsize == 0:  # an array of empty strings
        dtype = np.dtype(f"{dtype.kind}1")
    _value_dtype(_dtype_name(dtype))
    return dtype.newbyteorder("<")


@functools.lru_cache(maxsize=256)  # numpy takes microseconds to spell a dtype's name
def _dtype_name(dtype: np.dtype) -> str:
    return dtype.str[1:] if dtype.kind in "US" else dtype.name


def _value_dtype(name: str) -> np.dtype:
    return np.dtype(f"<{name}") if name[0] in "US" and name[1:].isdigit() else logical_dtype(name)


def _column(data: Sequence[Any]) -> Column:
    name, dtype, offset, shape = data[:4]
    shapes = tuple(tuple(each) for each in data[4]) if len(data) > 4 else ()
    return Column(name, dtype, offset, None if shape is None else tuple(shape), shapes)


def _join(keys: list[str]) -> Any:
    """Keys of one length become one string (of which JSON parsing costs nothing), others stay a list."""
    lengths = {len(key) for key in keys}
    return {"length": lengths.pop(), "joined": "".join(keys)} if len(lengths) == 1 and "" not in keys else keys


def _split(keys: Any) -> Sequence[str]:
    if isinstance(keys, list):
        return tuple(keys)
    return packed(keys["joined"], keys["length"])


def _uniform(values: list[int], default: int) -> int | list[int]:
    distinct = set(values)
    return values if len(distinct) > 1 else (distinct.pop() if distinct else default)


def _reasons_to_json(reasons: Sequence[BatchEntry]) -> dict[str, Any]:
    texts = list(dict.fromkeys(str(entry.value) for entry in reasons))
    position = {text: index for index, text in enumerate(texts)}
    return {"reasons": texts, "reason_of": [position[str(entry.value)] for entry in reasons]}


def _provenances_to_json(entries: Sequence[BatchEntry]) -> dict[str, Any]:
    distinct: list[Mapping[str, Any]] = []
    which: list[int] = []
    position: dict[int, int] = {}  # by identity first: the entries of one write share one object
    for entry in entries:
        source = _NONE if entry.provenance is None else entry.provenance
        if id(source) not in position:
            if source not in distinct:
                distinct.append(source)
            position[id(source)] = distinct.index(source)
        which.append(position[id(source)])
    return {"provenances": distinct or [{}], "provenance_of": _uniform(which, 0)}
