"""Which run a checkpoint belongs to and which step its name tells, from its path below the archive's root.

The path without the part that names the step is the run: `lora/checkpoint-500/` is step 500 of the run `lora`. Several
series in one folder are several runs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from pipeline.archive.name_parts import ALIASES
from pipeline.archive.series import NamedStep, Pattern, read_names
from pipeline.archive.splitting import Placed, split_series
from pipeline.archive.walk import FoundCheckpoint


def place(
    found: Sequence[FoundCheckpoint],
    root_name: str,
    pattern: Pattern | None = None,
    no_series: Collection[Path] = (),
) -> list[Placed]:
    """Runs and named steps of all checkpoints of an archive. `no_series`: files whose named step is a guess that their
    contents refute."""
    names = _Names(found, root_name, pattern)
    placed = [names.place(one, one.paths[0] in no_series) for one in found]
    # A folder that holds step checkpoints is a run, whatever its own name: weights directly in it are its last ones.
    steps: dict[tuple[str, ...], list[NamedStep]] = {}
    for one in placed:
        if one.named and (one.found.parts != one.run or not one.found.own_folder):
            steps.setdefault(one.run, []).append(one.named)
    final = []
    for one in placed:
        without_step = one.named is None or (one.found.own_folder and one.named.rank != "pattern")
        if without_step and one.found.parts in steps:
            final.append(Placed(one.found, one.found.parts, None, beside_steps=True))
        elif one.named is None and one.found.own_folder and _around_alias(one.found.parts) in steps:
            final.append(Placed(one.found, one.found.parts[:-1], None, beside_steps=True))
        else:
            final.append(one)
    return split_series(final)


def _around_alias(parts: tuple[str, ...]) -> tuple[str, ...] | None:
    """The folder around one called best, final or, as Hugging Face's newest revision, main; None for other names."""
    is_alias = bool(parts) and parts[-1].lower() in ALIASES | {"main"}
    return parts[:-1] if is_alias else None


class _Names:
    """The named steps of every folder's files and subfolders, read together."""

    def __init__(self, found: Sequence[FoundCheckpoint], root_name: str, pattern: Pattern | None) -> None:
        self.root_name = root_name
        siblings: dict[tuple[tuple[str, ...], bool], set[str]] = {}
        for one in found:
            parts = self._parts(one)
            for at, part in enumerate(parts):
                is_file = at == len(one.parts)
                siblings.setdefault((parts[:at], is_file), set()).add(part)
        siblings[(), False] = siblings.get(((), False), set())
        self._automatic = {at: read_names(names, at[1]) for at, names in siblings.items()}
        self._given = {at: read_names(names, at[1], pattern) if pattern else {} for at, names in siblings.items()}
        self._root = (read_names([root_name], False), read_names([root_name], False, pattern) if pattern else {})

    def _parts(self, found: FoundCheckpoint) -> tuple[str, ...]:
        return found.parts if found.own_folder else (*found.parts, found.stem)

    def place(self, found: FoundCheckpoint, is_no_step: bool) -> Placed:
        """One checkpoint: by the user's pattern, else by the innermost name that tells a step."""
        names = (self.root_name, *self._parts(found))
        last = len(names) - 1
        for at in range(last, -1, -1):
            named = self._named(self._given, self._root[1], found, names, at)
            if named is not None:
                return Placed(found, _without(names, at, at, found), named)
        weak = None
        for at in range(last, 0 if last else -1, -1):
            named = self._named(self._automatic, self._root[0], found, names, at)
            if named is None or (at == last and is_no_step) or (at != last and (named.weak or named.series)):
                continue
            if named.weak:
                weak = Placed(found, _without(names, at, at, found), named)
                continue
            outer = self._named(self._automatic, {}, found, names, at - 1) if at > 1 else None
            first = at
            if outer and not outer.weak and not outer.series and (outer.rank == "epoch" or outer.step == named.step):
                first = at - 1
                named = outer if named.rank == "epoch" else named
            return Placed(found, _without(names, first, at, found), named)
        return weak or Placed(found, found.parts, None)

    def _named(
        self,
        tables: dict[tuple[tuple[str, ...], bool], dict[str, NamedStep]],
        root: dict[str, NamedStep],
        found: FoundCheckpoint,
        names: tuple[str, ...],
        at: int,
    ) -> NamedStep | None:
        if at == 0:
            return root.get(names[0])
        is_file = not found.own_folder and at == len(names) - 1
        return tables.get((names[1:at], is_file), {}).get(names[at])


def _without(names: tuple[str, ...], first: int, last: int, found: FoundCheckpoint) -> tuple[str, ...]:
    """The path below the root without the parts first..last; a file's generic stem ('model') names no run either."""
    after = names[last + 1 :]
    if after and not found.own_folder and not _series_of(after[-1]):
        after = after[:-1]
    return names[1 : max(first, 1)] + after


def _series_of(stem: str) -> str:
    """What a stem says beside generic words."""
    named = read_names([f"{stem}-step0"]).get(f"{stem}-step0")
    return named.series if named else stem


__all__ = ["Placed", "place"]
