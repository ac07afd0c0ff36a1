"""Walks a folder tree and says which files are checkpoints, which are left, and which cannot be read, by name alone.

Symlinks are followed once; loops, unreadable folders and files of formats that are not read become problems.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from analyzers.errors import ArchiveError
from pipeline.archive.findings import Findings
from pipeline.archive.formats import MAY_BE_ANYTHING, NOT_READ, SUFFIXES, sharded
from pipeline.archive.steps import step_from_name

ADAPTER_CONFIG = "adapter_config.json"

# Weights under these names are their folder's checkpoint; the first of them that can be read is taken.
_ADAPTER_NAMES = ("adapter_model.safetensors", "adapter_model.bin")
_STANDARD = re.compile(r"^(?:model|pytorch_model|diffusion_pytorch_model)(?:\.safetensors|\.bin)$")
_SIDE_FILE = re.compile(
    r"(?:^|[-_.])(?:optim|optimizer|optimizers|optim_states|scheduler|lr_scheduler|rng_states?|rng_state_\d+|"
    r"random_states?|training_args|train_args|scaler|grad_scaler|trainer_state|dataloader|sampler)(?:$|[-_.\d])",
    re.IGNORECASE,
)
_SHARD = re.compile(r"^(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.[a-z]+)$")
_ZERO_3 = re.compile(r"^zero_pp_rank_\d+_mp_rank_\d+_model_states\.pt$")
_ZERO_3_REASON = "DeepSpeed ZeRO-3 shards need merging first (zero_to_fp32.py)"
# Of unread checkpoints of one folder so many are listed one by one.
MAX_LISTED = 20
# Formats that are told by a file without a suffix: the whole folder is one checkpoint.
_FOLDER_FORMATS = {
    "manifest.ocdbt": "Orbax checkpoints are not read yet",
    "_METADATA": "Orbax checkpoints are not read yet",
    "_CHECKPOINT_METADATA": "Orbax checkpoints are not read yet",
}
_STORE_FILES = ("zarr.json", ".zgroup", ".zarray")


@dataclass(frozen=True)
class Found:
    """A checkpoint by its files' names. `parts` is the folder relative to the root; `paths` what to open, the first
    that can be read. With `own_folder` the folder is the checkpoint, else it is one file among several."""

    folder: Path
    parts: tuple[str, ...]
    paths: tuple[Path, ...]
    kind: Literal["full", "adapter"] = "full"
    own_folder: bool = False

    @property
    def standard(self) -> bool:
        """Whether the file's name leaves no doubt that it is a checkpoint."""
        first = self.paths[0]
        return _is_standard(first.name) or step_from_name(first.stem, is_file=True) is not None


@dataclass(frozen=True)
class Refused:
    """A file, or the first of several, of a format that is not read. `names_step`: it is one checkpoint of several."""

    path: Path
    reason: str
    names_step: bool = False


@dataclass
class _Listing:
    """What the walk has seen so far. `left` has the names of training state by folder, numbers as N."""

    findings: Findings
    found: list[Found] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    left: dict[Path, list[str]] = field(default_factory=dict)


def walk(findings: Findings) -> tuple[list[Found], list[Refused]]:
    """Every checkpoint below the root, in a stable order, and the files of formats that are not read."""
    listing = _Listing(findings)
    seen: set[tuple[int, int]] = set()
    folders = [findings.root]
    links: list[Path] = []
    while folders or links:
        # Links last: a folder is listed where it is, and a link to it ('latest') is only noted.
        is_link = not folders
        folder = folders.pop() if folders else links.pop(0)
        try:
            stat = folder.stat()
            if (stat.st_dev, stat.st_ino) in seen:
                _note_link(folder, findings)
                continue
            seen.add((stat.st_dev, stat.st_ino))
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            what = "symlink leads nowhere" if is_link else "folder cannot be opened"
            findings.problem(folder, f"{what}: {error.strerror or error}")
            continue
        are_folders = [_is_folder(entry, findings) for entry in entries]
        names = [entry.name for entry, is_folder in zip(entries, are_folders, strict=True) if not is_folder]
        if any(name in _STORE_FILES for name in names):
            findings.note(folder, "a Zarr store, not looked into")
        elif _classify(folder, names, listing):
            below = [entry for entry, is_folder in zip(entries, are_folders, strict=True) if is_folder]
            below = [entry for entry in below if not _skipped(entry.name)]
            links += [folder / entry.name for entry in below if entry.is_symlink()]
            folders += [folder / entry.name for entry in reversed(below) if not entry.is_symlink()]
    for folder, names in listing.left.items():
        findings.note(folder, "left, as training state: " + ", ".join(sorted(dict.fromkeys(names))))
    return _without_links_to_listed(listing), listing.refused


def _is_folder(entry: os.DirEntry[str], findings: Findings) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        # A link that leads to itself: asking where it leads is what fails.
        findings.problem(Path(entry.path), error)
        return False


def single_file(path: Path) -> Found:
    """One weights file, or one index, as the whole archive."""
    own_folder = _is_standard(path.name)
    is_adapter = path.name in _ADAPTER_NAMES and (path.parent / ADAPTER_CONFIG).is_file()
    return Found(path.parent, (), (path,), "adapter" if is_adapter else "full", own_folder)


