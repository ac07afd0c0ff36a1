"""At which training step a checkpoint was saved: what its metadata says, else what its name says.

Names in use: checkpoint-500, step1000, step_000100, global_step10, iter_0001000, epoch=3-step=500, ckpt-100,
step3000-tokens12B, ep1-ba2000, a bare 100, 20k.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from analyzers.errors import ArchiveError

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
)
"""Keys that hold the step, the surest first. An epoch is no step; it counts only where nothing else is known."""

EPOCH_KEYS = ("epoch", "epochs", "current_epoch")

# Groups of words that stand before the number, the surest first; of several in a name the surest wins.
_WORDS = (
    ("step", r"(?:global[-_ ]?|train(?:ing)?[-_ ]?|num[-_ ]?)?steps?"),
    ("iteration", r"iterations?|iters?|it|updates?|batch|ba"),
    ("checkpoint", r"checkpoint|chkpt|ckpt|cp|snapshot"),
    ("epoch", r"epochs?|ep"),
)
# Up to 18 digits, so that every step is an int64.
_NUMBER = r"(?P<number>\d{1,9}(?:\.\d{1,9})?(?=[km])|\d{1,18}(?![km]))(?P<unit>[km])?(?![a-z0-9])(?!\.\d)"
_TOKENS = tuple((rank, re.compile(rf"(?<![a-z])(?:{words})[-_=. ]?{_NUMBER}", re.IGNORECASE)) for rank, words in _WORDS)
_BARE = re.compile(rf"^{_NUMBER}$", re.IGNORECASE)
# Words that name no series of their own; after one of them a bare number is a step: model_000100.
_GENERIC = (
    "model|models|net|network|weights?|params?|state|dict|checkpoints?|ckpt|pytorch|save|saved|snapshot|policy|"
    "best|last|final|latest|epochs?|ep|step|iter|global|unsharded|hf"
)
_AFTER_GENERIC = re.compile(rf"^(?:(?:{_GENERIC})[-_=. ]+)+{_NUMBER}$", re.IGNORECASE)
_SEPARATORS = re.compile(r"[-_=. ]+")
_ALIAS = re.compile(r"(?:^|[-_. ])(best|last|final|latest|newest)(?:$|[-_. ])", re.IGNORECASE)
_UNITS = {"": 1, "k": 1_000, "m": 1_000_000}


@dataclass(frozen=True)
class NamedStep:
    """A step read from a name. `rank` tells by which word; `weak` when by none (a bare number). `series` is what the
    name says beside step and generic words: 'pythia-70m' in pythia-70m-step1000."""

    step: int
    rank: str
    weak: bool = False
    series: str = ""


def step_from_name(name: str, is_file: bool = False) -> NamedStep | None:
    """The step that a file's stem or a folder's name tells, or None."""
    for rank, pattern in _TOKENS:
        matches = list(pattern.finditer(name))
        if matches:
            return NamedStep(_value(matches[-1]), rank, series=_series(name[: matches[-1].start()]))
    bare = _BARE.match(name)
    if bare:
        return NamedStep(_value(bare), "number", weak=True)
    # Only of a file: folders model_1 and model_2 are two models.
    numbered = _AFTER_GENERIC.match(name) if is_file else None
    return NamedStep(_value(numbered), "number") if numbered else None


def step_from_metadata(found: Mapping[str, int], keys: tuple[str, ...] = METADATA_KEYS) -> int | None:
    """The step among a file's numbers by key, or None."""
    return next((found[key] for key in keys if key in found), None)


def is_alias(name: str) -> bool:
    """Whether a name points at a checkpoint by its standing (best, last, final) and not by its step."""
    return _ALIAS.search(name) is not None


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """The user's pattern for steps in names: a regular expression with one group. ArchiveError says what is wrong."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ArchiveError(f"step pattern {pattern!r} is not a regular expression: {error}") from error
    if compiled.groups != 1:
        raise ArchiveError(f"step pattern {pattern!r} has {compiled.groups} groups; it needs one, around the number")
    return compiled


def step_from_pattern(pattern: re.Pattern[str], name: str) -> NamedStep | None:
    """The step that the user's pattern finds in a name, or None. ArchiveError when its group is no number."""
    match = pattern.search(name)
    if match is None:
        return None
    number = re.fullmatch(_NUMBER, (match.group(1) or "").strip(), re.IGNORECASE)
    if number is None:
        raise ArchiveError(f"step pattern {pattern.pattern!r} finds {match.group(1)!r} in {name!r}: not a number")
    return NamedStep(_value(number), "pattern", series=_series(name[: match.start()]))


def _value(match: re.Match[str]) -> int:
    unit = _UNITS[(match["unit"] or "").lower()]
    return round(float(match["number"]) * unit) if "." in match["number"] else int(match["number"]) * unit


def _series(before: str) -> str:
    for _, pattern in _TOKENS:
        before = pattern.sub("", before)
    words = [word for word in _SEPARATORS.split(before) if word]
    generic = re.compile(rf"(?:{_GENERIC}|run)", re.IGNORECASE)
    kept = [word for word in words if not generic.fullmatch(word)]
    # Keep the separators of what remains, so that a run is called as its files are.
    if len(kept) == len(words):
        return before.strip("-_=. ")
    return "-".join(kept)
