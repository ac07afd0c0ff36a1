"""Walks a folder tree and says which files are checkpoints, which are left, and which are of formats that are not read.

Contents decide, by their first bytes (`folder`); names say what belongs together. Symlinks are followed once; loops,
unreadable folders and files of formats that are not read become problems.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from analyzers.errors import ArchiveError
from pipeline.archive import filenames
from pipeline.archive.findings import Findings
from pipeline.archive.folder import FolderFiles, Refused, more_such_files, sort_files, unread_folder
from pipeline.archive.formats import sharded
from pipeline.archive.guarded import refuse_kernel_folder
from pipeline.archive.steps import step_from_name

ADAPTER_CONFIG = "adapter_config.json"

# Weights under these names are their folder's checkpoint; the first of them that can be read is taken.
_ADAPTER_NAMES = ("adapter_model.safetensors", "adapter_model.bin")
_STANDARD = re.compile(r"^(?:model|pytorch_model|diffusion_pytorch_model)(?:\.safetensors|\.bin)$")
_SHARD = re.compile(r"^(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.[a-z]+)$")
# Megatron-LM's folder of the only rank: it names no run.
_ONLY_RANK = re.compile(r"^mp_rank_0+(?:_0+)*$")
_RANK = re.compile(r"^mp_rank_\d")
MAX_LINKED_FOLDERS = 1000
"""So many folders are searched below links that lead out of the archive."""
_STORE_FILES = ("zarr.json", ".zgroup", ".zarray")


@dataclass(frozen=True)
class FoundCheckpoint:
    """A checkpoint by its files' names. `parts` is the folder relative to the root; `paths` what to open, the first
    that can be read. With `own_folder` the folder is the checkpoint, else it is one file among several. `doubtful`: the
    name suggests training state, so that the file counts only if it holds matrices."""

    folder: Path
    parts: tuple[str, ...]
    paths: tuple[Path, ...]
    kind: Literal["full", "adapter"] = "full"
    own_folder: bool = False
    doubtful: bool = False

    @property
    def stem(self) -> str:
        """The name of the first file without the suffixes of weights."""
        return filenames.stem(self.paths[0])

    @property
    def standard(self) -> bool:
        """Whether the file's name leaves no doubt that it is a checkpoint."""
        return _is_standard(self.paths[0].name) or step_from_name(self.stem, is_file=True) is not None


@dataclass
class _Listing:
    """What the walk has seen so far."""

    findings: Findings
    found: list[FoundCheckpoint] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)


def walk(findings: Findings) -> tuple[list[FoundCheckpoint], list[Refused]]:
    """Every checkpoint below the root, in a stable order, and the files of formats that are not read."""
    listing = _Listing(findings)
    seen: set[tuple[int, int]] = set()
    folders = [findings.root]
    links: list[Path] = []
    outside, linked = False, 0
    while folders or links:
        # Links last: a folder is listed where it is, and a link to it ('latest') is only noted.
        is_link = not folders
        folder = folders.pop() if folders else links.pop(0)
        outside = _leads_out(folder, findings) if is_link else outside
        linked += outside
        if (is_link and _contains_archive(folder, findings)) or linked > MAX_LINKED_FOLDERS:
            continue
        try:
            refuse_kernel_folder(folder)
            stat = folder.stat()
            if (stat.st_dev, stat.st_ino) in seen:
                _note_link(folder, findings)
                continue
            seen.add((stat.st_dev, stat.st_ino))
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except ArchiveError as error:
            findings.problem(folder, error)
            continue
        except OSError as error:
            what = "the target of the symlink does not exist" if is_link else "the folder cannot be opened"
            findings.problem(folder, f"{what}: {error.strerror or error}")
            continue
        are_folders = [_is_folder(entry, findings) for entry in entries]
        files = [entry for entry, is_folder in zip(entries, are_folders, strict=True) if not is_folder]
        below = [entry for entry, is_folder in zip(entries, are_folders, strict=True) if is_folder]
        if any(entry.name in _STORE_FILES for entry in files):
            findings.note(folder, "a Zarr store, not searched")
        elif _classify(folder, files, listing):
            below = [entry for entry in below if not _skipped(entry, below, findings)]
            links += [folder / entry.name for entry in below if entry.is_symlink()]
            folders += [folder / entry.name for entry in reversed(below) if not entry.is_symlink()]
    if linked > MAX_LINKED_FOLDERS:
        reason = f"links lead out of the archive to more than {MAX_LINKED_FOLDERS:,} folders: the rest are not searched"
        findings.problem(findings.root, reason, "analyse each of those folders as its own archive")
    return _without_links_to_listed(listing), listing.refused


