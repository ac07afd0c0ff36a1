"""Which recorded checkpoint a source is: by its files' relative paths, sizes and mtimes, without reading them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from analyzers.errors import ArchiveError
from pipeline.archive.steps import is_alias
from pipeline.archive.text import real_path
from pipeline.archive.types import Checkpoint, FileStamp
from pipeline.store.records import CheckpointRecord

if TYPE_CHECKING:
    from pipeline.store.store import Store


def find_recorded(store: Store, checkpoint: Checkpoint) -> CheckpointRecord | None:
    """The newest record made from these files (whatever was in them), or of which they are an alias; else None."""
    if not store.has_run(checkpoint.run):
        return None
    paths = _paths(checkpoint.files)
    for record in reversed(store.revisions(checkpoint.run, checkpoint.step)):
        if _stamps_of(record, paths):
            return record
    if not _stands_beside(store, checkpoint):
        return None
    records = reversed(store.checkpoints(checkpoint.run))
    return next((record for record in records if any(_paths(a.files) == paths for a in record.aliases)), None)


def is_current(known: CheckpointRecord, checkpoint: Checkpoint) -> bool:
    """Whether the files are exactly those that `known` was read from."""
    files = frozenset(checkpoint.files)
    return bool(files) and any(frozenset(stamps) == files for stamps in _stamps_of(known, _paths(files)))


def find_original(store: Store, checkpoint: Checkpoint, record: CheckpointRecord) -> CheckpointRecord | None:
    """The stored checkpoint that `record`, standing beside its run's steps, repeats; None when it is one of its own."""
    if not _stands_beside(store, checkpoint):
        return None
    paths, layout = _paths(checkpoint.files), store.layout(record.layout)
    content = dict(zip((tensor.name for tensor in layout.tensors), record.digests, strict=True))
    for other in reversed(store.checkpoints(checkpoint.run)):
        if _paths(other.files) != paths and store.digests(other) == content:
            return other
    return None


def source_root(checkpoint: Checkpoint) -> Path | None:
    """The folder that the stamps' paths are relative to; None where there are no such files."""
    if not checkpoint.files:
        return None
    first = checkpoint.files[0].path
    return next(
        (folder for folder in (checkpoint.path, *checkpoint.path.parents) if real_path(folder / first).exists()), None
    )


def check_files(checkpoint: Checkpoint, root: Path | None, when: str) -> None:
    """ArchiveError when a file is not as its stamp says: what is read from it would be recorded as something else."""
    if root is None:
        return
    for stamp in checkpoint.files:
        path = real_path(root / stamp.path)
        try:
            status = path.stat()
        except OSError as error:
            raise ArchiveError(f"{path} disappeared {when}: {error}; run the command again") from error
        if (status.st_size, status.st_mtime_ns) != (stamp.size, stamp.mtime_ns):
            raise ArchiveError(
                f"{path} changed {when} (size {stamp.size} → {status.st_size}, mtime_ns {stamp.mtime_ns} → "
                f"{status.st_mtime_ns}): run the command again once it is complete"
            )


def _stamps_of(record: CheckpointRecord, paths: frozenset[str]) -> list[tuple[FileStamp, ...]]:
    """The recorded stamps, as source or as alias, of exactly these paths."""
    every = [record.files, *(alias.files for alias in record.aliases)]
    return [files for files in every if _paths(files) == paths]


def _stands_beside(store: Store, checkpoint: Checkpoint) -> bool:
    """Whether the files are a run's output root, with step folders in it, or are named best, last or final."""
    if is_alias(checkpoint.path.name):
        return True
    other = store.any_checkpoint(checkpoint.run)
    if other is None or not checkpoint.files:
        return False
    folder = os.path.commonpath([str(Path(stamp.path).parent) for stamp in checkpoint.files])
    within = "" if folder == "." else f"{folder}/"
    return all(s.path.startswith(within) and "/" in s.path.removeprefix(within) for s in other.files)


def _paths(files: Iterable[FileStamp]) -> frozenset[str]:
    return frozenset(stamp.path for stamp in files)
