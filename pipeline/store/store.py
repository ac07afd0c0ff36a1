"""The store: one Zarr v3 group on disk that holds runs, checkpoints, tensors and statistics.

store = Store.open("S.zarr")
for run in store.runs():
    for checkpoint in store.checkpoints(run.id):
        for matrix in store.matrices(checkpoint): ...
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import threading
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from analyzers.errors import DamageError, StoreError
from pipeline.archive.heads import ties_embeddings
from pipeline.archive.recipes import Recipe, digest
from pipeline.archive.types import Layout, Problem, Unmeasured
from pipeline.store import journal
from pipeline.store.binding import Binding, bind, contents, digest_map, equal_groups
from pipeline.store.documents import (
    FILE,
    REPAIR,
    brief,
    create_document,
    damage,
    ensure_group,
    read_document,
    replace_document,
)
from pipeline.store.failures import Failure, read_failures, write_failures
from pipeline.store.packs import Packed, pack_index, read_packed
from pipeline.store.recent import opened, recalled
from pipeline.store.records import BoundMatrix, CheckpointRecord, RunRecord, layout_from_json, layout_to_json
from pipeline.store.scratch import clean, scratch, store_errors
from pipeline.store.statistics import StatisticTable
from pipeline.store.tensors import is_constant, is_sealed, read_array
from pipeline.store.tensors import tensor_digest as tensor_digest_of
from pipeline.store.ties import Candidate, Evidence, tied_to
from pipeline.store.ties import Content as MatrixContent

if TYPE_CHECKING:
    from analyzers.contract import Content

Read = TypeVar("Read")

SCHEMA = 1
_ROOMS = ("tensors", "packs", "layouts", "runs", "statistics", "failures", "materials", "tmp")
_REVISION = re.compile(r"(\d+)\.(\d+)")


def slug(name: str) -> str:
    """A readable folder name of its own for any run id: two ids never share one, on any file system."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:60]
    return f"{readable}-{digest(name)[:8]}" if readable else digest(name)[:8]


