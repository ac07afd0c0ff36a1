"""Reading stored results for a view: each batch once, what is asked for together, and bounded in memory."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from analyzers.contract import IterativeStatistic, Result, Statistic
from analyzers.errors import StoreError
from pipeline.store.columns import ColumnPiece, Columns
from pipeline.store.failures import Failure
from pipeline.units.addresses import Skip
from pipeline.units.found import FoundUnits, Place, Places
from pipeline.units.keys import identity
from pipeline.units.prepared import Prepared
from pipeline.units.selection import Selection
from pipeline.units.sources import Sources
from pipeline.units.trials import reasons_of_trials
from pipeline.units.units import Units

if TYPE_CHECKING:
    from pipeline.store.statistics import StatisticTable
    from pipeline.store.store import Store

CACHE_BYTES = 512 * 2**20
STACK_BYTES = 16 * 2**20
"""Values that `by_shape` reads at a time."""
_At = tuple[str | None, int | None]
Index = Callable[[Place], tuple[int, int, int]]
"""A place → its run, step and matrix as numbers."""


@dataclass(frozen=True)
class _Layout:
    """A statistic's units as arrays: their n keys, the indices of all their places (m, 3) int32 (those of
    unit i are rows first[i] … first[i + 1] − 1), and the columns of their results."""

    keys: Sequence[str]
    first: np.ndarray
    index: np.ndarray
    columns: Columns


class _Cache:
    """What was read last, up to `CACHE_BYTES`."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, _At], tuple[Mapping[str, Result | str], int]] = OrderedDict()
        self._bytes = 0

    def get(self, at: tuple[str, _At]) -> Mapping[str, Result | str] | None:
        if at not in self._kept:
            return None
        self._kept.move_to_end(at)
        return self._kept[at][0]

    def keep(self, at: tuple[str, _At], values: Mapping[str, Result | str]) -> Mapping[str, Result | str]:
        """Keeps the values, forgets the oldest where there are too many, and returns the values."""
        size = sum(array.nbytes for value in values.values() if not isinstance(value, str) for array in value.values())
        self._kept[at] = (values, size)
        self._bytes += size
        while self._bytes > CACHE_BYTES and len(self._kept) > 1:
            _, (_, gone) = self._kept.popitem(last=False)
            self._bytes -= gone
        return values


