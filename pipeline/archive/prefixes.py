"""What wraps a model's names: a run may lack the prefix that its base has (``net.``), have one that the base lacks, or
another one. It is recognised by names and shapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

_DEPTH = 3
_MOST = 6
"""Prefixes of one side that are tried."""


@dataclass(frozen=True)
class Prefix:
    """Names that begin with `here` in a checkpoint begin with `there` in its base."""

    here: str = ""
    there: str = ""

    def in_base(self, name: str) -> str:
        """The name as the base has it."""
        return self.there + name.removeprefix(self.here) if name.startswith(self.here) else name


UNCHANGED = Prefix()


def find_prefix(own: Sequence[str], of_base: Sequence[str], fits: Callable[[Prefix], bool]) -> Prefix | None:
    """The prefix with which the names of a checkpoint fit its base: none if they do as they are; None if none does, or
    if several do (two encoders of equal shapes)."""
    if fits(UNCHANGED):
        return UNCHANGED
    least = max(1, len(own) // 2)
    here, there = list(_prefixes(own, least)), list(_prefixes(of_base, least))
    for tried in (
        [Prefix(one) for one in here],
        [Prefix("", one) for one in there],
        [Prefix(one, other) for one in here for other in there],
    ):
        fitting = [prefix for prefix in tried if fits(prefix)]
        shortest = [one for one in fitting if not any(_extends(one, other) for other in fitting if other != one)]
        if shortest:
            return shortest[0] if len(shortest) == 1 else None
    return None


def _prefixes(names: Sequence[str], least: int) -> Iterator[str]:
    """The first one to three components that at least so many names share, the commonest first. What they leave of a
    name still has a module: a head alone (``lm_head.weight``) is not an embedding below another prefix."""
    counts: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        counts.update(".".join((*parts[:count], "")) for count in range(1, min(_DEPTH, len(parts) - 2) + 1))
    yield from (prefix for prefix, count in counts.most_common(_MOST) if count >= least)


def _extends(one: Prefix, other: Prefix) -> bool:
    return one.here.startswith(other.here) and one.there.startswith(other.there)
