"""Stored results of one statistic, by content key: written in batches, found through their indexes.

table = store.statistic("spectrum")
table.write([(key, {"sigma": sigma}), (other, "the matrix has NaN entries")], extent=0)
table.read([key])
"""

from __future__ import annotations

import datetime
import math
import re
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analyzers.errors import DamageError, StoreError
from pipeline.archive.recipes import digest
from pipeline.store import journal
from pipeline.store.batches import Batch, BatchEntry, read_batch, read_entries, read_slices, write_batch
from pipeline.store.columns import Columns
from pipeline.store.documents import FILE, create_document, document_digest
from pipeline.store.key_index import KeyIndex
from pipeline.store.scratch import publish, scratch, withdraw

if TYPE_CHECKING:
    from analyzers.contract import Result

INPUTS = "inputs"
"""Key of a result's provenance: the batches that its inputs were read from, "<statistic>/<batch>" → their digest."""
_COMPACT_KEYS = 20_000
"""A compacted batch holds about this many keys at most: its index stays quick to read."""


@dataclass(frozen=True)
class ResultReference:
    """Where a result is: all that a worker needs to read it. `fields`: (name, dtype, offset, shape)."""

    statistic: str
    key: str
    batch: str
    extent: int
    fields: tuple[tuple[str, str, int, tuple[int, ...]], ...] = ()
    reason: str | None = None


def table_folder(root: Path, statistic: str) -> Path:
    """Where a statistic's batches are; an unusual name gets a safe folder name of its own."""
    safe = re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", statistic) and statistic != FILE
    name = statistic if safe else f"{re.sub(r'[^A-Za-z0-9_-]+', '-', statistic)[:60]}-{digest(statistic)[:8]}"
    return root / "statistics" / name


class _Where:
    """Which entry of which batch counts for each key: 40 bytes for each."""

    def __init__(self) -> None:
        self._index = KeyIndex()
        self._batches: list[Batch] = []
        self._counts = np.empty((0, 3), dtype=np.int32)  # of each key's row: batch, entry, extent

    def add(self, batch: Batch) -> None:
        """Takes a batch's entries; of one key the larger extent counts, then the one that comes later."""
        rows = self._index.add_all(batch.keys)
        known = len(self._counts)
        if len(self._index) > known:
            more = np.full((max(len(self._index), 2 * known), 3), -1, dtype=np.int32)
            more[:known] = self._counts
            self._counts = more
        extents = np.broadcast_to(np.asarray(batch.extents, dtype=np.int32), rows.shape)
        chosen = np.flatnonzero(self._counts[rows, 2] <= extents)
        chosen = chosen[np.argsort(extents[chosen], kind="stable")]  # of a key that the batch has twice, the last stays
        self._counts[rows[chosen], 0] = len(self._batches)
        self._counts[rows[chosen], 1] = chosen
        self._counts[rows[chosen], 2] = extents[chosen]
        self._batches.append(batch)

    def keys(self) -> Iterator[str]:
        """Every key, in the order in which they first came."""
        return iter(self._index)

    def get(self, key: str) -> tuple[Batch, int] | None:
        """The batch and entry of a key, None where nothing is stored."""
        row = self._index.get(key)
        return None if row is None else self._at(row)

    def places(self, keys: Iterable[str]) -> dict[str, tuple[Batch, int]]:
        """Those of the keys that are stored."""
        return {key: place for key in keys if (place := self.get(key)) is not None}

    def find(self, keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray, Sequence[Batch]]:
        """(n,) the number of each key's batch, −1 where nothing is stored, (n,) its entry there, and the batches."""
        rows = self._index.rows(keys)
        there = rows >= 0
        batches, entries, _ = np.where(there, self._counts[rows].T, -1) if len(self._counts) else (rows, rows, rows)
        return batches, entries, self._batches

    def extents(self, keys: Sequence[str]) -> np.ndarray:
        """(n,) the extent of each key's result, −1 where nothing is stored."""
        rows = self._index.rows(keys)
        return np.where(rows >= 0, self._counts[rows, 2], -1) if len(self._counts) else rows

    def items(self) -> Iterator[tuple[str, tuple[Batch, int]]]:
        """Every key with its batch and entry."""
        return ((key, self._at(row)) for row, key in enumerate(self._index))

    def _at(self, row: int) -> tuple[Batch, int]:
        batch, entry, _ = self._counts[row].tolist()
        return self._batches[batch], entry


