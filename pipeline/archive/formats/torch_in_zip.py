"""Zip files with torch files inside, as Stable-Baselines3 saves an agent: `policy.pth`, its optimizer's, and `data`.

The torch files are read where they lie. A file whose content is training state is ignored. Of several files with
weights, the one with the policy or the model keeps its tensors' names; the others' get their file's name in front.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from analyzers.errors import ArchiveError
from pipeline.archive import filenames
from pipeline.archive.formats import torch_legacy, torch_zip
from pipeline.archive.formats.contents import BytePlace, FileContents
from pipeline.archive.jsonfile import MAX_BYTES, parse_json
from pipeline.archive.types import Problem
from pipeline.archive.zip_members import Region, check_ratio, data_offset, is_stored, open_zip, read_member

NAME = "torch-in-zip"

MAX_MEMBERS = 64
MAX_UNPACKED_BYTES = 256 << 20
_MAIN = re.compile(r"^(?:policy|model|network|net|weights|state_dict)$", re.IGNORECASE)
_STEP_KEYS = ("num_timesteps", "global_step", "step", "iteration")


def is_one_checkpoint(members: Sequence[Path]) -> bool:
    """Whether a zip's weights files are parts of one checkpoint: torch files in one folder, without numbers."""
    one_folder = len({member.parent for member in members}) == 1
    torch_only = all(member.suffix.lower() != ".safetensors" for member in members)
    numbered = len(members) > 1 and any(re.search(r"\d", filenames.stem(member)) for member in members)
    return one_folder and torch_only and not numbered and len(members) <= MAX_MEMBERS


def scan(path: Path) -> FileContents:
    """The weights of all torch files in one zip file."""
    region = Region(path)
    with open_zip(region) as archive:
        infos = [info for info in archive.infolist() if filenames.is_weights_name(Path(info.filename))]
        steps = _steps(archive, region)
        parts = {info.filename: _scan_member(region, info) for info in infos if "__MACOSX" not in info.filename}
    return _joined(path, parts, steps)


def _scan_member(region: Region, info: zipfile.ZipInfo) -> FileContents:
    """One torch file inside of the zip."""
    if is_stored(info):
        with region.open() as file:
            start = data_offset(file, region, info)
        inner = Region(region.path, start, info.file_size, name=info.filename)
    elif info.file_size > MAX_UNPACKED_BYTES:
        raise ArchiveError(
            f"{region}: {info.filename}: unpacks to {info.file_size:,} bytes; at most {MAX_UNPACKED_BYTES:,} are read "
            "from inside a zip file: unpack it"
        )
    else:
        check_ratio(info, region)
        inner = Region(region.path, 0, info.file_size, info.filename, info.filename)
    with inner.open() as file:
        first = file.read(64)
    if torch_legacy.is_legacy(first):
        return torch_legacy.scan_region(inner)
    if first[:2] == b"PK":
        return torch_zip.scan_region(inner)
    raise ArchiveError(f"{inner}: begins with {first[:8]!r}: not a torch file")


def _steps(archive: zipfile.ZipFile, region: Region) -> dict[str, int]:
    """The step in the JSON beside the torch files: Stable-Baselines3's `data`, or any *.json."""
    steps: dict[str, int] = {}
    for info in archive.infolist():
        name = PurePosixPath(info.filename).name
        if (name != "data" and not name.endswith(".json")) or info.file_size > MAX_BYTES:
            continue
        try:
            values = parse_json(read_member(archive, region, info, MAX_BYTES))
        except (ValueError, RecursionError):
            # Not JSON, or none that can be read: then it tells no step, and nothing else is asked of it.
            continue
        for key in _STEP_KEYS:
            value = values.get(key) if isinstance(values, dict) else None
            if type(value) is int and 0 <= value < 2**62:
                steps.setdefault("global_step" if key == "num_timesteps" else key, value)
    return steps


def _joined(path: Path, parts: dict[str, FileContents], steps: dict[str, int]) -> FileContents:
    """The members' contents as those of one file."""
    with_weights = [name for name, part in parts.items() if part.places]
    main = next((name for name in with_weights if _MAIN.match(filenames.stem(Path(name)))), None)
    main = main or (with_weights[0] if len(with_weights) == 1 else None)
    places: dict[str, BytePlace] = {}
    tied: list[tuple[str, ...]] = []
    problems: list[Problem] = []
    metrics: dict[str, float] = {}
    notes: list[str] = []
    for member, part in parts.items():
        prefix = "" if member == main else f"{filenames.stem(Path(member))}."
        for name, place in part.places.items():
            places[prefix + name] = replace(place, header=replace(place.header, name=prefix + name))
        tied += [tuple(prefix + name for name in names) for names in part.tied]
        problems += [replace(problem, tensor=prefix + (problem.tensor or "")) for problem in part.problems]
        notes += [f"ignored as training state: {member}"] if part.training_state and not part.places else part.notes
        steps = {**part.steps, **steps}
        metrics = {**part.metrics, **metrics}
    config = next((part.config for part in parts.values() if part.config), {})
    return FileContents(places, (path,), steps, config, tuple(tied), tuple(problems), tuple(notes), metrics=metrics)
