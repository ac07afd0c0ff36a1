"""Removes what is damaged, so that the next analysis makes it anew; nothing that is whole is touched.

    repaired = repair(Path("S.zarr"))     # one sentence for each thing that was done

Tensors are read again from the archive, results computed again. A checkpoint that the archive no longer has loses its
damaged tensors, and is named.
"""

from __future__ import annotations

import dataclasses
import json
import uuid
from pathlib import Path

from analyzers.errors import DamageError, StoreError
from pipeline.archive.types import FileStamp
from pipeline.store import journal
from pipeline.store.documents import FILE, ensure_group, read_document, replace_document
from pipeline.store.ingest import rewrite_manifest
from pipeline.store.packs import pack_index
from pipeline.store.records import CheckpointRecord, RunRecord
from pipeline.store.scratch import withdraw
from pipeline.store.statistics import StatisticTable
from pipeline.store.store import SCHEMA, Store, read_layout, read_manifest
from pipeline.store.verification import Damage, Kind, Progress, is_ours, look, unchecked

_WITHDRAWN: tuple[Kind, ...] = ("tensor", "pack", "layout", "manifest", "failures", "material", "wrong values")


def repair(path: Path, progress: Progress | None = None, discard_unchecked: bool = False) -> list[str]:
    """Removes or rewrites all that is damaged; returns what was done, and what cannot be restored.

    `discard_unchecked`: also results of an older version, which did not check what it read.
    """
    done = _root(path)
    store = Store.open(path, "a")
    handled: set[Path] = set()
    damages = sorted(
        look(store, progress), key=lambda damage: damage.kind != "wrong values"
    )  # of these nothing is kept
    if discard_unchecked:
        done += _without_unchecked(store)
    for damage in damages:
        if damage.path not in handled:
            handled.add(damage.path)
            done += _handled(store, damage)
    pack_index.cache_clear()  # the index of this process still knows the packs that went
    return done + _read_again(Store.open(path, "a"))


def _root(path: Path) -> list[str]:
    """Rewrites a damaged root document where all else shows that `path` is a store of this schema."""
    try:
        read_document(path)
    except DamageError as error:
        try:
            noted = json.loads((path / FILE).read_bytes())["attributes"]["varve_schema"]
        except (OSError, ValueError, KeyError, TypeError):
            noted = SCHEMA  # it does not say; there has been only one
        if noted != SCHEMA or not all((path / room / FILE).exists() for room in ("tensors", "packs", "runs", "tmp")):
            raise StoreError(f"{path} cannot be repaired: {error}") from error
        replace_document(path, path, {"varve_schema": SCHEMA, "created": "", "id": uuid.uuid4().hex})
        return [f"{path / FILE}: rewritten"]
    return []


def _handled(store: Store, damage: Damage) -> list[str]:
    path, kind = damage.path, damage.kind
    name = path.relative_to(store.path).as_posix() if path.is_relative_to(store.path) else path.name
    if kind in _WITHDRAWN or (kind == "foreign" and is_ours(name)):
        withdraw(store.path, path)
        return [f"{name}: removed"]
    if kind == "batch":
        return [f"{name}: {_batch(store, path)}"]
    if kind == "run":
        return [f"{name}: {_run(store, path)}"]
    if kind == "statistic":
        return [f"{name}: {_statistic(store, path)}"]
    if kind == "group":
        replace_document(store.path, path, {}) if (path / FILE).exists() else ensure_group(store.path, path)
        return [f"{name}: rewritten"]
    if kind == "deleted":
        journal.removed(store.path, path)
        return [f"{name}: recorded as deleted"]
    if kind == "journal":
        journal.rewrite(store.path)
        return [f"{name}: rewritten"]
    if kind == "cache":
        path.unlink(missing_ok=True)
        return [f"{name}: removed from the cache"]
    return [f"{name}: not touched, because varve did not create it"] if kind == "foreign" else []


def _batch(store: Store, folder: Path) -> str:
    """Keeps the results of a batch that can still be read."""
    try:
        statistic = str(read_document(folder.parent)["statistic"])
        table = StatisticTable(store.path, statistic, "a")
        table.refresh()
        if folder not in table.damage:
            return f"removed, with {table.rescue(folder.name)} damaged results; the others are kept"
    except (DamageError, KeyError):
        pass  # neither table nor index can be read: nothing says what the batch holds
    withdraw(store.path, folder)
    return "removed"


def _run(store: Store, folder: Path) -> str:
    """A damaged record of a run is made anew from a manifest; the next analysis completes it."""
    for entry in sorted(path for path in folder.iterdir() if path.name != FILE):
        try:
            record = read_manifest(entry)
        except DamageError:
            continue
        fresh = RunRecord(record.run, adapter=record.kind == "adapter")
        replace_document(store.path, folder, fresh.to_json())
        return "rewritten; the next `varve analyze` finds its base and metrics again"
    withdraw(store.path, folder)
    return "removed"


def _statistic(store: Store, folder: Path) -> str:
    for entry in sorted(path for path in folder.iterdir() if path.name != FILE):
        try:
            statistic = str(read_document(entry)["statistic"])
        except (DamageError, KeyError):
            continue
        replace_document(store.path, folder, {"varve": "statistic", "statistic": statistic})
        return "rewritten"
    withdraw(store.path, folder)
    return "removed"


def _read_again(store: Store) -> list[str]:
    """Marks the checkpoints that lost a tensor or their layout, so that the next ingest reads them."""
    done = []
    for run in store.runs():
        for folder in sorted(path for path in store.run_folder(run.id).iterdir() if path.name != FILE):
            record = read_manifest(folder)
            if not _is_whole(store, record):
                where = f"{record.run}@{record.step}"
                if record.source_gone:
                    done.append(f"{where}: has lost tensors, and the archive no longer has this checkpoint")
                elif record.files and record.files != (stamps := tuple(map(_unread, record.files))):
                    rewrite_manifest(store, dataclasses.replace(record, files=stamps))
                    done.append(f"{where}: the next `varve analyze` reads it again")
    return done


def _without_unchecked(store: Store) -> list[str]:
    """Removes what an older version computed without checking what it read."""
    done = []
    for statistic, (count, folders) in unchecked(store).items():
        for folder in folders:
            withdraw(store.path, folder)
        done.append(f"{statistic}: {count} results removed, since their input was not checked when it was read")
    return done


def _is_whole(store: Store, record: CheckpointRecord) -> bool:
    try:
        read_layout(store.path / "layouts" / record.layout)
    except DamageError:
        return False
    return all(digest is None or store.has_tensor(digest) for digest in record.digests)


def _unread(stamp: FileStamp) -> FileStamp:
    """The stamp of a file that no file agrees with."""
    return FileStamp(stamp.path, -1, 0)
