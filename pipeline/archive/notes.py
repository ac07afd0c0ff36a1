"""Which run a note of an archive belongs to: the run in whose folder the file lies that the note is about."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.archive.text import path_text
from pipeline.archive.types import Archive, Checkpoint, Run

WHOLE_ARCHIVE = ""
"""The key of notes that concern no single run."""


def notes_by_run(archive: Archive) -> Mapping[str, tuple[str, ...]]:
    """Run id → its notes, and `WHOLE_ARCHIVE` → those that belong to no single run. Equal texts about several files of
    a run become one note. So do notes that several checkpoints of a run carry."""
    files: dict[tuple[str, str], list[str]] = {}
    for note in dict.fromkeys(archive.notes):
        path, colon, text = note.partition(": ")
        if not colon:
            path, text = "", note
        files.setdefault((_owner(note, archive), text), []).append(path)
    notes: dict[str, list[str]] = {run.id: [] for run in archive.runs}
    for (owner, text), paths in files.items():
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        notes.setdefault(owner, []).append(f"{paths[0]}{more}: {text}" if paths[0] else text)
    for run in archive.runs:
        holders: dict[str, list[Checkpoint]] = {}
        for checkpoint in run.checkpoints:
            for note in dict.fromkeys(checkpoint.notes):
                holders.setdefault(note, []).append(checkpoint)
        notes[run.id] += (f"{_whose(of, run, archive.root, note)}{note}" for note, of in holders.items())
    return {run: tuple(dict.fromkeys(lines)) for run, lines in notes.items()}


def within(note: str, run: Run, root: Path) -> str:
    """A note of a run, its paths below the run's folder and without the run's id: for a list under the run's name."""
    folder = _relative(Path(run.path), root)
    for prefix in (f"{run.id}: ", *((f"{folder}/", f"{folder}: ") if folder else ())):
        note = note.removeprefix(prefix)
    return re.sub(rf"(?<!\S){re.escape(folder)}/", "", note) if folder else note


def _whose(holders: Sequence[Checkpoint], run: Run, root: Path, note: str) -> str:
    """Which checkpoints of a run carry a note; "" where the run has only one, or the note names it."""
    count = len(run.checkpoints)
    if count == 1:
        return ""
    if len(holders) == 1 and note.startswith(f"{holders[0].path.name} "):
        return ""
    if len(holders) == 1:
        return f"{_relative(holders[0].path, root) or path_text(holders[0].path)}: "
    if len(holders) == count:
        return "both checkpoints: " if count == 2 else f"all {count} checkpoints: "
    return f"{len(holders)} of {count} checkpoints: "


def _owner(note: str, archive: Archive) -> str:
    """The id of the one run in whose folder, or at whose checkpoints, the note's file lies. Where several runs share
    the folder, the one whose checkpoint the note names."""
    within: dict[str, list[Run]] = {}
    for run in archive.runs:
        folder = _relative(Path(run.path), archive.root)
        if folder is not None and (folder == "" or note.startswith((f"{folder}/", f"{folder}: "))):
            within.setdefault(folder, []).append(run)
    runs = within[max(within, key=len)] if within else []
    if len(runs) > 1:
        runs = [run for run in runs if any(_names(note, c.path, archive.root) for c in run.checkpoints)]
    return runs[0].id if len(runs) == 1 else WHOLE_ARCHIVE


def _names(note: str, path: Path, root: Path) -> bool:
    """Whether a checkpoint's file stands in the note as a whole path."""
    name = _relative(path, root)
    return bool(name) and any(
        note.startswith(f"{name}{end}") or f" {name}{end}" in f"{note} " for end in (": ", ",", " ", "/")
    )


def _relative(path: Path, root: Path) -> str | None:
    """Forward slashes, "" for the root itself; None outside of it."""
    if not path.is_relative_to(root):
        return None
    relative = path_text(path.relative_to(root).as_posix())
    return "" if relative == "." else relative
