"""One clock for all checkpoints of a run: the number by which they are told apart and ordered.

It is what the user's pattern finds, else the first key of the metadata that every checkpoint of the run has with a
value of its own and that counts no coarser than the names, else the number in the names. A checkpoint without that
number (a final.pth) gets its step from a key that equals the step, or differs from it by one constant, in all others.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

from pipeline.archive.headers import Headers
from pipeline.archive.name_parts import RANKS
from pipeline.archive.steps import EPOCH_KEYS, METADATA_KEYS, UNITS

StepSource = Literal["metadata", "name", "catalog", "none"]
_STATE = "trainer_state.json"
_COUNTS_EPOCHS = re.compile(r"(?:^|_)epochs?(?:$|_)")
KEYS = (_STATE, *METADATA_KEYS, *EPOCH_KEYS)


@dataclass(frozen=True)
class Step:
    """A checkpoint's step, where it was found, and what it counts: "step", "epoch" or "episode"."""

    value: int
    source: StepSource
    unit: str = "step"


def steps_of(members: Sequence[Headers], scale: float) -> dict[Path, Step]:
    """The steps of a run's checkpoints by their files; one that nothing tells is left out."""
    clock = next((one.placed.clock for one in members if one.placed.clock), "")
    if clock:
        return {
            one.path: Step(numbers(one)[clock], "metadata", UNITS.get(clock, "step"))
            for one in members
            if clock in numbers(one)
        }
    named = [one for one in members if _is_named(one)]
    key = None if any(_by_pattern(one) for one in named) else _common_key(named)
    if key not in (None, _STATE) and _names_count_epochs(named, members, str(key)):
        key = None
    known = [(one, _named(one, key, scale)) for one in named]
    unit = _unit(known) if key is None and scale == 1 else None
    if unit is not None:
        known = [(one, replace(step, unit=unit)) for one, step in known]
    pairs = [(numbers(one), step) for one, step in known]
    others = ((one.path, _unnamed(numbers(one), pairs)) for one in members if not _is_named(one))
    return {one.path: step for one, step in known} | {path: step for path, step in others if step is not None}


@dataclass(frozen=True)
class Contradiction:
    """A checkpoint whose name and metadata give different numbers for the same count."""

    path: Path
    in_name: int
    in_metadata: int


def contradictions(members: Sequence[Headers], told: Mapping[Path, Step]) -> list[Contradiction]:
    """The checkpoints whose names and metadata disagree about the step, in the order of their names' steps. A count
    that starts at 0 in one place and at 1 in the other is no disagreement."""
    differing = []
    for one in members:
        name, step = one.placed.named, told.get(one.path)
        if name is None or step is None or not _is_named(one) or step.unit != "step" or name.unit != "step":
            continue
        own = numbers(one)
        key = next((key for key in (_STATE, *METADATA_KEYS) if key in own), None)
        value = step.value if step.source == "metadata" else None if key is None else own[key]
        if step.source in ("metadata", "name") and value is not None and value != name.step:
            differing.append(Contradiction(one.path, name.step, value))
    if {one.in_metadata - one.in_name for one in differing} in ({1}, {-1}):
        return []
    return sorted(differing, key=lambda one: one.in_name)


def _named(headers: Headers, key: str | None, scale: float) -> Step:
    """The step of a checkpoint whose name tells one."""
    named = headers.placed.named
    assert named is not None
    if key is not None:
        return Step(numbers(headers)[key], "metadata", UNITS.get(key, "step"))
    source: StepSource = "catalog" if _by_pattern(headers) or scale != 1 else "name"
    return Step(round(named.step * scale), source, named.unit if scale == 1 else "step")


def _unit(known: Sequence[tuple[Headers, Step]]) -> str | None:
    """What numbers without a word of their own count, where the epochs in the metadata are the same numbers."""
    if any(one.placed.named is None or RANKS.get(one.placed.named.rank, 9) < RANKS["checkpoint"] for one, _ in known):
        return None
    others = {key for one, _ in known for key in numbers(one) if _COUNTS_EPOCHS.search(key)}
    for key in (*EPOCH_KEYS, *sorted(others.difference(EPOCH_KEYS))):
        pairs = [(numbers(one)[key], step.value) for one, step in known if key in numbers(one)]
        if len(pairs) == len(known) and _offset(pairs, surely=True) is not None:
            return UNITS.get(key, "epoch")
    return None