class Results:
    """The stored results of statistics over a selection. Tables are as they were when they were first asked for."""

    def __init__(self, store: Store, statistics: Sequence[Statistic], selection: Selection) -> None:
        self.store = store
        self.sources = Sources(store, selection)
        self._statistics = tuple(statistics)
        self.units = Units(self.sources, statistics, addresses=False)
        self._others: dict[str, Units] = {}
        self._tables: dict[str, StatisticTable] = {}
        self._cache = _Cache()
        self._layouts: dict[str, _Layout] = {}
        self._runs: frozenset[str] | None = None

    def part(self, runs: Collection[str]) -> Results:
        """The same results, of which `by_shape` gives those of some runs."""
        part = copy.copy(self)
        part._layouts, part._runs = {}, frozenset(runs)
        return part

    def prepared(self, statistic: Statistic) -> tuple[Units, Prepared]:
        """A statistic as its units know it; one that no analyzer declared is looked for all the same."""
        p = self.units.known(statistic)
        if p is not None:
            return self.units, p
        units = self._others.setdefault(identity(statistic), Units(self.sources, [statistic], addresses=False))
        p = units.known(statistic)
        assert p is not None
        return units, p

    def found(self, statistic: Statistic) -> FoundUnits:
        """All units of a statistic."""
        units, p = self.prepared(statistic)
        return units.of(p)

    def table(self, name: str) -> StatisticTable:
        """The stored results of a statistic."""
        if name not in self._tables:
            self._tables[name] = self.store.statistic(name)
        return self._tables[name]

    def value(self, statistic: Statistic, place: Place) -> Result | None:
        """The result at a place. All results of its checkpoint (or run) are read with it and kept for a while, since
        who asks for one mostly asks for the next."""
        at = place[:2]
        _, p = self.prepared(statistic)
        places = self.found(statistic).places
        key = places.get(place)
        if key is None:
            return None
        read = self._cache.get((p.identity, at))
        if read is None:
            read = self._cache.keep((p.identity, at), self.table(p.name).read(dict.fromkeys(places.of(*at).values())))
        value = read.get(key)
        return None if isinstance(value, str) else value

    def by_key(self, statistic: Statistic, key: str) -> Result | None:
        """A result by its key."""
        value = self.table(statistic.name).read([key]).get(key)
        return None if isinstance(value, str) else value

    def by_shape(self, statistic: Statistic, field: str, of: Index) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Indices (n, 3) of places and values (n, *shape) of a field there, `STACK_BYTES` at a time, for each shape and
        dtype that occur. `of` must be the same at each call."""
        layout = self._layout(statistic, of)
        for pieces in (few for alike in layout.columns.shapes(field) for few in _bounded(alike)):
            try:
                units, values = layout.columns.read(pieces)
            except StoreError:  # compacted away since, then it is found by key; or damaged, then the rest is read
                units = np.concatenate([piece.positions for piece in pieces])
                keys = [layout.keys[unit] for unit in units.tolist()]
                read = self.table(statistic.name).read(keys, [field])
                there = [at for at, key in enumerate(keys) if not isinstance(read.get(key, ""), str)]
                if not there:
                    continue
                units = units[there]
                values = np.stack([value[field] for at in there if not isinstance(value := read[keys[at]], str)])
            order = np.argsort(units)
            units = units[order]
            counts = layout.first[units + 1] - layout.first[units]
            if (counts == 1).all():
                yield layout.index[layout.first[units]], values[order]
                continue
            before = np.cumsum(counts) - counts  # of the places that are yielded, how many stand before each unit's
            positions = np.repeat(layout.first[units] - before, counts) + np.arange(int(counts.sum()))
            yield layout.index[positions], values[np.repeat(order, counts)]

    def _layout(self, statistic: Statistic, of: Index) -> _Layout:
        """Where the units and their results are, found once for all fields. The places themselves are then dropped:
        as Python objects they take three times as much."""
        units, p = self.prepared(statistic)
        if p.identity not in self._layouts:
            keys, first, index = _by_unit(self.found(statistic).places, of, self._runs)
            columns = self.table(p.name).columns(keys)
            self._layouts[p.identity] = _Layout(keys, first, index, columns)
            if self._runs is None:
                units.forget(p)
        return self._layouts[p.identity]

    def not_measured(self) -> tuple[Skip, ...]:
        """What has no unit, then what has a unit and no value, with the reason. The statistics are gone through one by
        one: the places of one alone are held at a time."""
        without_value: list[Skip] = []
        for p in self.units.prepared:
            if p.identity in self.units.asked:
                without_value += self._without_value(p)
                self.units.forget(p)
        without_unit = (skip for p in self.units.prepared for skip in self.units.found(p).skips)
        return (*dict.fromkeys((*self.sources.skips, *without_unit)), *without_value)

    def _without_value(self, p: Prepared) -> list[Skip]:
        """The places of a statistic of which the data have no value, with the stored reason."""
        found = self.units.of(p)
        places = found.places
        if isinstance(p.statistic, IterativeStatistic):
            units = {key: found.units[key] for key in dict.fromkeys(places.values())}
            reasons = reasons_of_trials(self.table(p.name), units)
        else:
            reasons = self.table(p.name).reasons(dict.fromkeys(places.values()))
        if not reasons:
            return []
        return [
            Skip(run or "", step, matrix, p.name, reasons[key], wrong=True)
            for (run, step, matrix), key in places.items()
            if key in reasons
        ]

    def failures(self) -> tuple[Failure, ...]:
        """The failures that are of the statistics' units, for which their addresses are needed after all."""
        failures = self.store.failures()
        return Units(self.sources, self._statistics).standing(failures) if failures else ()


def _by_unit(places: Places, of: Index, runs: Collection[str] | None) -> tuple[Sequence[str], np.ndarray, np.ndarray]:
    """The keys of units by the order of their first places (in some runs, or all), and `first` and `index` of a
    `_Layout`."""
    chosen = (runs is None or place[0] in runs for place in places)
    kept = np.fromiter(chosen, dtype=bool, count=len(places))
    rows = np.frombuffer(places.rows, dtype=np.int32)[kept] if len(places) else np.empty(0, dtype=np.int32)
    index = np.array([of(place) for place, chosen in zip(places, kept.tolist(), strict=True) if chosen], dtype=np.int32)
    units, starts, which, counts = np.unique(rows, return_index=True, return_inverse=True, return_counts=True)
    order = np.argsort(starts, kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    by_unit = np.argsort(rank[which], kind="stable")
    return places.index.keys_of(units[order]), np.cumsum([0, *counts[order]]), index.reshape(-1, 3)[by_unit]


def _bounded(pieces: Sequence[ColumnPiece]) -> Iterator[Sequence[ColumnPiece]]:
    """The pieces of one shape and dtype cut into parts of `STACK_BYTES`, by ascending positions."""
    positions = np.sort(np.concatenate([piece.positions for piece in pieces]))
    column, row = pieces[0].column, int(pieces[0].rows[0])
    shape = column.shape if column.shape is not None else column.shapes[row]
    count = max(1, STACK_BYTES // max(1, np.dtype(column.dtype).itemsize * math.prod(shape)))
    if len(positions) <= count:
        yield pieces
        return
    for start in range(0, len(positions), count):
        first, last = positions[start], positions[min(start + count, len(positions)) - 1]
        inside = ((piece, (piece.positions >= first) & (piece.positions <= last)) for piece in pieces)
        yield [
            ColumnPiece(piece.batch, piece.column, piece.rows[chosen], piece.positions[chosen])
            for piece, chosen in inside
            if chosen.any()
        ]
