"""A folder tree → runs → checkpoints with their steps, from names and headers alone.

archive = open_archive("runs/")
for run in archive.runs: print(run.id, [checkpoint.step for checkpoint in run.checkpoints])
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

from analyzers.errors import ArchiveError
from pipeline.archive.findings import Findings
from pipeline.archive.formats import NOT_READ, READ
from pipeline.archive.headers import Headers, read_headers
from pipeline.archive.placing import Placed, place
from pipeline.archive.ranks import without_parts
from pipeline.archive.runs import assemble_run, run_parts
from pipeline.archive.steps import compile_pattern
from pipeline.archive.types import Archive, Run
from pipeline.archive.walk import Refused, single_file, walk

Progress = Callable[[str], None]


def open_archive(
    root: str | os.PathLike[str],
    name: str | None = None,
    step_pattern: str | None = None,
    step_scale: float = 1,
    on_progress: Progress | None = None,
) -> Archive:
    """The runs and checkpoints below a folder (or in one weights file), sorted by run id and step.

    Reads headers only. `name` starts every run's id (default: the folder's name). `step_pattern`, a regular
    expression with one group, finds the step in names before anything else is asked; `step_scale` multiplies steps
    that come from names. `on_progress` gets the relative path of each checkpoint whose header has been read.
    What cannot be read is in `problems` of the archive or of the checkpoint. ArchiveError: no such folder, or a
    pattern that is none.
    """
    if "://" in str(root):
        raise ArchiveError(f"{root}: only folders of this machine are read yet: copy or mount it")
    if not 0 < step_scale <= 1e9:
        raise ArchiveError(f"step scale {step_scale} is not between 0 and 10⁹")
    pattern = compile_pattern(step_pattern) if step_pattern else None
    path = Path(os.path.abspath(Path(root).expanduser()))  # noqa: PTH100 - a symlinked root keeps its own name
    refused: list[Refused] = []
    try:
        is_file, is_folder = path.is_file(), path.is_dir()
    except OSError as error:
        raise ArchiveError(f"{path}: cannot be looked at: {error.strerror or error}") from error
    if is_file:
        findings = Findings(path.parent)
        found = [single_file(path)]
        own_name = path.parent.name if found[0].own_folder else path.stem
    elif is_folder:
        findings = Findings(path)
        found, refused = walk(findings)
        own_name = path.name
    else:
        raise ArchiveError(f"{path}: no such file or folder")
    own_name = own_name or "archive"
    placed = place(found, own_name, pattern)
    # A single file is the whole archive: its stem is the archive's name, and not a run's as well.
    members = without_parts(_read_all(placed, findings, on_progress, alone=is_file), findings)
    _list_refused(refused, members, findings)
    runs = _assemble(unicodedata.normalize("NFC", name or own_name), members, findings, step_scale)
    return Archive(
        unicodedata.normalize("NFC", name or own_name),
        findings.root,
        runs,
        tuple(findings.problems),
        tuple(findings.notes),
    )


def require_runs(archive: Archive) -> Archive:
    """The archive itself, or ArchiveError saying what was looked for, when no run in it can be read."""
    if archive.runs:
        return archive
    lines = [
        f"{archive.root}: no checkpoint that can be read.",
        f"Looked for {READ}; in this folder and all below it, hidden ones and *.zarr left out.",
        *(f"  {problem}" for problem in archive.problems[:20]),
    ]
    if len(archive.problems) > 20:
        lines.append(f"  and {len(archive.problems) - 20} more")
    if not archive.problems:
        lines.append(f"No file with their suffixes, nor of a known format that is not read ({', '.join(NOT_READ)}).")
    raise ArchiveError("\n".join(lines))


def require_distinct_runs(archives: Iterable[Archive]) -> None:
    """ArchiveError when two archives that are to share a store have a run of one name."""
    seen: dict[str, Path] = {}
    for archive in archives:
        for run in archive.runs:
            if run.id in seen:
                raise ArchiveError(
                    f"two runs are called {run.id!r}: {seen[run.id]} and {run.path}; give one archive another name"
                )
            seen[run.id] = run.path


def _read_all(
    placed: list[Placed], findings: Findings, on_progress: Progress | None, alone: bool
) -> dict[tuple[str, ...], list[Headers]]:
    """The headers of every checkpoint, by its run's path below the root."""
    members: dict[tuple[str, ...], list[Headers]] = {}
    for one in placed:
        headers = read_headers(one, findings)
        if headers is None:
            continue
        if on_progress is not None:
            on_progress(findings.relative(headers.path))
        members.setdefault(() if alone else run_parts(headers), []).append(headers)
    return members


def _list_refused(refused: list[Refused], members: dict[tuple[str, ...], list[Headers]], findings: Findings) -> None:
    """Files of unread formats: problems, but for another copy of a checkpoint that is read."""
    read = {
        one.placed.found.folder: one.path for every in members.values() for one in every if one.placed.found.own_folder
    }
    for one in refused:
        around = (one.path.parent, one.path.parent.parent)
        copy_of = None if one.names_step else next((read[folder] for folder in around if folder in read), None)
        if copy_of is not None:
            findings.note(one.path, f"{one.reason}; {copy_of.name} beside it is")
        else:
            findings.problem(one.path, one.reason)


def _assemble(
    name: str, members: dict[tuple[str, ...], list[Headers]], findings: Findings, scale: float
) -> tuple[Run, ...]:
    runs: dict[str, Run] = {}
    for parts, headers in sorted(members.items()):
        run_id = unicodedata.normalize("NFC", "/".join((name, *parts)))
        path = findings.root.joinpath(*parts)
        path = path if path.is_dir() else headers[0].path.parent
        if run_id in runs:
            reason = f"two runs are called {run_id!r}: {runs[run_id].path} is read, this one is not"
            findings.problem(path, reason, "rename one of the folders")
            continue
        run = assemble_run(run_id, path, parts, headers, findings, scale)
        if run.checkpoints:
            runs[run_id] = run
    return tuple(runs[run_id] for run_id in sorted(runs))
