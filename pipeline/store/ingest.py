"""A checkpoint goes into the store: its tensors first, equal ones once, and its manifest last, in one rename.

Killed at any moment it leaves nothing half-visible, and the next ingest finds by digest what is already whole.
"""

from __future__ import annotations

import dataclasses
import datetime
import fcntl
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress

import blake3

from analyzers.errors import ArchiveError, StoreError
from pipeline.archive.text import path_text, real_path
from pipeline.archive.types import Checkpoint, Layout, Problem, Run
from pipeline.store.documents import create_document, replace_document
from pipeline.store.records import Alias, CheckpointRecord, RunRecord
from pipeline.store.scratch import open_lock, store_errors
from pipeline.store.stamps import check_files, find_original, find_recorded, is_current, source_root
from pipeline.store.store import Store
from pipeline.store.writing import Tensors, TensorWriter, UnreadableTensorError

Progress = Callable[[str, int], None]
"""Called after each tensor with its name and bytes."""


Opener = Callable[[Checkpoint], AbstractContextManager[Tensors]]


def ingest_checkpoint(
    store: Store,
    checkpoint: Checkpoint,
    layout: Layout,
    progress: Progress | None = None,
    rehash: bool = False,
    open_tensors: Opener | None = None,
) -> CheckpointRecord:
    """Puts one checkpoint into the store and returns its record. Idempotent.

    Nothing is read while the files' path, size and mtime are as recorded, unless `rehash`. A step whose content
    changed gets a new revision. Tensors that cannot be read are named in the record's problems, and the rest is
    ingested; when none can, or the files change meanwhile, ArchiveError and nothing is recorded. Weights that repeat
    a checkpoint of the run from beside it (a Trainer's output root) are recorded as its alias.
    """
    store.check_writable()
    known = find_recorded(store, checkpoint)
    layout_digest = store.put_layout(layout)
    if known is not None and not rehash and is_current(known, checkpoint):
        return _keep(store, known, checkpoint.step_unit, layout_digest, layout)
    if open_tensors is None:
        from pipeline.archive.reader import open_tensors as opener

        open_tensors = opener
    root = source_root(checkpoint)
    check_files(checkpoint, root, "since it was listed")
    writer = TensorWriter(store)
    problems: list[Problem] = []
    with open_tensors(checkpoint) as tensors:
        for header in layout.tensors:
            try:
                writer.add(header, tensors)
            except UnreadableTensorError as error:
                reason = str(error).removeprefix(f"{checkpoint.path}: ").removeprefix(f"{header.name}: ")
                problems.append(Problem(str(checkpoint.path), reason, header.name))
            if progress is not None:
                progress(header.name, header.nbytes)
        tied = _tied(tensors, layout)
    writer.finish()
    check_files(checkpoint, root, "while it was read")
    if problems and not writer.digests:
        raise ArchiveError(f"none of the {len(problems)} tensors of {checkpoint.path} could be read: {problems[0]}")
    record = _recorded(checkpoint, layout, layout_digest, writer, problems, tied)
    store.ensure_run(RunRecord(checkpoint.run, adapter=checkpoint.kind == "adapter"))
    original = find_original(store, checkpoint, record)
    return _add_alias(store, original, checkpoint) if original is not None else _publish(store, record)


def _recorded(
    checkpoint: Checkpoint,
    layout: Layout,
    layout_digest: str,
    writer: TensorWriter,
    problems: Sequence[Problem],
    tied: tuple[tuple[int, ...], ...],
) -> CheckpointRecord:
    """The record of a checkpoint whose tensors are written."""
    digests = tuple(writer.digests.get(header.name) for header in layout.tensors)
    return CheckpointRecord(
        run=checkpoint.run,
        step=checkpoint.step,
        revision=0,
        layout=layout_digest,
        digests=digests,
        places=writer.containers(digests),
        files=checkpoint.files,
        source=path_text(checkpoint.path),
        format=checkpoint.format,
        step_source=checkpoint.step_source,
        kind=checkpoint.kind,
        config=checkpoint.config,
        adapter=checkpoint.adapter,
        problems=(*checkpoint.problems, *problems),
        ingested=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        tied=tied,
        not_finite=tuple(at for at, header in enumerate(layout.tensors) if header.name in writer.not_finite),
        sketch="" if problems or writer.not_finite else writer.sketch.text(),
        step_unit=checkpoint.step_unit,
    )


