"""A folder tree → runs → checkpoints with their steps, from names and headers alone.

archive = open_archive("runs/")
for run in archive.runs: print(run.id, [checkpoint.step for checkpoint in run.checkpoints])
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from analyzers.errors import ArchiveError
from pipeline.archive.architectures import architectures, in_words, shapes_of
from pipeline.archive.filenames import is_weights_name, stem
from pipeline.archive.findings import Findings
from pipeline.archive.folder import Refused
from pipeline.archive.formats import READ
from pipeline.archive.gathering import gathered
from pipeline.archive.headers import Headers, Opened, read_headers, read_weights
from pipeline.archive.joining import note_joinable
from pipeline.archive.placing import Placed, place
from pipeline.archive.ranks import without_parts
from pipeline.archive.runs import assemble_run, refuted, run_parts, settled
from pipeline.archive.splitting import own_words
from pipeline.archive.steps import compile_pattern
from pipeline.archive.text import real_path, visible
from pipeline.archive.types import Archive, Run
from pipeline.archive.walk import single_file, walk

Progress = Callable[[str], None]

_FRAMEWORKS = ("flax", "jax", "tf", "keras", "torch", "rust")
"""Words by which a file repeats the one beside it: flax_model.msgpack."""

# So many findings are named when nothing can be read.
LISTED = 20


def open_archive(
    root: str | os.PathLike[str],
    name: str | None = None,
    step_pattern: str | None = None,
    step_scale: float = 1,
    on_progress: Progress | None = None,
) -> Archive:
    """The runs and checkpoints below a folder (or in one weights file), sorted by run id and step.

    Reads headers only. `name` starts every run's id (default: the folder's name). `step_pattern`, a regular
    expression, finds the step in names before anything else is asked: in its first group or the one called `step`; a
    second group, or the one called `series`, names the series. `step_scale` multiplies steps that come from names.
    `on_progress` gets the relative path of each checkpoint whose header has been read. What cannot be read is in
    `problems` of the archive or of the checkpoint. ArchiveError: no such folder, or a pattern that is none.
    """
    if "://" in str(root):
        raise ArchiveError(f"{root}: only local folders can be read so far: copy it to this machine, or mount it")
    if not 0 < step_scale <= 1e9:
        raise ArchiveError(f"step scale {step_scale} is not between 0 and 10⁹")
    pattern = compile_pattern(step_pattern) if step_pattern else None
    path = real_path(os.path.abspath(Path(root).expanduser()))  # noqa: PTH100 - a symlinked root keeps its own name
    is_file = _is_file(path)
    refused: list[Refused] = []
    findings = Findings(path.parent if is_file else path)
    if is_file:
        found = [single_file(path)]
        own_name = path.parent.name if found[0].own_folder else found[0].stem
    else:
        found, refused = walk(findings)
        own_name = path.name
    own_name = own_name or "archive"
    shown_name = visible(unicodedata.normalize("NFC", name or own_name))
    opened = _whole_folders([read_weights(checkpoint, findings) for checkpoint in found])
    found = [checkpoint.found for checkpoint in opened]
    headers = _read_all(place(found, own_name, pattern), opened, findings, on_progress)
    if wrong := refuted(headers):
        places = {placed.path: placed for placed in place(found, own_name, pattern, wrong)}
        headers = [replace(one, placed=places[one.placed.path]) for one in headers]
    members: dict[tuple[str, ...], list[Headers]] = {}
    for one in gathered(settled(headers)):
        # A single file is the whole archive: its stem is the archive's name, and not a run's as well.
        members.setdefault(() if is_file else run_parts(one), []).append(one)
    members = without_parts(members, findings)
    _list_refused(refused, members, findings)
    runs = _assemble(shown_name, members, findings, step_scale)
    note_joinable(runs, findings)
    note_architectures(runs, findings)
    findings.close()
    return Archive(
        shown_name,
        findings.root,
        runs,
        tuple(findings.problems),
        tuple(findings.notes),
        dict(findings.others),
        tuple(findings.hints),
    )


def _is_file(path: Path) -> bool:
    """Whether the path is a file; False for a folder. Raises `ArchiveError` for everything else."""
    try:
        is_file, is_folder = path.is_file(), path.is_dir()
    except OSError as error:
        raise ArchiveError(f"{path}: cannot be opened: {error.strerror or error}") from error
    if not is_file and not is_folder:
        raise ArchiveError(f"{path}: no such file or folder")
    return is_file


def require_runs(archive: Archive) -> Archive:
    """The archive itself, or ArchiveError saying what is there and why none of it is read, when there is no run."""
    if archive.runs:
        return archive
    lines = [
        f"{archive.root}: no readable checkpoint here.",
        f"Looked for {READ}; in this folder and all folders below it, except hidden ones and *.zarr.",
    ]
    findings = [*map(str, archive.problems), *archive.notes]
    lines += [f"  {line}" for line in findings[:LISTED]]
    if len(findings) > LISTED:
        lines.append(f"  and {len(findings) - LISTED} more")
    if archive.others:
        seen = sorted(archive.others.items(), key=lambda item: (-item[1], item[0]))
        shown = ", ".join(f"{suffix} ({count})" for suffix, count in seen[:8]) + (", …" if len(seen) > 8 else "")
        lines.append(f"Other files, which do not look like weights by name, size and first bytes: {shown}.")
    if not findings and not archive.others:
        lines.append("There are no files at all.")
    raise ArchiveError("\n".join(lines))


def _whole_folders(opened: list[Opened]) -> list[Opened]:
    """The checkpoints without the files that hold no weights. A file that is then the only one of its folder, and names
    no step, is the folder's own: the folder's name is its run's, not the file's."""
    kept = [checkpoint for checkpoint in opened if not checkpoint.holds_none]
    in_folder = Counter(checkpoint.found.folder for checkpoint in kept)
    return [
        replace(checkpoint, found=replace(checkpoint.found, own_folder=True))
        if in_folder[checkpoint.found.folder] == 1 and not checkpoint.found.standard
        else checkpoint
        for checkpoint in kept
        if checkpoint.weights is not None
    ]


def _read_all(
    placed: list[Placed], opened: list[Opened], findings: Findings, on_progress: Progress | None
) -> list[Headers]:
    """The headers of every checkpoint that can be read."""
    read = []
    for checkpoint, found in zip(placed, opened, strict=True):
        headers = read_headers(checkpoint, found.weights, findings) if found.weights is not None else None
        if headers is None:
            continue
        if on_progress is not None:
            on_progress(findings.relative(headers.path))
        read.append(headers)
    return read


def _list_refused(refused: list[Refused], members: dict[tuple[str, ...], list[Headers]], findings: Findings) -> None:
    """Files of unread formats: problems, but for data, and for copies and exports of a checkpoint that is read."""
    read: dict[Path, Path] = {}
    own: dict[Path, Path] = {}
    words: dict[Path, set[str]] = {}
    for headers in (headers for every in members.values() for headers in every):
        read.setdefault(headers.path.parent, headers.path)
        words.setdefault(headers.path.parent, set(_FRAMEWORKS)).update(own_words(headers.placed.found.stem))
        if headers.placed.found.own_folder:
            own[headers.placed.found.folder] = headers.path
    for file in refused:
        around = (file.path.parent, file.path.parent.parent)
        is_export = file.standing == "export"
        is_copy = {word for word in own_words(stem(file.path)) if word.isalpha()} <= words.get(file.path.parent, set())
        beside = read if is_export or (is_copy and not is_weights_name(file.path)) else own
        copy_of = next((beside[folder] for folder in around if folder in beside), None)
        if copy_of is not None and (is_export or not file.names_step):
            findings.note(file.path, f"{file.reason}; {copy_of.name} beside it is read")
        elif file.standing == "data" and not file.names_step:
            findings.note(file.path, f"not a checkpoint: {file.reason} ({file.hint})")
        else:
            findings.problem(file.path, file.reason, file.hint)


def note_architectures(runs: tuple[Run, ...], findings: Findings) -> None:
    """One hint for each run whose checkpoints are of several architectures."""
    for run in runs:
        if any(checkpoint.kind == "adapter" for checkpoint in run.checkpoints):
            continue
        groups = architectures({checkpoint.step: shapes_of(checkpoint.tensors) for checkpoint in run.checkpoints})
        if len(groups) > 1:
            units = {checkpoint.step_unit for checkpoint in run.checkpoints}
            findings.hint(
                f"{run.id}: its checkpoints have {len(groups)} architectures: "
                f"{in_words(groups, units.pop() if len(units) == 1 else 'step')}; "
                "only checkpoints of the same architecture are compared"
            )


def _assemble(
    name: str, members: dict[tuple[str, ...], list[Headers]], findings: Findings, scale: float
) -> tuple[Run, ...]:
    runs: dict[str, Run] = {}
    waiting = sorted(members.items())
    while waiting:
        parts, headers = waiting.pop(0)
        run_id = visible(unicodedata.normalize("NFC", "/".join((name, *parts))))
        path = findings.root.joinpath(*parts)
        path = path if path.is_dir() else headers[0].path.parent
        if run_id in runs:
            reason = f"two runs are called {run_id!r}: {runs[run_id].path} is read, this one is not"
            findings.problem(path, reason, "rename one of the folders")
            continue
        run, apart = assemble_run(run_id, path, parts, headers, findings, scale)
        waiting += [(run_parts(one), [one]) for one in apart]
        if run.checkpoints:
            runs[run_id] = run
    return tuple(runs[run_id] for run_id in sorted(runs))
