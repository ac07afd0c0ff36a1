"""From an archive to a store: which checkpoints are still to be read, and what each run is compared with.

`plan_intake` looks at headers and records only; `ingest_one` then reads one checkpoint. A base outside the archive is
ingested as a run with the role "base".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from analyzers.errors import ArchiveError
from pipeline.archive.guarded import boundary
from pipeline.archive.notes import WHOLE_ARCHIVE, notes_by_run
from pipeline.archive.text import path_text
from pipeline.archive.types import Archive, Checkpoint, Layout, Problem, Run, Unmeasured
from pipeline.units.selection import StepSelection

LAYOUT_SECONDS = 60.0
"""Processor time for the matrices of one checkpoint; 100 000 tensors take half of it."""

if TYPE_CHECKING:
    from pipeline.archive.bases import ResolvedBase
    from pipeline.store import CheckpointRecord, Store


@dataclass(frozen=True)
class Intake:
    """What an archive brings to a store.

    `items` are the checkpoints to read, bases first; `unchanged` counts those that are there already. `runs` are the
    ids of the archive's runs, those included that were there and are no longer; `bases` run id → "run@step", `gone`
    the checkpoints that the archive no longer has.
    """

    archive: Archive
    items: tuple[Checkpoint, ...]
    unchanged: int
    runs: tuple[str, ...]
    bases: Mapping[str, str]
    base_kinds: Mapping[str, str]
    problems: tuple[Problem, ...]
    references: Mapping[str, Checkpoint]
    gone: tuple[CheckpointRecord, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of tensors to read."""
        return sum(c.nbytes for c in self.items)

    def reference_of(self, checkpoint: Checkpoint) -> Checkpoint | None:
        """What the checkpoint's run is compared with."""
        return self.references.get(checkpoint.run)


def plan_intake(
    store: Store,
    archive: Archive,
    base: Sequence[str] = (),
    catalog_bases: Mapping[str, str] | None = None,
    steps: StepSelection | None = None,
    rehash: bool = False,
) -> Intake:
    """Records the runs and their bases, and tells which checkpoints are to be read.

    A base that is not found is a problem of its run, whose spectra are measured all the same. A base that the user
    gave moves the recorded one; a default one never does.
    """
    from pipeline.store import mark_gone

    selection = steps or StepSelection()
    selection.check({run.id: [c.step for c in run.checkpoints] for run in archive.runs})
    bases, problems = resolve_bases(archive, base, catalog_bases)
    wanted: dict[tuple[str, int], Checkpoint] = {}
    for resolved in bases.values():
        wanted[resolved.run.id, resolved.checkpoint.step] = resolved.checkpoint
    outside = {r.run.id: replace(r.run, role="base") for r in bases.values() if r.run.id not in _ids(archive)}
    for run in archive.runs:
        chosen = set(selection.of([c.step for c in run.checkpoints]))
        wanted |= {(c.run, c.step): c for c in run.checkpoints if c.step in chosen}
    gone, unreadable = _record(store, archive, outside, bases, problems)
    vanished = _vanished(store, archive)
    gone += tuple(checkpoint for run_id in vanished for checkpoint in mark_gone(store, run_id, ()))
    known = {(r.id, c.step): c for r in store.runs() for c in store.checkpoints(r.id)}
    wanted = {(run_id, step): c for (run_id, step), c in wanted.items() if run_id not in unreadable}
    references = {run_id: resolved.checkpoint for run_id, resolved in bases.items()}
    fresh = [
        c
        for at, c in wanted.items()
        if rehash or at not in known or not is_current(known[at], c) or _is_described_anew(known[at], c, references)
    ]
    damaged = [p for run in archive.runs for c in run.checkpoints for p in c.problems]
    return Intake(
        archive=archive,
        items=tuple(fresh),
        unchanged=len(wanted) - len(fresh),
        runs=(*(run.id for run in archive.runs if run.id not in unreadable), *vanished),
        bases={
            run_id: resolved.reference
            for run_id, resolved in bases.items()
            if not unreadable.intersection((run_id, resolved.run.id))
        },
        base_kinds={run_id: resolved.kind for run_id, resolved in bases.items()},
        problems=tuple(dict.fromkeys((*archive.problems, *damaged, *problems.values()))),
        references=references,
        gone=gone,
    )


def ingest_one(store: Store, intake: Intake, checkpoint: Checkpoint, rehash: bool = False) -> CheckpointRecord:
    """Reads one checkpoint into the store. Raises `ArchiveError` when nothing of it can be read."""
    from pipeline.store import ingest_checkpoint

    return ingest_checkpoint(store, checkpoint, layout_of(checkpoint, intake.reference_of(checkpoint)), rehash=rehash)


