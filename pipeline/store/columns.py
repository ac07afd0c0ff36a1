"""Many stored results of one statistic by field: which batches hold them is found once, for all fields.

A field is read as slices of the batches' arrays, so a result costs no Python object of its own where shapes are alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.store.batches import Batch, Column, Table, read_column


@dataclass(frozen=True)
class Part:
    """What one table of a batch holds: ascending `rows`, and the position of each among the keys asked for."""

    batch: str
    table: Table
    rows: np.ndarray
    positions: np.ndarray


@dataclass(frozen=True)
class Piece:
    """Rows of one column whose values share a shape."""

    batch: str
    column: Column
    rows: np.ndarray
    positions: np.ndarray


class Columns:
    """Chosen results of a statistic's table as they lie in its batches; made by `StatisticTable.columns`."""

    def __init__(self, folder: Path, places: Sequence[tuple[Batch, int] | None]) -> None:
        """places: the batch and entry of each key asked for, None where nothing is stored."""
        self._folder = folder
        by_batch: dict[str, tuple[Batch, list[int], list[int]]] = {}
        for position, place in enumerate(places):
            if place is not None:
                _, entries, positions = by_batch.setdefault(place[0].name, (place[0], [], []))
                entries.append(place[1])
                positions.append(position)
        self._parts: list[Part] = []
        for batch, listed, positions in by_batch.values():
            order = np.argsort(listed)
            entries_at, positions_at = np.array(listed)[order], np.array(positions)[order]
            for table in batch.tables:
                low, high = np.searchsorted(entries_at, (table.first, table.last))
                if low < high:
                    rows = entries_at[low:high] - table.first
                    self._parts.append(Part(batch.name, table, rows, positions_at[low:high]))

    def shapes(self, field: str) -> list[list[Piece]]:
        """Where the values of a field are, for each dtype and shape that occur, in the order in which they do."""
        found: dict[tuple[str, tuple[int, ...]], list[Piece]] = {}
        for part in self._parts:
            for column in part.table.columns:
                if column.name != field:
                    continue
                if column.shape is not None:
                    whole = Piece(part.batch, column, part.rows, part.positions)
                    found.setdefault((column.dtype, column.shape), []).append(whole)
                    continue
                by_shape: dict[tuple[int, ...], list[int]] = {}
                for index, row in enumerate(part.rows.tolist()):
                    by_shape.setdefault(column.shapes[row], []).append(index)
                for shape, chosen in by_shape.items():
                    piece = Piece(part.batch, column, part.rows[chosen], part.positions[chosen])
                    found.setdefault((column.dtype, shape), []).append(piece)
        return sorted(found.values(), key=lambda pieces: min(int(piece.positions.min()) for piece in pieces))

    def read(self, pieces: Sequence[Piece]) -> tuple[np.ndarray, np.ndarray]:
        """(n,) positions among the keys asked for, and values (n, *shape), of one of `shapes`, batch by batch."""
        values = [read_column(self._folder / p.batch, p.column, p.rows.tolist()) for p in pieces]
        return np.concatenate([p.positions for p in pieces]), values[0] if len(values) == 1 else np.concatenate(values)