def _unnamed(own: Mapping[str, int], known: Sequence[tuple[Mapping[str, int], Step]]) -> Step | None:
    """The step of a checkpoint whose name tells none, from its metadata and those of the checkpoints that have one."""
    for key in (*KEYS, *sorted(own)):
        same = [(values[key], step) for values, step in known if key in values]
        offset = _offset([(value, step.value) for value, step in same], surely=key in KEYS)
        if key in own and offset is not None and own[key] + offset >= 0:
            return Step(own[key] + offset, "metadata", same[0][1].unit)
    # Where no checkpoint with a named step has the key, nothing speaks against one that counts the same unit.
    units = {step.unit for _, step in known}
    for key in KEYS:
        unit = UNITS.get(key, "step")
        if key in own and units <= {unit} and not any(key in values for values, _ in known):
            return Step(own[key], "metadata", unit)
    return None


def numbers(headers: Headers) -> dict[str, int]:
    """The whole numbers that a checkpoint's metadata tell, by key; the Trainer's own step under its file's name."""
    state = {_STATE: headers.state.step} if headers.state else {}
    return {**headers.contents.steps, **state}


def _is_named(headers: Headers) -> bool:
    return headers.placed.named is not None and not headers.placed.beside_steps


def _by_pattern(headers: Headers) -> bool:
    return headers.placed.named is not None and headers.placed.named.rank == "pattern"


def _common_key(named: Sequence[Headers]) -> str | None:
    """The first key of the metadata that tells the checkpoints apart, in the order of their names, and counts no
    coarser than these."""
    for key in (_STATE, *METADATA_KEYS):
        pairs = {(one.placed.named.step, numbers(one).get(key, -1)) for one in named if one.placed.named}
        values = [value for _, value in sorted(pairs)]
        rises = values and min(values) >= 0 and all(a < b for a, b in pairwise(values))
        if rises and (key == _STATE or _counts_as_finely(pairs, named)):
            return key
    return None


def _names_count_epochs(named: Sequence[Headers], members: Sequence[Headers], finer: str) -> bool:
    """Whether the epochs in the metadata confirm the numbers in the names (epoch_2 with "epoch": 2 and "iter": 14660),
    and tell all checkpoints apart that the finer count does: then the steps are epochs, as the files are called."""
    if not {one.placed.named.rank for one in named if one.placed.named} <= {"epoch", "episode", "number"}:
        return False
    for key in EPOCH_KEYS:
        pairs = [
            (numbers(one)[key], one.placed.named.step) for one in named if one.placed.named and key in numbers(one)
        ]
        if len(pairs) == len(named) and _offset(pairs, surely=True) is not None:
            counts = {(numbers(one).get(key), numbers(one)[finer]) for one in members if finer in numbers(one)}
            epochs = {epoch for epoch, _ in counts}
            return None not in epochs and len(epochs) == len(counts)
    return False


def _counts_as_finely(pairs: Collection[tuple[int, int]], named: Sequence[Headers]) -> bool:
    """Whether numbers of the metadata are to be believed beside those of the names: G_2000 with "iteration": 10 is
    step 2000, and checkpoint_1 with 400 updates is update 400. A name that says "step" is contradicted by no key."""
    offsets = {value - step for step, value in pairs}
    if len(offsets) == 1 and (len(pairs) > 1 or abs(*offsets) <= 1):
        return True
    ranks = {one.placed.named.rank for one in named if one.placed.named}
    if ranks <= {"step", "iteration"}:
        return False
    return "epoch" in ranks or all(value >= step for step, value in pairs)


def _offset(pairs: Sequence[tuple[int, int]], surely: bool) -> int | None:
    """How much greater the steps are than the values under a key, if by one number. It takes two pairs to show it,
    but for a key that surely counts training and equals the one step."""
    offsets = {step - value for value, step in pairs}
    if len(offsets) != 1:
        return None
    (offset,) = offsets
    return offset if len(set(pairs)) > 1 or (surely and offset == 0) else None
