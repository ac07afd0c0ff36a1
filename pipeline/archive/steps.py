"""At which training step a checkpoint was saved: the keys that tell it in metadata, names, and the user's pattern.

How names tell steps, and which names are one series, is in `series`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from analyzers.errors import ArchiveError
from pipeline.archive.name_parts import whole_number
from pipeline.archive.series import NamedStep, Pattern, read_names

METADATA_KEYS = (
    "global_step",
    "global_steps",
    "step",
    "steps",
    "num_steps",
    "train_step",
    "current_step",
    "iteration",
    "iter_num",
    "iter",
    "num_updates",
    "num_timesteps",
    "ss_steps",
)
"""Keys that hold the step, the surest first. An epoch is no step; it counts only where nothing else is known."""

EPOCH_KEYS = ("epoch", "epochs", "current_epoch", "ss_epoch", "episode", "episodes", "current_episode")
UNITS = {key: "episode" if "episode" in key else "epoch" for key in EPOCH_KEYS}
"""What these keys count; every other key counts steps."""

_ALIAS = re.compile(r"(?:^|[-_. ])(best|last|final|latest|newest)(?:$|[-_. ])", re.IGNORECASE)


def step_from_name(name: str, is_file: bool = False) -> NamedStep | None:
    """The step that a file's stem or a folder's name tells by itself, or None. `read_names` sees siblings too."""
    return read_names([name], is_file).get(name)


def step_from_metadata(found: Mapping[str, int], keys: tuple[str, ...] = METADATA_KEYS) -> int | None:
    """The step among a file's numbers by key, or None."""
    return next((found[key] for key in keys if key in found), None)


def is_alias(name: str) -> bool:
    """Whether a name points at a checkpoint by its standing (best, last, final) and not by its step."""
    return _ALIAS.search(name) is not None


def compile_pattern(pattern: str) -> Pattern:
    """The user's pattern for steps in names: a regular expression whose first group, or the group called `step`, is
    the number; the second group, or the one called `series`, names the series. ArchiveError says what is wrong."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ArchiveError(f"step pattern {pattern!r} is not a regular expression: {error}") from error
    named = compiled.groupindex
    if unknown := sorted(set(named) - {"step", "series"}):
        raise ArchiveError(f"step pattern {pattern!r} names the group {unknown[0]!r}; it may name 'step' and 'series'")
    if compiled.groups not in (1, 2) or (named and "step" not in named and compiled.groups == 1):
        raise ArchiveError(
            f"step pattern {pattern!r} has {compiled.groups} groups; it needs one around the number, and may have a "
            "second one around the name of the series"
        )
    series = named.get("series", 3 - named.get("step", 1))
    step = named.get("step", 3 - series)

    def find(name: str) -> tuple[tuple[int, int], str | None] | None:
        match = compiled.search(name)
        if match is None:
            return None
        if match[step] is None or whole_number(match[step].strip()) is None:
            raise ArchiveError(f"step pattern {pattern!r} finds {match[step]!r} in {name!r}: not a number")
        return match.span(step), (match[series] or "") if compiled.groups == 2 else None

    return find


def step_from_pattern(pattern: Pattern, name: str) -> NamedStep | None:
    """The step that the user's pattern finds in a name, or None. ArchiveError when its group is no number."""
    return read_names([name], True, pattern).get(name)