def layout_of(checkpoint: Checkpoint, base: Checkpoint | None = None) -> Layout:
    """The matrices of a checkpoint, with its attention circuits where the config tells the heads.

    An adapter, or a saved state dict, has no config of its own: fused tensors are cut by its base's. Where names or
    config make no sense, no tensor of this checkpoint is measured, and each says why.
    """
    from pipeline.archive import describe
    from pipeline.archive.architectures import as_in_base
    from pipeline.archive.circuits import circuits
    from pipeline.archive.prefixes import UNCHANGED

    try:
        with boundary(checkpoint.path, LAYOUT_SECONDS):
            config, prefix = checkpoint.config, UNCHANGED
            if base is not None and base.run != checkpoint.run:
                config, prefix = as_in_base(checkpoint, base)
            layout = describe(checkpoint, config, prefix)
            return replace(layout, matrices=(*layout.matrices, *circuits(layout, config)))
    except ArchiveError as error:
        reason = f"its names and config cannot be mapped to matrices: {error}"
        return Layout(checkpoint.tensors, (), tuple(Unmeasured(t.name, reason) for t in checkpoint.tensors))


def is_current(known: CheckpointRecord, found: Checkpoint) -> bool:
    """Whether a recorded checkpoint is of these very files, equal in path, size and modification time, and counts the
    same."""
    if known.source_gone or known.step_unit != found.step_unit:
        return False
    return sorted(known.files, key=str) == sorted(found.files, key=str)


def _is_described_anew(known: CheckpointRecord, found: Checkpoint, references: Mapping[str, Checkpoint]) -> bool:
    """Whether a recorded checkpoint's matrices get other names, since its base is known now. Its values are not read
    again."""
    from pipeline.archive.recipes import digest
    from pipeline.store.records import layout_to_json

    base = references.get(found.run)
    if base is None or base.run == found.run or found.kind == "adapter":
        return False
    return digest(layout_to_json(layout_of(found, base))) != known.layout


def _ids(archive: Archive) -> set[str]:
    return {run.id for run in archive.runs}


def _vanished(store: Store, archive: Archive) -> tuple[str, ...]:
    """Recorded runs of this folder tree that it no longer has: their results stay in the report."""
    there = _ids(archive) | {path_text(run.path) for run in archive.runs}
    return tuple(
        run.id
        for run in store.runs()
        if run.id not in there and run.source not in there and Path(path_text(archive.root)) in Path(run.source).parents
    )


def resolve_bases(
    archive: Archive, base: Sequence[str] = (), catalog_bases: Mapping[str, str] | None = None
) -> tuple[dict[str, ResolvedBase], dict[str, Problem]]:
    """The base of each run that has one, and a problem for each that should have one.

    Raises `ArchiveError` for a base that was given and is found for none of its runs: a misspelt path, before any work.
    """
    from pipeline.archive.bases import BaseOption, check_base_options, option_for, parse_base_options, resolve_base
    from pipeline.archive.missing_bases import missing_bases

    options = parse_base_options(base)
    check_base_options(options, archive)
    found: dict[str, ResolvedBase] = {}
    failures: dict[str, ArchiveError] = {}
    useless: dict[BaseOption, ArchiveError] = {}
    used: set[BaseOption] = set()
    for run in archive.runs:
        if run.role == "base":
            continue
        option = option_for(options, run, archive)
        try:
            found[run.id] = resolve_base(run, archive, options, catalog_bases)
        except ArchiveError as error:  # not found, or found and damaged
            failures[run.id] = error
            if option is not None:
                useless.setdefault(option, error)
        else:
            used.update([option] if option is not None else [])
    for option, failure in useless.items():
        if option not in used:
            raise failure
    return found, missing_bases(archive, failures)


def _record(
    store: Store,
    archive: Archive,
    outside: Mapping[str, Run],
    bases: Mapping[str, ResolvedBase],
    problems: Mapping[str, Problem],
) -> tuple[tuple[CheckpointRecord, ...], set[str]]:
    """Writes the run records; returns the checkpoints that the archive no longer has, and the runs whose records are
    damaged: they are left alone until they are repaired, since what they were compared with is not known."""
    from pipeline.store import mark_gone, record_run

    gone: list[CheckpointRecord] = []
    notes = notes_by_run(archive)
    unreadable = {run.id for run in (*outside.values(), *archive.runs) if store.is_damaged(run.id)}
    for run in outside.values():
        if run.id not in unreadable:
            record_run(store, run)
    for run in archive.runs:
        if run.id in unreadable:
            continue
        resolved = bases.get(run.id)
        reference = resolved.reference if resolved else None
        kind = resolved.kind if resolved else None
        mine = (*_problems_of(run, archive), *((problems[run.id],) if run.id in problems else ()))
        record_run(
            store,
            run,
            reference,
            kind,
            force=kind == "given",
            problems=mine,
            notes=(*notes[run.id], *(resolved.notes if resolved else ())),
            archive_notes=notes.get(WHOLE_ARCHIVE, ()),
        )
        gone += mark_gone(store, run.id, [c.step for c in run.checkpoints])
    return tuple(gone), unreadable


def _problems_of(run: Run, archive: Archive) -> tuple[Problem, ...]:
    """The archive's problems that lie in a run's folder."""
    folder = Path(run.path)
    return tuple(p for p in archive.problems if folder in (archive.root / p.path).parents)
