"""Walks a folder tree and says which files are checkpoints, which are left, and which cannot be read, by name alone.

Symlinks are followed once; loops, unreadable folders and files of formats that are not read become problems.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from analyzers.errors import ArchiveError
from pipeline.archive.formats import NOT_READ, SUFFIXES, sharded
from pipeline.archive.steps import step_from_name
from pipeline.archive.types import Problem

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


@dataclass
class Listing:
    """What the walk has seen so far."""

    found: list[Found] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left: Counter[str] = field(default_factory=Counter)


def walk(root: Path) -> Listing:
    """Every checkpoint below `root`, in a stable order, with the problems of getting at them."""
    listing = Listing()
    seen: set[tuple[int, int]] = set()
    folders = [root]
    links: list[Path] = []
    while folders or links:
        # Links last: a folder is listed where it is, and a link to it ('latest') is only noted.
        is_link = not folders
        folder = folders.pop() if folders else links.pop(0)
        relative = folder.relative_to(root).as_posix()
        try:
            stat = folder.stat()
            if (stat.st_dev, stat.st_ino) in seen:
                _note_link(folder, relative, listing)
                continue
            seen.add((stat.st_dev, stat.st_ino))
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            files = [entry for entry in entries if entry.is_file() or (entry.is_symlink() and not entry.is_dir())]
            below = [entry for entry in entries if entry.is_dir() and not _skipped(entry.name)]
        except OSError as error:
            what = "symlink leads nowhere" if is_link else "folder cannot be opened"
            listing.problems.append(Problem(relative, f"{what}: {error.strerror or error}"))
            continue
        names = [entry.name for entry in files]
        if any(name in _STORE_FILES for name in names):
            listing.notes.append(f"{relative}: a Zarr store, not looked into")
            continue
        if _classify(folder, root, names, listing):
            links += [folder / entry.name for entry in below if entry.is_symlink()]
            folders += [folder / entry.name for entry in reversed(below) if not entry.is_symlink()]
    _drop_links_to_listed(listing, root)
    if listing.left:
        counts = (
            f"{name}" + (f" ({count} times)" if count > 1 else "") for name, count in sorted(listing.left.items())
        )
        listing.notes.append("left, as training state: " + ", ".join(counts))
    return listing


def _skipped(name: str) -> bool:
    """Hidden folders, stores, caches, and what a Trainer is just writing."""
    return name.startswith((".", "tmp-")) or name.endswith((".zarr", ".zarr.cache", ".tmp")) or name == "__pycache__"


def _note_link(folder: Path, relative: str, listing: Listing) -> None:
    target = folder.resolve()
    if target == folder.parent.resolve() or target in folder.parent.resolve().parents:
        listing.problems.append(Problem(relative, f"symlink loop: it leads to {target}, which contains it"))
    else:
        listing.notes.append(f"{relative}: a link to {target}, which is listed already")


def _classify(folder: Path, root: Path, names: list[str], listing: Listing) -> bool:
    """Adds what one folder's files are; False when its subfolders belong to an unread checkpoint."""
    relative = folder.relative_to(root)
    for name, reason in _FOLDER_FORMATS.items():
        if name in names:
            listing.problems.append(Problem(relative.as_posix(), reason))
            return False
    weights: list[str] = []
    refused: dict[str, list[str]] = {}
    for name in names:
        path = Path(name)
        if name.startswith("."):
            continue
        if sharded.is_index(path):
            weights.append(name)
        elif path.suffix.lower() in (*SUFFIXES, *NOT_READ):
            if _SIDE_FILE.search(path.stem):
                listing.left[re.sub(r"\d+", "N", name)] += 1
            elif _ZERO_3.match(name):
                refused.setdefault("DeepSpeed ZeRO-3 shards need merging (zero_to_fp32.py), not read", []).append(name)
            elif path.suffix.lower() in SUFFIXES:
                weights.append(name)
            else:
                refused.setdefault(NOT_READ[path.suffix.lower()], []).append(name)
    weights = _without_shards(folder, relative, weights, listing)
    found = list(_checkpoints(folder, relative, weights, ADAPTER_CONFIG in names, listing))
    listing.found += found
    for reason, files in refused.items():
        where = (relative / files[0]).as_posix() + (f" and {len(files) - 1} more" if len(files) > 1 else "")
        if any(one.own_folder for one in found):
            listing.notes.append(f"{where}: {reason}; {found[0].paths[0].name} beside it is")
        else:
            listing.problems.append(Problem(where, reason))
    return True


def _without_shards(folder: Path, relative: Path, weights: list[str], listing: Listing) -> list[str]:
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
        where = (relative / orphans[0]).as_posix() + (f" and {len(orphans) - 1} more" if len(orphans) > 1 else "")
        listing.problems.append(Problem(where, "a shard without its index (*.index.json)", hint="copy the index too"))
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


def _checkpoints(
    folder: Path, relative: Path, weights: list[str], has_adapter: bool, listing: Listing
) -> Iterator[Found]:
    parts = relative.parts
    adapters = [name for name in _ADAPTER_NAMES if name in weights]
    if adapters and has_adapter:
        yield Found(folder, parts, tuple(folder / name for name in adapters), "adapter", own_folder=True)
        weights = [name for name in weights if name not in adapters]
    elif has_adapter and not any(map(_is_standard, weights)):
        listing.problems.append(
            Problem((relative / ADAPTER_CONFIG).as_posix(), f"no weights beside it: {' or '.join(_ADAPTER_NAMES)}")
        )
    elif adapters:
        listing.problems.append(
            Problem((relative / adapters[0]).as_posix(), f"no {ADAPTER_CONFIG} beside it: its α and rank are unknown")
        )
        weights = [name for name in weights if name not in adapters]
    standard = sorted(filter(_is_standard, weights), key=_preference)
    others = [name for name in weights if name not in standard]
    stepped = [name for name in others if step_from_name(Path(name).stem, is_file=True)]
    if standard and adapters and has_adapter:
        problem = f"full weights beside an adapter ({adapters[0]}), which is read"
        listing.problems.append(Problem((relative / standard[0]).as_posix(), problem, hint="move them to base/"))
    elif standard:
        yield Found(folder, parts, tuple(folder / name for name in standard), own_folder=True)
    if standard or (adapters and has_adapter):
        taken = (standard or adapters)[0]
        unnamed = [name for name in others if name not in stepped]
        listing.notes += [f"{(relative / name).as_posix()}: left: the checkpoint is {taken}" for name in unnamed]
        others = stepped
    for name in others:
        alone = len(others) == 1 and not stepped and not standard
        yield Found(folder, parts, (folder / name,), own_folder=alone)


def _drop_links_to_listed(listing: Listing, root: Path) -> None:
    """A link to a file that is listed itself ('latest.pt') is noted, not listed again."""
    real = {path for one in listing.found for path in one.paths if not path.is_symlink()}
    kept = []
    for one in listing.found:
        first = one.paths[0]
        if first.is_symlink() and first.resolve() in {path.resolve() for path in real}:
            listing.notes.append(f"{first.relative_to(root).as_posix()}: a link to a file that is listed already")
        else:
            kept.append(one)
    listing.found = kept