class Store:
    """A store on disk. It holds no state but caches of what never changes: open as many as you like."""

    def __init__(self, path: Path, mode: Literal["r", "a"], identity: str) -> None:
        """Use `Store.open` or `Store.create`."""
        self.path = path
        self.mode = mode
        self.packs = pack_index(path.resolve(), identity)
        self._lock = threading.Lock()
        self._layouts: dict[str, Layout] = {}
        self._bindings: dict[tuple[object, ...], Binding] = {}
        self._equal: dict[tuple[object, ...], tuple[tuple[Candidate, ...], ...]] = {}
        self._elsewhere: dict[
            tuple[str, tuple[str, ...]], tuple[list[tuple[int, int]], list[dict[str, MatrixContent | None]]]
        ] = {}
        self._manifests: dict[Path, tuple[int, CheckpointRecord]] = {}
        self._constants: dict[str, bool] = {}
        self._tables: dict[str, StatisticTable] = {}
        self._damage: dict[Path, DamageError] = {}

    @staticmethod
    def create(path: str | Path) -> Store:
        """A new, empty store; StoreError where something stands already or the parent folder is missing."""
        path = Path(path)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise StoreError(f"{path} already exists: open it, or choose another path for the store")
        return _build(path)

    @staticmethod
    def open(path: str | Path, mode: Literal["r", "a"] = "r") -> Store:
        """An existing store. Mode "a" writes, makes the store if nothing is there, and sweeps after killed writers."""
        path = Path(path)
        if mode == "a" and _is_unbuilt(path):
            return _build(path)
        created = store_identity(path)
        if mode == "a":
            with scratch(path, "write to the store"):
                clean(path)
        return Store(path, mode, created)

    # Runs and checkpoints

    def runs(self) -> tuple[RunRecord, ...]:
        """All runs, sorted by id. One whose record is damaged is left out (see `damage`)."""
        records = (self._run_record(folder) for folder in _folders(self.path / "runs"))
        return tuple(sorted((record for record in records if record is not None), key=lambda record: record.id))

    def run(self, run_id: str) -> RunRecord:
        """One run; StoreError, naming those there are, when it is not in the store."""
        if not self.has_run(run_id):
            there = ", ".join(record.id for record in self.runs()) or "none"
            raise StoreError(f"run {run_id!r} is not in {self.path}, which has: {there}")
        return _run_record(self.run_folder(run_id))

    def run_folder(self, run_id: str) -> Path:
        """Where a run's record and manifests are."""
        return self.path / "runs" / slug(run_id)

    def checkpoints(self, run_id: str) -> tuple[CheckpointRecord, ...]:
        """The newest revision of each step of a run, sorted by step. One whose manifest or layout is damaged is left
        out (see `damage`): no older revision takes its place."""
        self.run(run_id)
        newest: dict[int, int] = {}
        for step, revision in self._revisions(run_id):
            newest[step] = max(revision, newest.get(step, 0))
        records = (self._readable(run_id, step, revision) for step, revision in sorted(newest.items()))
        return tuple(record for record in records if record is not None and self._has_layout(record.layout))

    def revisions(self, run_id: str, step: int) -> tuple[CheckpointRecord, ...]:
        """All revisions of one step whose manifests can be read, oldest first."""
        numbers = sorted(revision for at, revision in self._revisions(run_id) if at == step)
        records = (self._readable(run_id, step, revision) for revision in numbers)
        return tuple(record for record in records if record is not None)

    def next_revision(self, run_id: str, step: int) -> int:
        """The number of the next revision of a step; those that cannot be read count."""
        return max((revision for at, revision in self._revisions(run_id) if at == step), default=-1) + 1

    def any_checkpoint(self, run_id: str) -> CheckpointRecord | None:
        """One checkpoint of a run, the quickest to find; None when it has none."""
        places = sorted(self._revisions(run_id)) if self.has_run(run_id) else []
        records = (self._readable(run_id, step, revision) for step, revision in places)
        return next((record for record in records if record is not None), None)

    def layout(self, layout_digest: str) -> Layout:
        """A layout by its digest; DamageError where it cannot be read."""
        with self._lock:
            if layout_digest not in self._layouts:
                self._layouts[layout_digest] = read_layout(self.path / "layouts" / layout_digest)
            return self._layouts[layout_digest]

    def digests(self, checkpoint: CheckpointRecord) -> dict[str, str | None]:
        """Tensor name → digest; None for a tensor that could not be read."""
        return dict(digest_map(checkpoint, self.layout(checkpoint.layout)))

    def matrices(self, checkpoint: CheckpointRecord) -> tuple[BoundMatrix, ...]:
        """The matrices of a checkpoint, bound to its tensors; tied duplicates are left out."""
        return self._binding(checkpoint).matrices

    def unmeasured(self, checkpoint: CheckpointRecord) -> tuple[Unmeasured, ...]:
        """Every tensor of a checkpoint that yields no matrix, with the reason."""
        return self._binding(checkpoint).unmeasured

    def twins(self, checkpoint: CheckpointRecord) -> tuple[BoundMatrix, ...]:
        """The tied duplicates that `matrices` leaves out: what a checkpoint where they differ is compared with."""
        return self._binding(checkpoint).twins

    # Tensors

    def has_tensor(self, tensor_digest: str) -> bool:
        """Whether a tensor's bytes are in the store."""
        return (self.path / "tensors" / tensor_digest / FILE).exists() or self.packs.find(tensor_digest) is not None

    def read_tensor(self, tensor_digest: str, rows: tuple[int, int] | None = None) -> np.ndarray:
        """A tensor, or its rows start..stop along axis 0 (only their chunks are read), in its logical dtype."""
        if (known := recalled(self.path, tensor_digest)) is not None:
            return known if rows is None else known[rows[0] : rows[1]]
        array = self.path / "tensors" / tensor_digest
        if (array / FILE).exists():
            held = opened(array)
            values = read_array(array, rows, held)
            if rows is None and not is_sealed(held) and tensor_digest_of(values) != tensor_digest:
                raise damage(array, "its bytes do not match its digest")
            return values
        values = read_packed(self.path, tensor_digest, self._packed(tensor_digest))
        return values if rows is None else values[rows[0] : rows[1]]

    def shape_of(self, tensor_digest: str) -> tuple[int, ...]:
        """The shape of a stored tensor, without reading its values."""
        array = self.path / "tensors" / tensor_digest
        if (array / FILE).exists():
            return tuple(opened(array).shape)
        return self._packed(tensor_digest).shape

    def _packed(self, tensor_digest: str) -> Packed:
        place = self.packs.find(tensor_digest)
        if place is None:
            unreadable = "".join(f" ({folder} is damaged)" for folder in self.packs.damage)
            raise DamageError(f"tensor {tensor_digest} is not in {self.path}{brief(unreadable)}: {REPAIR}")
        return place

    def load(self, recipe: Recipe) -> Content:
        """The content of a bound recipe, as torch tensors on the CPU in storage dtype."""
        from pipeline.store.load import load  # torch takes two seconds to import, and most of the store needs none

        return load(self, recipe)

    # Statistics

    def statistic(self, name: str) -> StatisticTable:
        """The stored results of a statistic, as of now."""
        with self._lock:
            table = self._tables.setdefault(name, StatisticTable(self.path, name, self.mode))
        table.refresh()
        return table

    def statistics(self) -> tuple[str, ...]:
        """Names of all statistics that have results."""
        names = (self._noted(folder, _statistic_name) for folder in _folders(self.path / "statistics"))
        return tuple(sorted(name for name in names if name is not None))

    def record_failures(self, statistic: str, entries: Sequence[Failure]) -> None:
        """Keeps what failed, with its traceback, until the same key has a result."""
        self.check_writable()
        write_failures(self.path, statistic, entries, self.statistic(statistic))

    def damage(self) -> tuple[Problem, ...]:
        """The damage that was met in what this object has read so far; `pipeline.store.verify` looks at everything."""
        tables = (table.damage for table in tuple(self._tables.values()))
        met = {path: error for part in (self._damage, self.packs.damage, *tables) for path, error in part.items()}
        hint = f"`varve verify {self.path} --repair`, then `varve analyze`"
        return tuple(Problem(str(path), str(error), hint=hint) for path, error in sorted(met.items()))

    def note_damage(self, path: Path, error: DamageError) -> None:
        """Keeps damage for `damage`."""
        self._damage.setdefault(path, error)

    def failures(self) -> tuple[Failure, ...]:
        """What failed last time and has no result since."""
        found = read_failures(self.path, self.note_damage)
        tables = {name: self.statistic(name) for name in {failure.statistic for failure in found}}
        return tuple(failure for failure in found if tables[failure.statistic].extent(failure.key) is None)

    # For the modules beside this one

    def check_writable(self) -> None:
        """StoreError unless the store was opened for writing."""
        if self.mode != "a":
            raise StoreError(f"{self.path} is open for reading: open it with mode 'a' to write")

    def ensure_run(self, record: RunRecord) -> None:
        """Records a run unless it is; whatever its record says then stays."""
        folder = self.run_folder(record.id)
        if not self.has_run(record.id) and not create_document(self.path, folder, record.to_json()):
            with contextlib.suppress(DamageError):
                read_document(folder)  # somebody else has just written it
                return
            replace_document(self.path, folder, record.to_json())  # the folder was there and its document was not

    def manifest_folder(self, record: CheckpointRecord) -> Path:
        """Where a checkpoint's manifest is."""
        return self.run_folder(record.run) / f"{record.step}.{record.revision}"

    def put_layout(self, layout: Layout) -> str:
        """Keeps a layout (once) and returns its digest."""
        data = layout_to_json(layout)
        name = digest(data)
        target = self.path / "layouts" / name
        try:
            read_document(target)
        except DamageError:  # it is new, or damaged: its name says what its content was
            content = {"varve": "layout", "layout": data}
            if not create_document(self.path, target, content):
                replace_document(self.path, target, content)
            self._damage.pop(target / FILE, None)
        with self._lock:
            self._layouts.setdefault(name, layout)
        return name

    def has_run(self, run_id: str) -> bool:
        """Whether a run is recorded."""
        return (self.run_folder(run_id) / FILE).exists()

    def is_damaged(self, run_id: str) -> bool:
        """Whether a run's record is there and cannot be read (see `damage`)."""
        return self.has_run(run_id) and self._run_record(self.run_folder(run_id)) is None

    def _revisions(self, run_id: str) -> list[tuple[int, int]]:
        matches = (_REVISION.fullmatch(name) for name in os.listdir(self.run_folder(run_id)))  # noqa: PTH208 - speed
        return [(int(match[1]), int(match[2])) for match in matches if match]

    def _manifest(self, run_id: str, step: int, revision: int) -> CheckpointRecord:
        folder = self.run_folder(run_id) / f"{step}.{revision}"
        try:
            stamp = (folder / FILE).stat().st_mtime_ns
        except FileNotFoundError as error:
            raise DamageError(f"{folder / FILE} is missing: {REPAIR}") from error
        known = self._manifests.get(folder)
        if known is None or known[0] != stamp:
            known = (stamp, read_manifest(folder))
            self._manifests[folder] = known
        return known[1]

    def _readable(self, run_id: str, step: int, revision: int) -> CheckpointRecord | None:
        folder = self.run_folder(run_id) / f"{step}.{revision}"
        return self._noted(folder, lambda _: self._manifest(run_id, step, revision))

    def _has_layout(self, layout_digest: str) -> bool:
        return self._noted(self.path / "layouts" / layout_digest, lambda _: self.layout(layout_digest)) is not None

    def _run_record(self, folder: Path) -> RunRecord | None:
        return self._noted(folder, _run_record)

    def _noted(self, folder: Path, read: Callable[[Path], Read]) -> Read | None:
        """What `read` gives; None where that is damaged, which is kept for `damage`."""
        try:
            return read(folder)
        except DamageError as error:
            self.note_damage(folder / FILE, error)
            return None

    def _binding(self, checkpoint: CheckpointRecord) -> Binding:
        layout = self.layout(checkpoint.layout)
        content = (checkpoint.layout, checkpoint.digests)
        groups = self._equal.get(content)
        if groups is None:
            groups = self._equal[content] = equal_groups(checkpoint, layout)
        tied = tied_to(groups, self._evidence(checkpoint, layout)) if groups else {}
        identity = (*content, tuple(tied.items()))
        binding = self._bindings.get(identity)
        if binding is None:
            binding = self._bindings[identity] = bind(checkpoint, layout, tied)
        return binding

    def _evidence(self, checkpoint: CheckpointRecord, layout: Layout) -> Evidence:
        tensors = layout.tensors
        shared = {tensors[at].name: number for number, group in enumerate(checkpoint.tied) for at in group}
        declared = ties_embeddings(checkpoint.config)

        def elsewhere(names: Sequence[str]) -> Sequence[dict[str, MatrixContent | None]]:
            at, seen = (checkpoint.run, tuple(names)), sorted(self._revisions(checkpoint.run))
            if at not in self._elsewhere or self._elsewhere[at][0] != seen:
                every = self.checkpoints(checkpoint.run)
                self._elsewhere[at] = (seen, [contents(c, self.layout(c.layout), names) for c in every])
            return self._elsewhere[at][1]

        return Evidence(shared, declared, self.is_constant, elsewhere)

    def is_constant(self, tensor_digest: str) -> bool:
        """Whether all entries of a stored tensor are equal. One row tells in nearly every case."""
        if tensor_digest not in self._constants:
            try:
                self._constants[tensor_digest] = is_constant(self.read_tensor(tensor_digest, (0, 1))) and is_constant(
                    self.read_tensor(tensor_digest)
                )
            except StoreError:
                return False  # a damaged tensor speaks up where it is measured
        return self._constants[tensor_digest]


