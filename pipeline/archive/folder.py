"""What each file of one folder is: weights to open, training state, an unread format, or none of our business.

Every regular file whose name does not say that it is text, code, a picture or a table is opened for its first bytes.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from analyzers.errors import ArchiveError
from pipeline.archive import filenames
from pipeline.archive.findings import Findings
from pipeline.archive.formats import recognise, sharded, unread
from pipeline.archive.formats.unread import Unread
from pipeline.archive.steps import step_from_name

# Of unread checkpoints of one folder so many are listed one by one.
MAX_LISTED = 20
# A smaller file can hold no weights, whatever it is called; one that promises weights is opened all the same.
MIN_BYTES = 64

_ZERO_3 = re.compile(r"^zero_pp_rank_\d+_mp_rank_\d+_model_states\.pt$")
_TENSORFLOW = re.compile(r"^(?P<prefix>.+)\.(?:index|meta|data-\d{5}-of-\d{5})$")
# Formats that are told by a file of a fixed name: the whole folder is one checkpoint.
_WHOLE_FOLDERS = {
    "manifest.ocdbt": unread.ORBAX,
    "_METADATA": unread.ORBAX,
    "_CHECKPOINT_METADATA": unread.ORBAX,
    "saved_model.pb": unread.SAVED_MODEL,
}


@dataclass(frozen=True)
class Refused:
    """A file or folder, or the first of several, of a format that is not read. `names_step`: it is one
    checkpoint of several."""

    path: Path
    reason: str
    hint: str = ""
    names_step: bool = False
    standing: Literal["weights", "export", "data"] = "weights"


@dataclass
class FolderFiles:
    """The files of one folder that matter. `weights` are to be opened; those of `doubtful` have a name that suggests
    training state, and count only if they hold matrices."""

    folder: Path
    weights: list[str] = field(default_factory=list)
    doubtful: set[str] = field(default_factory=set)
    refused: list[Refused] = field(default_factory=list)


def unread_folder(folder: Path, names: list[str]) -> Refused | None:
    """The folder as one checkpoint of a format that is not read, told by the name of a file in it."""
    for name, known in _WHOLE_FOLDERS.items():
        if name in names:
            return Refused(folder, known.reason, known.hint, names_step=True)
    return None


def sort_files(folder: Path, entries: list[os.DirEntry[str]], has_own_weights: bool, findings: Findings) -> FolderFiles:
    """What the files of a folder are. With `has_own_weights` a Trainer's optimizer and random states are not opened."""
    files = FolderFiles(folder)
    bundles = _tensorflow_bundles(folder, [entry.name for entry in entries], files)
    unread_files: dict[tuple[Unread, bool], list[str]] = {}
    for entry in entries:
        path = Path(entry.path)
        if entry.name.startswith(".") or entry.name in bundles:
            continue
        if (has_own_weights and filenames.is_trainers_own(entry.name)) or _is_sharded_optimizer(path):
            findings.training_state(path)
        elif _ZERO_3.match(entry.name):
            unread_files.setdefault((unread.ZERO_3, False), []).append(entry.name)
        elif filenames.is_temporary(path):
            _note_temporary(entry, path, findings)
        elif (known := _open(entry, path, files, findings)) is None:
            continue
        elif known.standing == "data" and filenames.is_training_state(path):
            findings.training_state(path)
        else:
            unread_files.setdefault((_as_named(known, path), _names_step(path)), []).append(entry.name)
    for (known, names_step), names in unread_files.items():
        _refuse(files, known, names_step, names)
    return files


