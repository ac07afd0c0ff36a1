"""Which part of a store is asked for: runs, matrices, and steps in the little language of ``--steps``.

Steps are comma-separated, together a union: step numbers (``100``), inclusive ranges of step numbers (``200-500``),
``first``, ``last``, and Python slices over a run's checkpoints in order (``::5`` every fifth, ``-3:`` the last three).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase

from analyzers.errors import ParameterError

_NUMBER = re.compile(r"\d+")
_RANGE = re.compile(r"(\d+)-(\d+)")
_SLICE = re.compile(r"(-?\d+)?:(-?\d+)?(?::(-?\d+))?")


@dataclass(frozen=True)
class StepSelection:
    """A parsed ``--steps``. Empty parts mean every step."""

    numbers: tuple[int, ...] = ()
    ranges: tuple[tuple[int, int], ...] = ()
    slices: tuple[tuple[int | None, int | None, int | None], ...] = ()

    @property
    def everything(self) -> bool:
        """Whether nothing was asked for, which selects all."""
        return not (self.numbers or self.ranges or self.slices)

    def of(self, steps: Sequence[int]) -> tuple[int, ...]:
        """The selected ones of a run's steps, sorted."""
        ordered = sorted(set(steps))
        if self.everything:
            return tuple(ordered)
        chosen = set(self.numbers).intersection(ordered)
        chosen.update(s for s in ordered for low, high in self.ranges if low <= s <= high)
        for start, stop, stride in self.slices:
            chosen.update(ordered[start:stop:stride])
        return tuple(sorted(chosen))

    def check(self, steps_of_runs: Mapping[str, Iterable[int]]) -> None:
        """Raises `ParameterError` for a step number that no run has, or when nothing is selected anywhere."""
        present = {step for steps in steps_of_runs.values() for step in steps}
        for number in self.numbers:
            if number not in present:
                near = sorted(sorted(present, key=lambda s: abs(s - number))[:3])
                listed = ", ".join(map(str, near)) or "none"
                raise ParameterError(f"--steps: no run has step {number}; the nearest steps are: {listed}")
        if present and not any(self.of(tuple(steps)) for steps in steps_of_runs.values()):
            raise ParameterError(
                f"--steps selects none of the {len(present)} steps in the archive ({min(present)} to {max(present)})"
            )


def parse_steps(text: str | None) -> StepSelection:
    """The selection that `text` asks for; None and "all" mean every step. Raises `ParameterError` on anything else."""
    numbers: list[int] = []
    ranges: list[tuple[int, int]] = []
    slices: list[tuple[int | None, int | None, int | None]] = []
    for part in (p.strip() for p in ("all" if text is None else text).split(",")):
        if part == "all":
            slices.append((None, None, None))
        elif part == "first":
            slices.append((None, 1, None))
        elif part == "last":
            slices.append((-1, None, None))
        elif _NUMBER.fullmatch(part):
            numbers.append(int(part))
        elif match := _RANGE.fullmatch(part):
            low, high = int(match[1]), int(match[2])
            if low > high:
                raise ParameterError(f"--steps: the range {part!r} runs backwards; did you mean {high}-{low}?")
            ranges.append((low, high))
        elif (match := _SLICE.fullmatch(part)) and part:
            start, stop, stride = (int(g) if g else None for g in match.groups())
            if stride is not None and stride < 1:
                raise ParameterError(f"--steps: the stride of {part!r} must be 1 or more")
            slices.append((start, stop, stride))
        else:
            raise ParameterError(
                f"--steps: {part!r} is not understood. Use step numbers (100), ranges (200-500), first, last, "
                "or slices over a run's checkpoints (::5 every fifth, -3: the last three), separated by commas"
            )
    return StepSelection(tuple(numbers), tuple(ranges), tuple(slices))


@dataclass(frozen=True)
class Selection:
    """Which part of a store is asked for. None and empty mean everything.

    `include` and `exclude` are globs on canonical matrix names or on the names of the tensors they are cut from.
    `bases` overrides the recorded base of a run: run id → "run@step".
    """

    runs: tuple[str, ...] | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    steps: StepSelection = StepSelection()
    bases: Mapping[str, str] = field(default_factory=dict)

    def chosen_runs(self, ids: Sequence[str]) -> tuple[str, ...]:
        """The chosen ones of all run ids, in their order. Raises `ParameterError` for a run that is not there."""
        if self.runs is None:
            return tuple(ids)
        for id in self.runs:
            if id not in ids:
                near = get_close_matches(id, ids, n=2)
                hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"it has: {', '.join(ids)}"
                raise ParameterError(f"no run {id!r} in the store; {hint}")
        wanted = set(self.runs)
        return tuple(id for id in ids if id in wanted)

    def excluded(self, names: Sequence[str]) -> str | None:
        """Why a matrix known by these names is left out, or None."""
        if self.include and not any(fnmatchcase(name, glob) for name in names for glob in self.include):
            return f"not among those included ({', '.join(self.include)})"
        hit = next((glob for glob in self.exclude for name in names if fnmatchcase(name, glob)), None)
        return f"excluded by {hit!r}" if hit else None


EVERYTHING = Selection()
"""No part left out."""
