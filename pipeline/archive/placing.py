"""Which run a checkpoint belongs to and which step its name tells, from its path below the archive's root.

The path without the part that names the step is the run: `lora/checkpoint-500/` is step 500 of the run `lora`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.archive.steps import NamedStep, step_from_name, step_from_pattern
from pipeline.archive.walk import Found


@dataclass(frozen=True)
class Placed:
    """A checkpoint with its run's path (parts below the root) and its named step, None when no name tells one.

    `beside_steps`: it lies in its run's folder beside the step checkpoints: a final or best one.
    """

    found: Found
    run: tuple[str, ...]
    named: NamedStep | None
    beside_steps: bool = False


def place(found: Sequence[Found], root_name: str, pattern: re.Pattern[str] | None = None) -> list[Placed]:
    """Runs and named steps of all checkpoints of an archive."""
    placed = [_place_one(one, root_name, pattern) for one in found]
    # A folder that holds step checkpoints is a run, whatever its own name: weights directly in it are its last ones.
    step_folders = {one.run for one in placed if one.named and (one.found.parts != one.run or not one.found.own_folder)}
    final = []
    for one in placed:
        named_by_own_folder = one.named is None or (one.found.own_folder and one.named.rank != "pattern")
        if one.found.parts in step_folders and named_by_own_folder:
            final.append(Placed(one.found, one.found.parts, None, beside_steps=True))
        else:
            final.append(one)
    return _split_series(final)


def _place_one(found: Found, root_name: str, pattern: re.Pattern[str] | None) -> Placed:
    names = (root_name, *found.parts) if found.own_folder else (root_name, *found.parts, found.stem)
    last = len(names) - 1
    if pattern is not None:
        for at in range(last, -1, -1):
            named = step_from_pattern(pattern, names[at])
            if named is not None:
                return Placed(found, _without(names, at, at, found), named)
    weak = None
    for at in range(last, 0 if last else -1, -1):
        is_file = at == last and not found.own_folder
        named = step_from_name(names[at], is_file)
        if named is None or (at != last and (named.weak or named.series)):
            continue
        if named.weak:
            weak = Placed(found, _without(names, at, at, found), named)
            continue
        first = at
        outer = step_from_name(names[at - 1]) if at > 1 else None
        if outer and not outer.weak and not outer.series and (outer.rank == "epoch" or outer.step == named.step):
            first = at - 1
            named = outer if named.rank == "epoch" else named
        return Placed(found, _without(names, first, at, found), named)
    return weak or Placed(found, found.parts, None)


def _without(names: tuple[str, ...], first: int, last: int, found: Found) -> tuple[str, ...]:
    """The path below the root without the parts first..last; a file's generic stem ('model') names no run either."""
    after = names[last + 1 :]
    if after and not found.own_folder and not _series_of(after[-1]):
        after = after[:-1]
    return names[1 : max(first, 1)] + after


def _series_of(stem: str) -> str:
    """What a stem says beside generic words."""
    named = step_from_name(f"{stem}-step0")
    return named.series if named else stem


def _split_series(placed: list[Placed]) -> list[Placed]:
    """Files of one folder that name different series (a_step100, b_step100) are different runs."""
    series: dict[tuple[str, ...], set[str]] = {}
    for one in placed:
        if one.named:
            series.setdefault(one.run, set()).add(one.named.series)
    return [
        replace(one, run=(*one.run, one.named.series))
        if one.named and one.named.series and len(series[one.run]) > 1
        else one
        for one in placed
    ]
