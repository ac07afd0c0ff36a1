"""Re-hashes what is stored against its digests, and checks that what refers to each other is there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from analyzers.errors import StoreError
from pipeline.archive.types import Problem
from pipeline.store import journal
from pipeline.store.batches import Batch, read_batch
from pipeline.store.documents import FILE, document_digest, read_document
from pipeline.store.packs import pack_contents
from pipeline.store.records import CheckpointRecord
from pipeline.store.scratch import cache_path
from pipeline.store.statistics import INPUTS
from pipeline.store.store import Store, read_layout, read_manifest
from pipeline.store.tensors import TensorDigest, logical_dtype, open_array, read_rows, row_blocks, tensor_digest

Progress = Callable[[str, int], None]
"""Called after each array or document with its name and bytes."""

Kind = Literal[
    "tensor", "missing tensor", "pack", "layout", "manifest", "missing layout", "run", "statistic", "batch",
    "failures", "material", "group", "deleted", "journal", "cache", "foreign", "wrong values",
]  # fmt: skip

_READ_AGAIN = "run `varve verify STORE --repair`; the next `varve analyze` reads the checkpoint again"
_COMPUTE = "run `varve verify STORE --repair`; the next `varve analyze` computes what was in it"
_REPAIR = "run `varve verify STORE --repair`"


_OURS = {
    "runs": re.compile(r"[^/]+/\d+\.\d+"),
    "tensors": re.compile(r"[0-9a-f]{32}"),
    "layouts": re.compile(r"[0-9a-f]{32}"),
    "packs": re.compile(r"[0-9a-f]{16}-[0-9a-f]{6}"),
    "statistics": re.compile(r"[^/]+/[0-9a-f]{16}-[0-9a-f]{6}"),
    "failures": re.compile(r"[^/]+/[0-9a-f]{16}-[0-9a-f]{6}"),
    "materials": re.compile(r"[0-9a-f]{32}"),
}


@dataclass(frozen=True)
class Damage:
    """One damaged thing: the folder or file at `path`, of which `problem` tells."""

    kind: Kind
    path: Path
    problem: Problem


def verify(store: Store, progress: Progress | None = None) -> list[Problem]:
    """Every damage found: a tensor whose bytes do not give its digest, a missing one, an unreadable document, an entry
    of the journal that was deleted, a damaged entry of the cache.

    Each problem names the file, the tensor with its run and step, and the way out. Reads everything once.
    """
    return [damage.problem for damage in look(store, progress)]


def look(store: Store, progress: Progress | None = None) -> list[Damage]:
    """As `verify`, with what each damaged thing is, for `pipeline.store.repairs`."""
    search = _Verification(store, progress or (lambda name, nbytes: None))
    search.documents()
    search.tensors()
    search.results()
    search.derived()
    search.journal()
    search.cache()
    return search.damage


def unchecked(store: Store) -> dict[str, tuple[int, tuple[Path, ...]]]:
    """By statistic, how many results and reasons an older version stored, which did not check what it read, and the
    folders of the batches that hold them. Nothing tells whether their input was damaged then."""
    found = {}
    for name in store.statistics():
        table = store.statistic(name)
        keys = [key for key in table.keys() if INPUTS not in table.provenance(key)]  # noqa: SIM118 - no mapping
        if keys:
            found[name] = len(keys), table.folders(keys)
    return found


class _Verification:
    """One pass over a store. `users` says which checkpoint uses a tensor, so that a damaged one is named as a person
    knows it."""

    def __init__(self, store: Store, report: Progress) -> None:
        self.root = store.path
        self.report = report
        self.damage: list[Damage] = []
        self.users: dict[str, str] = {}
        self.batches: dict[str, Batch] = {}
        self.changed: set[str] = set()

    def found(self, kind: Kind, path: Path, reason: str, hint: str = _REPAIR, tensor: str | None = None) -> None:
        where = path / FILE if (path / FILE).exists() and kind not in ("tensor", "pack", "foreign") else path
        self.damage.append(Damage(kind, path, Problem(str(where), reason, tensor, hint)))

    def documents(self) -> None:
        for room in ("", "runs", "layouts", "statistics", "tensors", "packs", "failures"):
            self._document("group", self.root / room)
        layouts: dict[str, list[str]] = {}
        for folder in self._groups("layouts"):
            if self._document("layout", folder, _READ_AGAIN) is not None:
                layouts[folder.name] = [tensor.name for tensor in read_layout(folder).tensors]
        for run in self._groups("runs"):
            self._document("run", run)
            for folder in self._groups(f"runs/{run.name}"):
                if self._document("manifest", folder, _READ_AGAIN) is not None:
                    self._manifest(folder, read_manifest(folder), layouts)
        for statistic in self._groups("failures"):
            self._document("group", statistic)
            for folder in self._groups(f"failures/{statistic.name}"):
                self._document("failures", folder)
        if (self.root / "materials").exists():  # the first stores have none
            for folder in self._groups("materials"):
                self._document("material", folder)

    def _manifest(self, folder: Path, record: CheckpointRecord, layouts: dict[str, list[str]]) -> None:
        if record.layout not in layouts:
            reason = f"run {record.run}, step {record.step}: its layout {record.layout} is missing or damaged"
            self.found("missing layout", folder, reason, _READ_AGAIN)
            return
        for name, digest in zip(layouts[record.layout], record.digests, strict=True):
            if digest is not None:
                self.users.setdefault(digest, f"{name} (run {record.run}, step {record.step})")

    def tensors(self) -> None:
        known: set[str] = set()
        for folder in self._groups("tensors"):
            known.add(folder.name)
            self._array(folder)
        for folder in self._groups("packs"):
            known |= self._pack(folder)
        for digest, where in self.users.items():
            if digest not in known:
                self.found("missing tensor", self.root / "tensors" / digest, "is missing", _READ_AGAIN, where)

    def _user(self, digest: str) -> str:
        return self.users.get(digest, f"tensor {digest} (no checkpoint uses it)")

    def _array(self, folder: Path) -> None:
        who = self._user(folder.name)
        try:
            array = open_array(folder)
            dtype = logical_dtype(str(array.attrs["logical_dtype"]))
        except (StoreError, KeyError) as error:
            self.found("tensor", folder, f"unreadable metadata: {error}", _READ_AGAIN, who)
            return
        digest, whole = TensorDigest(dtype.name, array.shape), True
        for first, last in row_blocks(array, 0, array.shape[0] if array.shape else 1):
            try:
                digest.update(read_rows(folder, array, first, last))
            except StoreError as error:
                self.found("tensor", folder, str(error), _READ_AGAIN, who)
                whole = False
        if whole and digest.hexdigest() != folder.name:
            reason = f"its bytes have the digest {digest.hexdigest()}, not {folder.name}"
            self.found("tensor", folder, reason, _READ_AGAIN, who)
        self.report(folder.name, array.nbytes)

    def _pack(self, folder: Path) -> set[str]:
        """Checks every tensor in a pack; returns what should be in it."""
        try:
            contents = pack_contents(folder)
            array = open_array(folder)
        except StoreError as error:
            self.found("pack", folder, f"unreadable metadata: {error}", _READ_AGAIN)
            return set()
        data, bad = np.empty(array.shape, np.uint8), []
        for first, last in row_blocks(array, 0, array.shape[0]):
            try:
                data[first:last] = read_rows(folder, array, first, last)
            except StoreError as error:
                bad.append((first, last, str(error)))
        for name, place in contents.items():
            start, stop = place.offset, place.offset + place.nbytes
            damage = [error for first, last, error in bad if start < last and first < stop]
            if damage:
                self.found("pack", folder, damage[0], _READ_AGAIN, self._user(name))
                continue
            digest = TensorDigest(place.dtype, place.shape)
            digest.update(data[start:stop])
            if digest.hexdigest() != name:
                reason = f"bytes {start} to {stop} have digest {digest.hexdigest()}, not {name}"
                self.found("pack", folder, reason, _READ_AGAIN, self._user(name))
        self.report(folder.name, array.nbytes)
        return set(contents)

    def results(self) -> None:
        for table in self._groups("statistics"):
            self._document("statistic", table)
            for folder in self._groups(f"statistics/{table.name}"):
                if self._document("batch", folder, _COMPUTE) is not None:
                    self._batch(folder)

    def _batch(self, folder: Path) -> None:
        name = f"{folder.parent.name}/{folder.name}"
        try:
            batch = read_batch(folder)
        except StoreError as error:
            self.found("batch", folder, str(error), _COMPUTE)
            return
        self.batches[name] = batch
        for dtype, expected in batch.digests.items():
            path = folder / dtype
            try:
                array = open_array(path)
                values = read_rows(path, array, 0, array.shape[0])
            except StoreError as error:
                self.found("batch", folder, str(error), _COMPUTE)
                continue
            digest = tensor_digest(values)
            if digest != expected:
                reason = f"{path}: its values have digest {digest}, not {expected}"
                self.found("wrong values", folder, reason, _COMPUTE)
                self.changed.add(name)  # its chunks pass their checksums: what read them did not notice
            self.report(str(path), values.nbytes)

    def derived(self) -> None:
        """Results that were computed from other values than are stored now, by the digests that they recorded."""
        before = -1
        while before < len(self.changed):  # what was computed from these is wrong, too
            before = len(self.changed)
            for name in self.batches.keys() - self.changed:
                source = next(filter(None, map(self._changed_input, self.batches[name].provenances)), None)
                if source is not None:
                    reason = f"its results were computed from {source}, which held other values than it should"
                    self.found("wrong values", self.root / "statistics" / name, reason, _COMPUTE)
                    self.changed.add(name)

    def _changed_input(self, made: Mapping[str, Any]) -> str | None:
        """A batch that results were computed from while it held something else than what was written there."""
        for source, digest in made.get(INPUTS, {}).items():
            there = source in self.batches  # if not, it was merged with others, or removed: nothing to compare
            if there and (source in self.changed or document_digest(self.root / "statistics" / source) != digest):
                return str(source)
        return None

    def journal(self) -> None:
        """What was written and never removed by varve, and is not there."""
        names, damaged = journal.expected(self.root)
        if damaged:
            self.found("journal", self.root / journal.ROOM, f"{damaged} of its lines are damaged")
        for name in sorted(names):
            folder = self.root / name
            if not folder.exists():
                again = "reads the checkpoint again" if name.startswith("runs/") else "recreates it"
                hint = f"`varve analyze` {again}; `varve verify STORE --repair` records that"
                self.found("deleted", folder, "was deleted", hint)

    def cache(self) -> None:
        store = self.root.resolve()
        if not cache_path(store).is_dir():
            return
        from pipeline.store.cache import entries_of, read_entry  # torch takes two seconds to import

        for path in entries_of(store):
            try:
                tensors = read_entry(path)
            except Exception as error:  # whatever the library says of a damaged file
                self.found("cache", path, f"the cache entry is damaged: {error!s:.200}")
                continue
            self.report(path.name, sum(tensor.nbytes for tensor in tensors.values()))

    def _document(self, kind: Kind, folder: Path, hint: str = _REPAIR) -> dict[str, Any] | None:
        """A document that is whole; None, and damage noted, otherwise."""
        try:
            data = read_document(folder)
        except StoreError as error:
            self.found(kind, folder, str(error), hint)
            return None
        self.report(str(folder), 0)
        return data

    def _groups(self, room: str) -> Iterator[Path]:
        """The members of a group, by name; what has no zarr.json is damage."""
        folder = self.root / room
        for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
            if entry.name == FILE:
                continue
            if (entry / FILE).exists() or _holds_documents(entry):
                yield entry
            elif is_ours(entry.relative_to(self.root).as_posix()):
                self.found("foreign", entry, f"{FILE} is missing in it")
            else:
                self.found("foreign", entry, f"is not part of the store: it has no {FILE}", "delete it")


def is_ours(name: str) -> bool:
    """Whether a path within a store, of which no document is left, has a name as varve gives it."""
    room, _, rest = name.partition("/")
    return room in _OURS and _OURS[room].fullmatch(rest) is not None


def _holds_documents(folder: Path) -> bool:
    """Whether a folder that lost its own document is the group of others: a run, or a table of results."""
    return folder.is_dir() and any((entry / FILE).exists() for entry in folder.iterdir())