def read_manifest(folder: Path) -> CheckpointRecord:
    """The manifest of one revision of a checkpoint; DamageError where it cannot be read."""
    return _parsed(folder, CheckpointRecord.from_json)


def read_layout(folder: Path) -> Layout:
    """The layout at `folder`; DamageError where it cannot be read."""
    return _parsed(folder, lambda data: layout_from_json(data["layout"]))


def _run_record(folder: Path) -> RunRecord:
    return _parsed(folder, RunRecord.from_json)


def _statistic_name(folder: Path) -> str:
    return _parsed(folder, lambda data: str(data["statistic"]))


def _parsed(folder: Path, parse: Callable[[dict[str, Any]], Read]) -> Read:
    try:
        return parse(read_document(folder))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise damage(folder / FILE, error) from error


def _folders(path: Path) -> list[Path]:
    """The groups inside a group, sorted by name."""
    return sorted(entry for entry in path.iterdir() if entry.name != FILE)


def _is_unbuilt(path: Path) -> bool:
    """Nothing is there, or what a creation left that was killed half-way."""
    if not path.exists():
        return True
    return (
        path.is_dir()
        and not (path / FILE).exists()
        and {entry.name for entry in path.iterdir()} <= {*_ROOMS, journal.ROOM}
    )


def _build(path: Path) -> Store:
    if not path.parent.is_dir():
        raise StoreError(f"cannot create the store {path}: the folder {path.parent} does not exist; create it first")
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    identity = uuid.uuid4().hex
    with store_errors(path, "create the store"):
        path.mkdir(exist_ok=True)
        (path / "tmp").mkdir(exist_ok=True)
        for room in _ROOMS:
            ensure_group(path, path / room)
        journal.rewrite(path)
        # Last: a folder with this document is a store.
        replace_document(path, path, {"varve_schema": SCHEMA, "created": created, "id": identity})
    return Store(path, "a", identity)