def _is_folder(entry: os.DirEntry[str], findings: Findings) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        # A link that leads to itself: asking where it leads is what fails.
        findings.problem(Path(entry.path), error)
        return False


def single_file(path: Path) -> FoundCheckpoint:
    """One weights file, or one index, as the whole archive."""
    own_folder = _is_standard(path.name)
    is_adapter = path.name in _ADAPTER_NAMES and (path.parent / ADAPTER_CONFIG).is_file()
    return FoundCheckpoint(path.parent, (), (path,), "adapter" if is_adapter else "full", own_folder)


def own_weights(folder: Path) -> tuple[Path, ...]:
    """The files that hold a folder's own full weights, the first that can be read is taken; () where it has none."""
    listing = _Listing(Findings(folder))
    try:
        entries = sorted((entry for entry in os.scandir(folder) if not entry.is_dir()), key=lambda entry: entry.name)
    except (OSError, ValueError):
        return ()
    # Nothing else is opened: an archive may have named this folder, and it may be anybody's.
    files = [entry for entry in entries if filenames.is_weights_name(Path(entry.name)) or _is_standard(entry.name)]
    _classify(folder, files, listing)
    return next((one.paths for one in listing.found if one.own_folder and one.kind == "full"), ())


def _skipped(entry: os.DirEntry[str], siblings: list[os.DirEntry[str]], findings: Findings) -> bool:
    """Whether a folder is left out: hidden ones, stores, caches, and what a Trainer is just writing."""
    name = entry.name
    if name.startswith(".") or name.endswith((".zarr", ".zarr.cache")) or name == "__pycache__":
        return True
    if name == "blobs" and any(sibling.name == "snapshots" for sibling in siblings):
        # The Hugging Face cache: the snapshots are links to these, with names.
        return True
    finished = filenames.without_temporary(name)
    if finished is None or step_from_name(finished) is None or _holds_steps(Path(entry.path)):
        return False
    text = "skipped: its name marks it as unfinished (still being written, or left behind by an interruption)"
    findings.note(Path(entry.path), f"{text}; rename it to {finished} if it is complete")
    return True


def _holds_steps(folder: Path) -> bool:
    """Whether a folder has step folders in it: then it is a run, whatever its own name."""
    try:
        with os.scandir(folder) as entries:
            return any(entry.is_dir() and step_from_name(entry.name) is not None for entry in entries)
    except OSError:
        # Reported when it is opened.
        return True


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _leads_out(link: Path, findings: Findings) -> bool:
    """Whether a link leads out of the archive."""
    return not _real(link).is_relative_to(_real(findings.root))


def _contains_archive(link: Path, findings: Findings) -> bool:
    """Whether a link leads to a folder around the archive, such as /; that is a problem, and not searched."""
    target, root = _real(link), _real(findings.root)
    if target == root or not root.is_relative_to(target):
        return False
    findings.problem(link, f"a symlink loop: it leads to {target}, which contains it")
    return True


def _note_link(folder: Path, findings: Findings) -> None:
    target, here = _real(folder), _real(folder.parent)
    if target == here or target in here.parents:
        findings.problem(folder, f"a symlink loop: it leads to {target}, which contains it")
    else:
        root = _real(findings.root)
        where = findings.relative(findings.root / target.relative_to(root)) if target.is_relative_to(root) else target
        findings.note(folder, f"a link to {where}, which is already listed")


def _classify(folder: Path, entries: list[os.DirEntry[str]], listing: _Listing) -> bool:
    """Adds what one folder's files are; False when its subfolders belong to an unread checkpoint."""
    names = [entry.name for entry in entries]
    if (refused := unread_folder(folder, names)) is not None:
        listing.refused.append(refused)
        return False
    files = sort_files(folder, entries, any(map(_is_standard, names)), listing.findings)
    files.weights = _without_shards(folder, files.weights, listing.findings)
    listing.found += _checkpoints(files, ADAPTER_CONFIG in names, listing.findings)
    listing.refused += files.refused
    return True