class StatisticTable:
    """The results of one statistic. What it knows is as of the last `refresh`, plus its own writes.

    Results that are damaged count as missing; `damage` has what was met, by the path of the batch.
    """

    def __init__(self, root: Path, name: str, mode: str = "r") -> None:
        """Use `Store.statistic`."""
        self.name = name
        self._root = root
        self._folder = table_folder(root, name)
        self._mode = mode
        self._lock = threading.RLock()
        self._batches: dict[str, Batch] = {}
        self._where = _Where()
        self.damage: dict[Path, DamageError] = {}

    def refresh(self) -> None:
        """Sees what other processes have written or compacted since."""
        with self._lock:
            while not self._refreshed():
                pass

    def _refreshed(self) -> bool:
        """Reads the new batches; False when one was compacted away just before it was read."""
        names = sorted(path.name for path in self._folder.iterdir()) if self._folder.exists() else []
        names = [name for name in names if name != FILE]
        if self._batches.keys() - set(names):  # compacted: what they held is in a new batch
            self._batches, self._where = {}, _Where()
        for name in names:
            folder = self._folder / name
            if name not in self._batches and folder not in self.damage:
                try:
                    self._add(read_batch(folder))
                except StoreError as error:
                    if not folder.exists():
                        return False
                    if not isinstance(error, DamageError):
                        raise
                    self.damage[folder] = error
        return True

    def keys(self) -> frozenset[str]:
        """Every key that has a result or a reason."""
        return frozenset(self._where.keys())

    def extent(self, key: str) -> int | None:
        """The extent of the stored result (0 where the statistic has none), or None when there is none."""
        place = self._where.get(key)
        return None if place is None else place[0].extent(place[1])

    def extents(self, keys: Sequence[str]) -> np.ndarray:
        """(n,) the same of many keys, −1 where there is none."""
        with self._lock:
            return self._where.extents(keys)

    def provenance(self, key: str) -> Mapping[str, Any]:
        """What was recorded of how a result was computed."""
        batch, entry = self._place(key)
        return batch.provenance(entry)

    def lookup(self, keys: Iterable[str]) -> dict[str, ResultReference]:
        """References to the stored results among `keys`, small and picklable; see `read_references`."""
        with self._lock:
            return {key: self._reference(key, *place) for key, place in self._where.places(keys).items()}

    def folders(self, keys: Iterable[str]) -> tuple[Path, ...]:
        """The folders of the batches that hold the results of `keys`."""
        return tuple(sorted({self._folder / self._place(key)[0].name for key in keys}))

    def digests(self, references: Sequence[ResultReference]) -> dict[str, str] | None:
        """The digests of the batches that references lead to, as a result that is made of them records them. None where
        one of them was not checked when it was made: what is made of it is no better."""
        if any(INPUTS not in self.provenance(reference.key) for reference in references):
            return None
        names = dict.fromkeys(reference.batch for reference in references)
        folders = {f"{self._folder.name}/{name}": self._folder / name for name in names}
        return {name: document_digest(folder) for name, folder in folders.items()}

    def read(self, keys: Iterable[str], fields: Sequence[str] | None = None) -> dict[str, Result | str]:
        """The stored results among `keys` (of chosen fields, or all): arrays by field, or the reason for none.

        Each batch is opened once. Arrays of one batch may be views of one buffer. What is damaged is left out, and
        noted in `damage`.
        """
        wanted = tuple(keys)
        found = self._read(wanted, fields)
        if found is None:
            self.refresh()  # a batch was compacted away between looking up and reading
            found = self._read(wanted, fields)
        return found or {}

    def reasons(self, keys: Iterable[str]) -> dict[str, str]:
        """Why there is no value, for those of `keys` that have a reason in its place."""
        with self._lock:
            if not any(batch.reasons for batch in self._batches.values()):
                return {}
            places = self._where.places(keys)
        return {key: batch.reasons[entry] for key, (batch, entry) in places.items() if entry in batch.reasons}

    def columns(self, keys: Sequence[str]) -> Columns:
        """The stored results among `keys`, to be read field by field as arrays over all of them."""
        with self._lock:
            return Columns(self._folder, *self._where.find(keys))

    def write(
        self,
        batch: Sequence[tuple[str, Result | str]],
        extent: int = 0,
        provenance: Mapping[str, Any] | None = None,
    ) -> str:
        """Stores results (or reasons why there are none) under their keys, visible at once. Returns the batch's id.

        Of one key, the result of larger extent counts, then the newest.
        """
        written = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        noted = {"written": written, **(provenance or {})}
        return self._write([BatchEntry(key, value, extent, noted) for key, value in batch])

    def compact(self, min_batches: int = 32) -> int:
        """Merges small batches into fewer when there are at least `min_batches`; returns how many went.

        The merged batch is published before its parts are removed: a kill in between leaves harmless duplicates.
        """
        with self._lock:
            self.refresh()
            small = [batch for batch in self._batches.values() if len(batch.keys) <= _COMPACT_KEYS // 2]
            if len(small) < max(2, min_batches):
                return 0
            gone = 0
            group: list[Batch] = []
            for batch in [*small, None]:
                full = sum(len(member.keys) for member in group) + (len(batch.keys) if batch else 0) > _COMPACT_KEYS
                if group and (batch is None or full):
                    gone += self._merge(group)
                    group = []
                if batch is not None:
                    group.append(batch)
            self.refresh()
            return gone

    def rescue(self, name: str) -> int:
        """Replaces a damaged batch by one with what can still be read of it; returns how many results are lost."""
        batch = self._batches[name]
        values = self._salvage(batch, range(len(batch.keys)), None)
        entries = [
            BatchEntry(key, values[key], batch.extent(entry), batch.provenance(entry))
            for entry, key in enumerate(batch.keys)
            if key in values
        ]
        if entries:
            self._write(entries)
        withdraw(self._root, self._folder / name)
        self.refresh()
        return len(batch.keys) - len(entries)

    def _read(self, keys: Iterable[str], fields: Sequence[str] | None) -> dict[str, Result | str] | None:
        """None when a batch has gone since the index was read."""
        with self._lock:
            places = self._where.places(keys)
        by_batch: dict[str, tuple[Batch, list[int]]] = {}
        for batch, entry in places.values():
            by_batch.setdefault(batch.name, (batch, []))[1].append(entry)
        found: dict[str, Result | str] = {}
        for batch, entries in by_batch.values():
            folder = self._folder / batch.name
            try:
                found.update(read_entries(folder, batch, entries, fields))
            except DamageError as error:
                if not folder.exists():
                    return None
                self.damage.setdefault(folder, error)
                found.update(self._salvage(batch, entries, fields))
        return found

    def _salvage(self, batch: Batch, entries: Sequence[int], fields: Sequence[str] | None) -> dict[str, Result | str]:
        """What can be read of a damaged batch: halves of the entries are tried, down to single ones."""
        try:
            return read_entries(self._folder / batch.name, batch, entries, fields)
        except DamageError:
            if len(entries) == 1:
                return {}
            middle = len(entries) // 2
            first, rest = entries[:middle], entries[middle:]
            return {**self._salvage(batch, first, fields), **self._salvage(batch, rest, fields)}

    def _merge(self, group: Sequence[Batch]) -> int:
        group = [batch for batch in group if self._folder / batch.name not in self.damage]
        if len(group) < 2:
            return 0
        members = {batch.name for batch in group}
        current = {key: place for key, place in self._where.items() if place[0].name in members}
        values = self.read(current)
        if any(self._folder / batch.name in self.damage for batch in group):
            return 0  # nothing that is damaged is removed but by a repair
        entries = [
            BatchEntry(key, values[key], batch.extent(entry), batch.provenance(entry))
            for key, (batch, entry) in current.items()
        ]
        if entries:
            self._write(entries)
        for batch in group:
            withdraw(self._root, self._folder / batch.name)
        return len(group)

    def _write(self, entries: Sequence[BatchEntry]) -> str:
        if self._mode != "a":
            raise StoreError(f"{self._root} is open for reading: open it with mode 'a' to write")
        if not entries:
            raise StoreError(f"an empty batch of statistic {self.name!r}: there is nothing to write")
        if not (self._folder / FILE).exists():
            create_document(self._root, self._folder, {"varve": "statistic", "statistic": self.name})
        name = f"{time.time_ns():016x}-{secrets.token_hex(3)}"  # names sort by time: the newest counts
        with scratch(self._root) as folder:
            write_batch(folder, self.name, entries)
            publish(folder, self._folder / name)
        journal.added(self._root, self._folder / name)
        with self._lock:
            self._add(read_batch(self._folder / name))
        return name

    def _add(self, batch: Batch) -> None:
        self._batches[batch.name] = batch
        self._where.add(batch)

    def _place(self, key: str) -> tuple[Batch, int]:
        place = self._where.get(key)
        if place is None:
            raise StoreError(f"statistic {self.name!r} has no result for key {key} in {self._root}")
        return place

    def _reference(self, key: str, batch: Batch, entry: int) -> ResultReference:
        table = batch.table_of(entry)
        if table is None:
            return ResultReference(self.name, key, batch.name, batch.extent(entry), (), batch.reasons[entry])
        fields = tuple((c.name, c.dtype, *c.place(entry - table.first)) for c in table.columns)
        return ResultReference(self.name, key, batch.name, batch.extent(entry), fields)


def read_references(path: str | Path, references: Iterable[ResultReference]) -> dict[str, Result | str]:
    """The results behind references, by key, in a process that has loaded no index. `path` is the store's.

    References of several statistics are read by one call each, since keys are unique within one only.
    """
    root, grouped = Path(path), list(references)
    found: dict[str, Result | str] = {}
    for statistic in dict.fromkeys(reference.statistic for reference in grouped):
        members = [reference for reference in grouped if reference.statistic == statistic]
        folder = table_folder(root, statistic)
        try:
            found.update(_read_places(folder, members))
        except StoreError:
            if all((folder / member.batch).exists() for member in members):
                raise
            table = StatisticTable(root, statistic)  # compacted meanwhile: look up again by key
            table.refresh()
            found.update(table.read([member.key for member in members]))
    return found


def _read_places(folder: Path, references: Iterable[ResultReference]) -> dict[str, Result | str]:
    by_batch: dict[str, list[ResultReference]] = {}
    found: dict[str, Result | str] = {}
    for reference in references:
        if reference.reason is not None:
            found[reference.key] = reference.reason
        else:
            by_batch.setdefault(reference.batch, []).append(reference)
    for batch, members in by_batch.items():
        wanted = {
            member.key: {
                name: (dtype, offset, offset + math.prod(shape)) for name, dtype, offset, shape in member.fields
            }
            for member in members
        }
        slices = read_slices(folder / batch, (place for named in wanted.values() for place in named.values()))
        for member in members:
            places = wanted[member.key]
            found[member.key] = {name: slices[places[name]].reshape(shape) for name, _, _, shape in member.fields}
    return found