def store_identity(path: Path) -> str:
    """The id of the store at `path`; StoreError when it is none, or of another version."""
    if not path.exists():
        raise StoreError(f"there is no store at {path}: `varve ingest ARCHIVE --store {path}` creates one")
    if not path.is_dir() or not (path / FILE).exists():
        inside = path / "store.zarr"
        hint = f"; did you mean {inside}?" if (inside / FILE).exists() else ""
        raise StoreError(f"{path} is not a varve store: it has no {FILE}{hint}")
    try:
        attributes = read_document(path)
    except StoreError as error:
        if b"varve_report" in (path / FILE).read_bytes():
            raise StoreError(
                f"{path} is a report, not a store: give the store that it was made from, such as "
                f"{path.with_name('store.zarr')}"
            ) from error
        raise StoreError(f"{path} is not a varve store: {error}") from error
    schema = attributes.get("varve_schema")
    if schema is None:
        raise StoreError(f"{path} is a Zarr group, but not a varve store: it has no attribute varve_schema")
    if not isinstance(schema, int) or schema > SCHEMA:
        raise StoreError(
            f"{path} has schema {brief(repr(schema))}; this varve reads schema {SCHEMA}: update varve, or ingest again"
        )
    if schema < SCHEMA:
        raise StoreError(f"{path} has the old schema {schema}, but this varve reads {SCHEMA}: ingest the archive again")
    return str(attributes.get("id", ""))