def record_run(
    store: Store,
    run: Run,
    base: str | None = None,
    base_kind: str | None = None,
    force: bool = False,
    problems: Sequence[Problem] = (),
    notes: Sequence[str] = (),
    archive_notes: Sequence[str] = (),
) -> RunRecord:
    """Records a run, before its checkpoints or after. `base` is the "run@step" that it is compared with by default.

    A recorded base stays whatever `base` says, unless `force`. StoreError when another folder, which still exists,
    is in the store under this id. `problems`, `notes`: those of the archive that concern this run;
    `archive_notes`: those that concern no single run. Metrics that the user gave stay until others are given for the
    run.
    """
    store.check_writable()
    store.ensure_run(RunRecord(run.id, run.role, source=path_text(run.path)))
    folder = store.run_folder(run.id)
    with store_errors(folder, "write"), _locked(store, run.id):
        old = store.run(run.id)
        if not force:
            _check_same_source(store, old, run)
            if old.base is not None:
                base, base_kind = old.base, old.base_kind
        record = RunRecord(
            id=run.id,
            role=run.role,
            adapter=any(checkpoint.kind == "adapter" for checkpoint in run.checkpoints),
            base=base,
            base_kind=base_kind,
            metrics=run.metrics or old.metrics,
            source=path_text(run.path),
            problems=tuple(problems),
            notes=tuple(notes),
            archive_notes=tuple(archive_notes),
            metric_sources=run.metric_sources if run.metrics else old.metric_sources,
            given=old.given if run.given is None else run.given,
        )
        if record != old:
            replace_document(store.path, folder, record.to_json())
    return record


def mark_gone(store: Store, run_id: str, present: Iterable[int]) -> tuple[CheckpointRecord, ...]:
    """Marks the checkpoints of a run whose step the archive no longer has; they stay in the store.

    `present`: *all* steps that the archive has now, not a selection of them. Returns those newly marked.
    """
    store.check_writable()
    steps, marked = frozenset(present), []
    for record in store.checkpoints(run_id):
        if record.source_gone != (record.step not in steps):
            changed = dataclasses.replace(record, source_gone=record.step not in steps)
            rewrite_manifest(store, changed)
            if changed.source_gone:
                marked.append(changed)
    return tuple(marked)


def _tied(tensors: Tensors, layout: Layout) -> tuple[tuple[int, ...], ...]:
    """The groups of tensors that share one storage in the file, as indices into the layout's."""
    index = {header.name: at for at, header in enumerate(layout.tensors)}
    groups = (tuple(sorted(index[name] for name in group if name in index)) for group in getattr(tensors, "tied", ()))
    return tuple(sorted(group for group in groups if len(group) > 1))


def _keep(store: Store, known: CheckpointRecord, unit: str, layout_digest: str, layout: Layout) -> CheckpointRecord:
    """An unchanged checkpoint, without reading it; a layout that is new gives it a new revision."""
    if known.layout != layout_digest:
        if store.layout(known.layout).tensors != layout.tensors:
            raise StoreError(
                f"{known.source} lists different tensors than when it was ingested, although its files have not "
                "changed: run again with --rehash"
            )
        return _publish(store, dataclasses.replace(known, layout=layout_digest, source_gone=False, step_unit=unit))
    if known.source_gone or known.step_unit != unit:
        known = dataclasses.replace(known, source_gone=False, step_unit=unit)
        rewrite_manifest(store, known)
    return known


def _publish(store: Store, record: CheckpointRecord) -> CheckpointRecord:
    """Makes the record visible: as the next revision of its step, or in place when only its files' times moved."""
    while True:
        revisions = store.revisions(record.run, record.step)
        number = store.next_revision(record.run, record.step)
        newest = revisions[-1] if revisions and revisions[-1].revision == number - 1 else None  # else it is damaged
        if newest is not None and (newest.digests, newest.layout) == (record.digests, record.layout):
            record = dataclasses.replace(record, revision=newest.revision, aliases=newest.aliases)
            if dataclasses.replace(record, ingested=newest.ingested) == newest:
                return newest
            rewrite_manifest(store, record)
            return record
        record = dataclasses.replace(record, revision=number, aliases=())
        if create_document(store.path, store.manifest_folder(record), record.to_json()):
            return record
        # Another process has just published this revision: look again.


def _add_alias(store: Store, original: CheckpointRecord, checkpoint: Checkpoint) -> CheckpointRecord:
    with _locked(store, original.run):
        others = tuple(alias for alias in original.aliases if alias.source != path_text(checkpoint.path))
        alias = Alias(path_text(checkpoint.path), checkpoint.files)
        record = dataclasses.replace(original, aliases=(*others, alias))
        rewrite_manifest(store, record)
    return record


def rewrite_manifest(store: Store, record: CheckpointRecord) -> None:
    """Replaces the manifest of the record's revision."""
    replace_document(store.path, store.manifest_folder(record), record.to_json())


def _check_same_source(store: Store, old: RunRecord, run: Run) -> None:
    if old.source and old.source != path_text(run.path) and real_path(old.source).exists() and run.path.exists():
        if real_path(old.source).samefile(run.path):
            return
        raise StoreError(
            f"run {run.id!r} is in {store.path} from {old.source}, which still exists, and {run.path} has the same id: "
            "give this archive a name of its own (--name NAME), or use another store (--store PATH, or another --out); "
            "an archive that was moved is accepted once nothing is at its old place"
        )


@contextmanager
def _locked(store: Store, run: str) -> Iterator[None]:
    """One process at a time reads and rewrites the documents of a run; the lock dies with its owner."""
    descriptor = open_lock(store.path / "tmp" / f"{blake3.blake3(run.encode()).hexdigest(length=16)}.lock")
    try:
        # Some network file systems have no locks: there, the last of two simultaneous writers counts.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
