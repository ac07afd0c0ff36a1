"""Reads one checkpoint's headers, and the configs and trainer's state that stand beside its weights."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from analyzers.errors import ArchiveError
from pipeline.archive.findings import Findings
from pipeline.archive.formats import FileContents, detect, scan
from pipeline.archive.formats.state import are_moments
from pipeline.archive.guarded import leads_outside
from pipeline.archive.jsonfile import read_json
from pipeline.archive.metrics import STATE_FILE, TrainerState, read_trainer_state
from pipeline.archive.placing import Placed
from pipeline.archive.types import FileStamp, Problem
from pipeline.archive.walk import ADAPTER_CONFIG, FoundCheckpoint

CONFIG = "config.json"
SAVE_STATE_DICT = "save a dict of the model's tensors instead: torch.save(model.state_dict(), path)"
_WEIGHT = re.compile(r"weight|bias|kernel|embed|param|proj|conv|linear|layer", re.IGNORECASE)


@dataclass(frozen=True)
class Weights:
    """The weights of a checkpoint, as the header of the file that was opened tells."""

    path: Path
    format: str
    contents: FileContents
    adapter: dict[str, Any] | None = None


@dataclass(frozen=True)
class Opened:
    """A checkpoint by its files' names, opened. Without `weights` it cannot be read, or `holds_none`."""

    found: FoundCheckpoint
    weights: Weights | None = None
    holds_none: bool = False


@dataclass(frozen=True)
class Headers:
    """A checkpoint whose headers have been read, before its step is settled. `stamps` are of all that it is made of."""

    placed: Placed
    path: Path
    format: str
    contents: FileContents
    stamps: tuple[FileStamp, ...]
    config: dict[str, Any]
    adapter: dict[str, Any] | None = None
    state: TrainerState | None = None
    problems: tuple[Problem, ...] = ()


def read_weights(found: FoundCheckpoint, findings: Findings) -> Opened:
    """Opens the first of a checkpoint's files that can be read; each that cannot is a problem, or a note."""
    adapter: dict[str, Any] | None = None
    if found.kind == "adapter":
        try:
            _stays_inside(found.folder / ADAPTER_CONFIG, findings)
            adapter = read_json(found.folder / ADAPTER_CONFIG)
        except ArchiveError as error:
            findings.problem(found.folder / ADAPTER_CONFIG, error, "without it, the adapter's scale is unknown")
            return Opened(found)
    holds_none = False
    for at, path in enumerate(found.paths):
        try:
            format_name = detect(path)
            contents = scan(path, format_name)
        except (ArchiveError, OSError) as error:
            _unreadable(path, error, found, findings)
            continue
        if _without_weights(path, contents, found, findings):
            holds_none = True
            continue
        for other in found.paths[at + 1 :]:
            findings.note(other, f"skipped: {path.name} beside it is the same checkpoint")
        return Opened(found, Weights(path, format_name, contents, adapter))
    return Opened(found, holds_none=holds_none)


def read_headers(placed: Placed, weights: Weights, findings: Findings) -> Headers | None:
    """A checkpoint with the configs that stand beside its weights; None, and a problem, when it is gone meanwhile."""
    contents = weights.contents
    headers = Headers(placed, weights.path, weights.format, contents, (), dict(contents.config), weights.adapter)
    try:
        return _with_side_files(headers, findings)
    except OSError as error:
        # Deleted while it is being listed, as a Trainer does with its oldest.
        findings.problem(weights.path, error)
        return None


def _unreadable(path: Path, error: ArchiveError | OSError, found: FoundCheckpoint, findings: Findings) -> None:
    if path.suffix == ".bin" and not found.standard:
        # Any data may be called .bin: tokens, vocabularies.
        findings.note(path, f"not a checkpoint: {findings.made(path, error).reason}")
    else:
        findings.problem(path, error)


def _without_weights(path: Path, contents: FileContents, found: FoundCheckpoint, findings: Findings) -> bool:
    """Whether a file holds no weights. Its content decides whether that is training state, which is noted with the
    rest of its folder; another one is a problem if its name promises a checkpoint, else noted."""
    names = list(contents.places)
    if contents.training_state or are_moments(names) or (found.doubtful and not _has_matrices(contents)):
        findings.training_state(path)
        return True
    if names:
        return False
    held = "; ".join(note.removeprefix("ignored: ") for note in contents.notes)
    reason = f"holds no weights: {held or 'it has no tensors'}"
    if contents.problems:
        findings.problems += [replace(problem, path=findings.relative(path)) for problem in contents.problems]
    elif found.standard:
        findings.problem(path, reason, SAVE_STATE_DICT)
    else:
        findings.note(path, f"{reason} ({SAVE_STATE_DICT})")
    return True


def _has_matrices(contents: FileContents) -> bool:
    """Whether a file whose name suggests training state holds a model after all."""
    return any(
        len(place.header.shape) >= 2 and "float" in place.header.dtype and _WEIGHT.search(name)
        for name, place in contents.places.items()
    )


def _with_side_files(headers: Headers, findings: Findings) -> Headers:
    """The nearest config.json and trainer_state.json, from the weights' folder up to the run's."""
    found = headers.placed.found
    files = list(headers.contents.files)
    problems = [findings.made(Path(one.path), one.reason, one.hint, one.tensor) for one in headers.contents.problems]
    config: dict[str, Any] | None = None
    state: TrainerState | None = None
    if headers.adapter is not None:
        files.append(found.folder / ADAPTER_CONFIG)
    depth = len(headers.placed.run)
    for up in range(max(0, len(found.parts) - depth) + 1):
        folder = found.folder if up == 0 else found.folder.parents[up - 1]
        # A state in the run's folder speaks of the run's end, not of one of its step folders.
        speaks_of_this = found.own_folder and (up == 0 or len(found.parts) - up > depth)
        if config is None and (folder / CONFIG).is_file():
            files.append(folder / CONFIG)
            try:
                _stays_inside(folder / CONFIG, findings)
                config = read_json(folder / CONFIG)
            except ArchiveError as error:
                problems.append(findings.made(folder / CONFIG, error))
        if state is None and speaks_of_this and (folder / STATE_FILE).is_file():
            files.append(folder / STATE_FILE)
            try:
                _stays_inside(folder / STATE_FILE, findings)
                state = read_trainer_state(folder)
            except ArchiveError as error:
                problems.append(findings.made(folder / STATE_FILE, error))
    stamps = tuple(_stamp(file, findings) for file in files)
    return replace(headers, stamps=stamps, config=config or headers.config, state=state, problems=tuple(problems))


def _stays_inside(path: Path, findings: Findings) -> None:
    """ArchiveError for a side file that is a link out of the archive: what it says would get into the report."""
    if leads_outside(path, findings.root):
        raise ArchiveError(f"{path}: not read: it is a link to a file outside the archive; replace it with a copy")


def _stamp(file: Path, findings: Findings) -> FileStamp:
    stat = file.stat()
    return FileStamp(findings.relative(file), stat.st_size, stat.st_mtime_ns)
