"""Checkpoints in several files: an index (`*.safetensors.index.json`, `*.bin.index.json`) that names each shard.

A missing or damaged shard is a problem that names it; the tensors of the others can still be read.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from analyzers.errors import ArchiveError
from pipeline.archive.formats.contents import MAX_TENSORS, BytePlace, FileContents
from pipeline.archive.jsonfile import read_json
from pipeline.archive.text import real_path, visible
from pipeline.archive.types import Problem

INDEX_SUFFIX = ".index.json"
MAX_LISTED = 1000
"""Tensors that a shard lacks are listed one by one up to here."""


def is_index(path: Path) -> bool:
    """Whether a file is the index of a sharded checkpoint, by its name."""
    return path.name.endswith((".safetensors.index.json", ".bin.index.json", ".pt.index.json", ".pth.index.json"))


def shards(path: Path) -> dict[str, list[str]]:
    """Shard file name → the tensors that the index places in it. ArchiveError for an index that names other folders."""
    index = read_json(path)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ArchiveError(f"{path}: no weight_map, which names each tensor's file")
    if len(weight_map) > MAX_TENSORS:
        raise ArchiveError(f"{path}: it names {len(weight_map)} tensors; more than {MAX_TENSORS} are refused")
    found: dict[str, list[str]] = {}
    for tensor, file in weight_map.items():
        plain = isinstance(file, str) and file and PurePosixPath(file).name == file and "\\" not in file
        if not plain or file in (".", ".."):
            raise ArchiveError(f"{path}: {tensor}: {json.dumps(file)[:200]} is not a file beside the index")
        found.setdefault(file, []).append(visible(tensor))
    return found


def scan_shards(path: Path, scan_one: Callable[[Path], FileContents]) -> FileContents:
    """All shards of an index, read by their own format's `scan_one`, as one checkpoint."""
    places: dict[str, BytePlace] = {}
    files, notes, problems = [path], [], []
    tied: list[tuple[str, ...]] = []
    steps: dict[str, int] = {}
    metrics: dict[str, float] = {}
    for name, expected in sorted(shards(path).items()):
        file = real_path(path.with_name(name))
        try:
            contents = scan_one(file)
        except FileNotFoundError:
            reason = f"this shard of {path.name} is missing: {_listed(expected)} cannot be read"
            problems.append(Problem(str(file), reason, hint="copy it next to the index"))
            continue
        except (ArchiveError, OSError) as error:
            reason = str(error).removeprefix(f"{file}: ")
            problems.append(Problem(str(file), f"{reason}: {_listed(expected)} cannot be read"))
            continue
        named = set(expected)
        unnamed = [tensor for tensor in contents.places if tensor not in named]
        if unnamed:
            notes.append(f"{name} also holds {_listed(unnamed)}, which {path.name} does not name")
        refused = {problem.tensor for problem in contents.problems}
        problems += contents.problems
        absent = [tensor for tensor in expected if tensor not in contents.places and tensor not in refused]
        reason = f"{path.name} says it is in this shard, which does not hold it"
        problems += [Problem(str(file), reason, tensor) for tensor in absent[:MAX_LISTED]]
        if len(absent) > MAX_LISTED:
            more = len(absent) - MAX_LISTED
            problems.append(
                Problem(str(file), f"{path.name} says {more} more tensors are in it, which it does not hold")
            )
        for tensor, place in contents.places.items():
            if tensor in places:
                problems.append(Problem(str(file), f"is also in {places[tensor].path.name}", tensor))
            places.setdefault(tensor, place)
        files += contents.files
        notes += contents.notes
        tied += contents.tied
        steps = {**contents.steps, **steps}
        metrics = {**contents.metrics, **metrics}
    if not places:
        raise ArchiveError(f"{path}: none of its shards can be read: {'; '.join(str(problem) for problem in problems)}")
    return FileContents(places, tuple(files), steps, {}, tuple(tied), tuple(problems), tuple(notes), metrics=metrics)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more tensors" if len(names) > 3 else "")