def _skipped(name: str) -> bool:
    """Hidden folders, stores, caches, and what a Trainer is just writing."""
    return name.startswith((".", "tmp-")) or name.endswith((".zarr", ".zarr.cache", ".tmp")) or name == "__pycache__"


def _note_link(folder: Path, findings: Findings) -> None:
    target = folder.resolve()
    if target == folder.parent.resolve() or target in folder.parent.resolve().parents:
        findings.problem(folder, f"symlink loop: it leads to {target}, which contains it")
    else:
        findings.note(folder, f"a link to {target}, which is listed already")


def _classify(folder: Path, names: list[str], listing: _Listing) -> bool:
    """Adds what one folder's files are; False when its subfolders belong to an unread checkpoint."""
    for name, reason in _FOLDER_FORMATS.items():
        if name in names:
            listing.refused.append(Refused(folder, reason, names_step=True))
            return False
    weights: list[str] = []
    refused: dict[tuple[str, bool], list[str]] = {}
    for name in names:
        path = Path(name)
        suffix = path.suffix.lower()
        if name.startswith("."):
            continue
        if sharded.is_index(path):
            weights.append(name)
        elif suffix not in SUFFIXES and suffix not in NOT_READ:
            continue
        elif _SIDE_FILE.search(path.stem) or (suffix == ".distcp" and _SIDE_FILE.search(folder.name)):
            listing.left.setdefault(folder, []).append(re.sub(r"\d+", "N", name))
        elif _ZERO_3.match(name):
            refused.setdefault((_ZERO_3_REASON, False), []).append(name)
        elif suffix in SUFFIXES:
            weights.append(name)
        elif suffix in MAY_BE_ANYTHING and step_from_name(path.stem, is_file=True) is None:
            listing.findings.note(folder / name, f"not taken for a checkpoint: {NOT_READ[suffix]}")
        else:
            names_step = step_from_name(path.stem, is_file=True) is not None
            refused.setdefault((NOT_READ[suffix], names_step), []).append(name)
    weights = _without_shards(folder, weights, listing.findings)
    listing.found += _checkpoints(folder, weights, ADAPTER_CONFIG in names, listing.findings)
    for (reason, names_step), files in refused.items():
        if names_step:
            listing.refused += [Refused(folder / name, reason, names_step) for name in files[:MAX_LISTED]]
            files = files[MAX_LISTED:]
        if files:
            reason += f" (and {len(files) - 1} more such files)" if len(files) > 1 else ""
            listing.refused.append(Refused(folder / files[0], reason))
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
        more = f" (and {len(orphans) - 1} more such files)" if len(orphans) > 1 else ""
        findings.problem(folder / orphans[0], f"a shard without its index (*.index.json){more}", "copy the index too")
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


def _checkpoints(folder: Path, weights: list[str], has_adapter: bool, findings: Findings) -> Iterator[Found]:
    """The checkpoints among a folder's weights files: the folder's own, and each file that stands for itself."""
    parts = folder.relative_to(findings.root).parts
    adapters = [name for name in _ADAPTER_NAMES if name in weights]
    is_adapter = has_adapter and bool(adapters)
    others = [name for name in weights if name not in adapters]
    standard = sorted(filter(_is_standard, others), key=_preference)
    others = [name for name in others if name not in standard]
    if is_adapter:
        yield Found(folder, parts, tuple(folder / name for name in adapters), "adapter", own_folder=True)
        for name in standard:
            findings.problem(folder / name, f"full weights beside {adapters[0]}, which is read", "move them to base/")
    elif adapters:
        findings.problem(folder / adapters[0], f"no {ADAPTER_CONFIG} beside it: its α and rank are unknown")
    elif has_adapter and not weights:
        findings.problem(folder / ADAPTER_CONFIG, f"no weights beside it: {' or '.join(_ADAPTER_NAMES)}")
    if standard and not is_adapter:
        yield Found(folder, parts, tuple(folder / name for name in standard), own_folder=True)
    named = [
        name for name in others if (step := step_from_name(Path(name).stem, is_file=True)) and step.rank != "number"
    ]
    if not standard:
        # Beside model.safetensors, model_1.safetensors is a second model, not step 1.
        named = [name for name in others if step_from_name(Path(name).stem, is_file=True)]
    if standard or adapters:
        for name in others:
            if name not in named:
                findings.note(folder / name, f"left: the checkpoint is {(adapters or standard)[0]}")
        others = named
    alone = len(others) == 1 and not named
    for name in others:
        yield Found(folder, parts, (folder / name,), own_folder=alone)


def _without_links_to_listed(listing: _Listing) -> list[Found]:
    """A link to a file that is listed itself ('latest.pt') is noted, not listed again."""
    real = {path.resolve() for one in listing.found for path in one.paths if not path.is_symlink()}
    kept = []
    for one in listing.found:
        first = one.paths[0]
        if first.is_symlink() and first.resolve() in real:
            listing.findings.note(first, "a link to a file that is listed already")
        else:
            kept.append(one)
    return kept