def _without_shards(folder: Path, weights: list[str], findings: Findings) -> list[str]:
    """The weights files that no index claims; a shard without an index is a problem."""
    indices = [name for name in weights if sharded.is_index(Path(name))]
    claimed: set[str] = set()
    for name in indices:
        try:
            claimed |= set(sharded.shards(folder / name))
        except ArchiveError:
            # Found again, and reported, when the index is read; its shards go by their names.
            stem = name.removesuffix(sharded.INDEX_SUFFIX).rpartition(".")[0]
            claimed |= {one for one in weights if (match := _SHARD.match(one)) and match["stem"] == stem}
    kept, orphans = [], []
    for name in weights:
        match = _SHARD.match(name)
        if match and name not in claimed and int(match["count"]) > 1:
            orphans.append(name)
        elif name not in claimed:
            kept.append(name)
    if orphans:
        more = more_such_files(len(orphans) - 1)
        findings.problem(
            folder / orphans[0], f"a shard without its index (*.index.json){more}", "copy the index as well"
        )
    return kept


def _is_standard(name: str) -> bool:
    return bool(_STANDARD.match(name)) or name in _ADAPTER_NAMES or sharded.is_index(Path(name))


def _preference(name: str) -> tuple[bool, bool, bool, str]:
    """safetensors before torch's files, plain names before variants, a single file before an index."""
    return (
        ".safetensors" not in name,
        not name.startswith(("model.", "pytorch_model.", "diffusion_pytorch_model.")),
        sharded.is_index(Path(name)),
        name,
    )


def _parts(folder: Path, findings: Findings) -> tuple[str, ...]:
    """The folder below the root, without that of the only rank of a parallel training."""
    parts = folder.relative_to(findings.root).parts
    if not parts or not _ONLY_RANK.match(folder.name):
        return parts
    ranks = [name for name in os.listdir(folder.parent) if _RANK.match(name)]  # noqa: PTH208 - names are enough
    return parts[:-1] if len(ranks) == 1 else parts


def _checkpoints(files: FolderFiles, has_adapter: bool, findings: Findings) -> Iterator[FoundCheckpoint]:
    """The checkpoints among a folder's weights files: the folder's own, and each file that stands for itself."""
    folder, weights = files.folder, files.weights
    parts = _parts(folder, findings)
    adapters = [name for name in _ADAPTER_NAMES if name in weights]
    is_adapter = has_adapter and bool(adapters)
    others = [name for name in weights if name not in adapters]
    standard = sorted(filter(_is_standard, others), key=_preference)
    others = [name for name in others if name not in standard]
    if is_adapter:
        yield FoundCheckpoint(folder, parts, tuple(folder / name for name in adapters), "adapter", own_folder=True)
        for name in standard:
            findings.problem(
                folder / name, f"not read: full weights beside {adapters[0]}, which is read", "move them to base/"
            )
    elif adapters:
        findings.problem(
            folder / adapters[0], f"no {ADAPTER_CONFIG} beside it, so its α and rank are unknown: not read"
        )
    elif has_adapter and not weights:
        findings.problem(folder / ADAPTER_CONFIG, f"no weights beside it: {' or '.join(_ADAPTER_NAMES)} is missing")
    if standard and not is_adapter:
        yield FoundCheckpoint(folder, parts, tuple(folder / name for name in standard), own_folder=True)
    named = [
        name
        for name in others
        if (step := step_from_name(filenames.stem(Path(name)), is_file=True)) and step.rank != "number"
    ]
    if not standard:
        # Beside model.safetensors, model_1.safetensors is a second model, not step 1.
        named = [name for name in others if step_from_name(filenames.stem(Path(name)), is_file=True)]
    if standard or adapters:
        for name in others:
            if name not in named:
                findings.note(folder / name, f"skipped: the checkpoint here is {(adapters or standard)[0]}")
        others = named
    for name in others:
        yield FoundCheckpoint(folder, parts, (folder / name,), doubtful=name in files.doubtful or bool(standard))


def _without_links_to_listed(listing: _Listing) -> list[FoundCheckpoint]:
    """A link to a file that is listed itself ('latest.pt') is noted, not listed again."""
    real = {_real(path) for one in listing.found for path in one.paths if not path.is_symlink()}
    kept = []
    for one in listing.found:
        first = one.paths[0]
        if first.is_symlink() and _real(first) in real:
            listing.findings.note(first, "a link to a file that is already listed")
        else:
            kept.append(one)
    return kept