def _open(entry: os.DirEntry[str], path: Path, files: FolderFiles, findings: Findings) -> Unread | None:
    """Adds a file that holds weights, or should; gives the format when it is one that is not read."""
    promises = filenames.is_weights_name(path) or sharded.is_index(path)
    if not promises and not _worth_opening(entry, path):
        findings.others[path.suffix.lower() or path.name] += 1
        return None
    try:
        if not entry.is_file() and path.exists():
            report = findings.problem if promises else findings.note
            report(path, "not opened: it is not a regular file but a pipe, a socket or a device")
            return None
        known = recognise(path)
    except (ArchiveError, OSError) as error:
        if promises:
            # Opened again with the checkpoint, where its failure is reported, and another copy may take its place.
            files.weights.append(path.name)
        else:
            findings.note(path, f"cannot be opened: {findings.made(path, error).reason}")
        return None
    if known.is_text and not _names_step(path):
        return unread.TEXT
    if known.format or (known.fault and promises):
        files.weights.append(path.name)
        if filenames.is_training_state(path):
            files.doubtful.add(path.name)
    elif known.fault and path.suffix.lower() in unread.BY_SUFFIX:
        standing = unread.BY_SUFFIX[path.suffix.lower()].standing
        files.refused.append(Refused(path, known.fault, "", _names_step(path), standing))
    elif known.unread is None:
        findings.others[path.suffix.lower() or path.name] += 1
    return known.unread


def _worth_opening(entry: os.DirEntry[str], path: Path) -> bool:
    """Whether a file without the suffix of weights can hold some."""
    if filenames.is_other(path):
        return False
    try:
        return path.suffix.lower() in unread.BY_SUFFIX or (entry.is_file() and entry.stat().st_size >= MIN_BYTES)
    except OSError:
        # A link that leads nowhere, and promises nothing.
        return False


def more_such_files(count: int) -> str:
    """What follows a finding that stands for further files too; empty for none."""
    return f" (and {count} more such file{'s' if count > 1 else ''})" if count else ""


def _names_step(path: Path) -> bool:
    return step_from_name(filenames.stem(path), is_file=True) is not None


def _as_named(known: Unread, path: Path) -> Unread:
    """The unread format; what may be anything is weights where the suffix says so (any data may be called .bin)."""
    promises = filenames.is_weights_name(path) and path.suffix.lower() != ".bin"
    return replace(known, standing="weights") if promises and known.standing == "data" else known


def _note_temporary(entry: os.DirEntry[str], path: Path, findings: Findings) -> None:
    """Notes a file that is called as unfinished ones are, if it is to hold weights or does."""
    finished = path.with_name(re.sub(r"(?:\.\w+|~)$", "", path.name))
    try:
        holds_weights = _worth_opening(entry, finished) and bool(recognise(path).format)
    except (ArchiveError, OSError):
        holds_weights = False
    if holds_weights or filenames.is_weights_name(finished):
        text = "skipped: its name marks it as unfinished (still being written, or left behind by an interruption)"
        findings.note(path, f"{text}; rename it to {finished.name} if it is complete")
    else:
        findings.others[path.suffix.lower()] += 1


def _is_sharded_optimizer(path: Path) -> bool:
    return path.suffix == ".distcp" and filenames.is_training_state(path.parent)


def _tensorflow_bundles(folder: Path, names: list[str], files: FolderFiles) -> set[str]:
    """Adds each TensorFlow checkpoint, which is an index and files of data; gives the names of their files."""
    parts: dict[str, list[str]] = {}
    for name in names:
        if match := _TENSORFLOW.match(name):
            parts.setdefault(match["prefix"], []).append(name)
    bundles = {prefix: own for prefix, own in parts.items() if any(".data-" in name for name in own)}
    for prefix, own in sorted(bundles.items()):
        index = f"{prefix}.index" if f"{prefix}.index" in own else own[0]
        names_step = _names_step(Path(prefix))
        files.refused.append(Refused(folder / index, unread.TENSORFLOW.reason, unread.TENSORFLOW.hint, names_step))
    return {name for own in bundles.values() for name in own}


def _refuse(files: FolderFiles, known: Unread, names_step: bool, names: list[str]) -> None:
    """Lists unread files: one by one those that have a step, the others as the first and a count."""

    def refused(name: str, more: str = "") -> Refused:
        return Refused(files.folder / name, known.reason + more, known.hint, names_step, known.standing)

    if names_step:
        files.refused += [refused(name) for name in names[:MAX_LISTED]]
        names = names[MAX_LISTED:]
    if names:
        files.refused.append(refused(names[0], more_such_files(len(names) - 1)))
