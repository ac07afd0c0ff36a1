"""Files that hold one model in the parts of its parallel ranks: told apart from whole models, and not measured.

Half of a matrix has another spectrum than the matrix. A part is told by a rank in its path together with its siblings
of other ranks, or by the number of ranks in its metadata. Siblings with equal weights are replicas of one whole model.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.archive.findings import Findings
from pipeline.archive.headers import Headers
from pipeline.archive.same import same_weights

_OF = r"(?:[-_]?of[-_]?(?P<count>\d+))?(?![A-Za-z\d])"
_PARALLEL = r"(?:mp|tp|pp|ep|cp|(?:tensor|pipeline|expert|context)?_?(?:model_)?parallel)"
_MODEL_RANK = re.compile(
    rf"(?<![A-Za-z])(?:{_PARALLEL}[-_.]?rank[-_.]?|consolidated\.(?=\d\d(?!\d))|model[-_]part[-_.]?)(?P<number>\d+)"
    rf"(?:(?:_(?=\d{{3}}(?!\d))|-shard)(?P<second>\d+))?{_OF}"
)
_ANY_RANK = re.compile(
    rf"(?<![A-Za-z])(?:rank|shard|mp_shard|tp|pp|mp|consolidated)[-_.]?(?P<number>\d+)(?P<second>(?!)\d)?{_OF}"
)
_LAYER_FILE = re.compile(r"(?<![A-Za-z])layer_\d+-model_(?P<number>\d+)-model_states(?=\.)")
_WORLD_SIZES = (
    "mp_world_size", "model_parallel_size", "tensor_model_parallel_size", "model_parallel_world_size", "tp_size",
    "tensor_parallel_size", "mp_size", "pipeline_model_parallel_size", "pp_size",
)  # fmt: skip

HINT = "DeepSpeed, Megatron and Llama's tools each have a converter to one state dict"

Members = dict[tuple[str, ...], list[Headers]]


@dataclass(frozen=True)
class _RankPart:
    """A file with a rank in its path. `place` is the path with every rank replaced: equal for the parts of one model.

    `strong`: its words name a part of a model; `rank8` alone may be a LoRA's rank.
    """

    headers: Headers
    place: str
    rank: tuple[int, ...]
    count: int
    strong: bool
    layer_file: bool = False


def without_parts(members: Members, findings: Findings) -> Members:
    """The members that are whole models; parts become one problem per kind of file, replicas a note."""
    models: dict[str, list[_RankPart]] = defaultdict(list)
    for headers in (one for group in members.values() for one in group):
        if headers.placed.found.kind == "full" and (part := _part(headers, findings)) is not None:
            models[part.place].append(part)
    dropped: set[int] = set()
    refused: dict[tuple[str, str], list[Headers]] = defaultdict(list)
    for place, parts in models.items():
        ranks = _ranks(parts)
        if ranks is None:
            dropped |= _replicas(parts, findings)
            continue
        dropped |= {id(part.headers) for part in parts}
        refused[re.sub(r"\d+", "N", place), ranks] += [part.headers for part in parts]
    for (_, ranks), files in refused.items():
        count = len(files) - 1
        more = f" (and {count} more such file{'s' if count > 1 else ''})" if count else ""
        findings.problem(files[0].path, f"part of a model split over {ranks}: merge the parts first{more}", HINT)
    kept = {run: [one for one in group if id(one) not in dropped] for run, group in members.items()}
    return {run: group for run, group in kept.items() if group}


def _part(headers: Headers, findings: Findings) -> _RankPart | None:
    """The rank in a file's path or its metadata; None when neither speaks of one."""
    path = findings.relative(headers.path)
    count = max((headers.contents.steps.get(key, 0) for key in _WORLD_SIZES), default=0)
    if layer := _LAYER_FILE.search(path):
        place = f"{path[: layer.start()]}layer*"
        return _RankPart(headers, place, (int(layer["number"]),), count, strong=True, layer_file=True)
    strong = list(_MODEL_RANK.finditer(path))
    ranks = strong or list(_ANY_RANK.finditer(path))
    if not ranks:
        return _RankPart(headers, path, (0,), count, strong=True) if count > 1 else None
    count = max(count, *(int(rank["count"] or 0) for rank in ranks))
    place = (_MODEL_RANK if strong else _ANY_RANK).sub("*", path)
    numbers = (int(number) for rank in ranks for number in (rank["number"], rank["second"]) if number)
    return _RankPart(headers, place, tuple(numbers), count, bool(strong))


def _ranks(parts: Sequence[_RankPart]) -> str | None:
    """How many ranks these parts of one model come from, in words; None when each is a whole model."""
    told = max(part.count for part in parts)
    seen = {part.rank for part in parts}
    if parts[0].layer_file:
        ranks = max(told, len(seen))
        return (f"{ranks} ranks" if ranks > 1 else "one rank") + ", one file per layer"
    if told > 1:
        return f"{told} ranks"
    if told == 1 or _all_equal(parts):
        return None
    numbers = sorted({rank[-1] for rank in seen}) if len(next(iter(seen))) == 1 else list(range(len(seen)))
    if (
        len(seen) > 1
        and numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        and numbers[0] <= parts[0].strong
    ):
        return f"{len(seen)} ranks"
    if parts[0].strong and max(numbers) > 0:
        return f"at least {max(numbers) + 1} ranks"
    return None


def _all_equal(parts: Sequence[_RankPart]) -> bool:
    """Whether several parts hold the same weights: what data-parallel ranks save."""
    first = parts[0].headers.contents
    return len(parts) > 1 and all(same_weights(part.headers.contents, first) for part in parts[1:])


def _replicas(parts: Sequence[_RankPart], findings: Findings) -> set[int]:
    """Of several ranks with the same weights, those beside the first; each is noted."""
    if len(parts) < 2 or not _all_equal(parts):
        return set()
    first, *others = sorted(parts, key=lambda part: part.rank)
    where = findings.relative(first.headers.path)
    for part in others:
        findings.note(part.headers.path, f"skipped: a data-parallel replica with the same weights as {where}")
    return {id(part.headers) for part in others}
