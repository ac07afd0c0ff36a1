"""Many stored results of one statistic by field: which batches hold them is found once, for all fields.

A field is read as slices of the batches' arrays, so a result costs no Python object of its own where shapes are alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.store.batches import Batch, Column, ResultTable, read_column


@dataclass(frozen=True)
class ColumnPart:
    """What one table of a batch holds: ascending `rows`, and the position of each among the keys asked for."""

    batch: str
    table: ResultTable
    rows: np.ndarray
    positions: np.ndarray


@dataclass(frozen=True)
class ColumnPiece:
    """Rows of one column whose values share a shape."""

    batch: str
    column: Column
    rows: np.ndarray
    positions: np.ndarray


class Columns:
    """Chosen results of a statistic's table as they lie in its batches; made by `StatisticTable.columns`."""

    def __init__(self, folder: Path, batch_of: np.ndarray, entries: np.ndarray, batches: Sequence[Batch]) -> None:
        """Of each key asked for: the number of its batch among `batches`, −1 where nothing is stored, and its entry."""
        self._folder = folder
        self._parts: list[ColumnPart] = []
        order = np.lexsort((entries, batch_of))
        for positions in np.split(order, np.searchsorted(batch_of[order], np.unique(batch_of))[1:]):
            if not positions.size or batch_of[positions[0]] < 0:
                continue
            batch, entries_at = batches[batch_of[positions[0]]], entries[positions]
            for table in batch.tables:
                low, high = np.searchsorted(entries_at, (table.first, table.last))
                if low < high:
                    rows = entries_at[low:high] - table.first
                    self._parts.append(ColumnPart(batch.name, table, rows, positions[low:high]))

    def shapes(self, field: str) -> list[list[ColumnPiece]]:
        """Where the values of a field are, for each dtype and shape that occur, in the order in which they do."""
        found: dict[tuple[str, tuple[int, ...]], list[ColumnPiece]] = {}
        for part in self._parts:
            for column in part.table.columns:
                if column.name != field:
                    continue
                if column.shape is not None:
                    whole = ColumnPiece(part.batch, column, part.rows, part.positions)
                    found.setdefault((column.dtype, column.shape), []).append(whole)
                    continue
                by_shape: dict[tuple[int, ...], list[int]] = {}
                for index, row in enumerate(part.rows.tolist()):
                    by_shape.setdefault(column.shapes[row], []).append(index)
                for shape, chosen in by_shape.items():
                    piece = ColumnPiece(part.batch, column, part.rows[chosen], part.positions[chosen])
                    found.setdefault((column.dtype, shape), []).append(piece)
        return sorted(found.values(), key=lambda pieces: min(int(piece.positions.min()) for piece in pieces))

    def read(self, pieces: Sequence[ColumnPiece]) -> tuple[np.ndarray, np.ndarray]:
        """(n,) positions among the keys asked for, and values (n, *shape), of one of `shapes`, batch by batch."""
        values = [read_column(self._folder / p.batch, p.column, p.rows.tolist()) for p in pieces]
        return np.concatenate([p.positions for p in pieces]), values[0] if len(values) == 1 else np.concatenate(values)
