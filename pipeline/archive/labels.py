"""Readable labels for matrices whose name is only a place in a list: the `12` of a Sequential is "linear 2".

A label is for people. The canonical name stays what keys, stores and comparisons use: it does not change when a layer
is added before it, and it is unique.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from pipeline.archive.types import MatrixSpec

_WORDS = {"conv": "conv", "embedding": "embedding", "recurrent": "recurrent"}


def labels(matrices: Iterable[MatrixSpec]) -> dict[str, str]:
    """Name → label of those of a checkpoint's matrices whose name ends in a number.

    They are counted by what they are, in the order of their numbers: `features.0` and `features.10` are "features conv
    1" and "features conv 2" where all between are no convolutions.
    """
    lists: dict[tuple[str, str], list[tuple[tuple[int, ...], str]]] = defaultdict(list)
    for spec in matrices:
        parts = spec.name.split(".")
        numbers: list[int] = []
        while parts and parts[-1].isdecimal():
            numbers.insert(0, int(parts.pop()))
        if numbers and spec.role == "weight":
            lists[".".join(parts), _WORDS.get(spec.kind, "linear")].append((tuple(numbers), spec.name))
    return {
        name: f"{owner} {word} {position}".strip()
        for (owner, word), members in lists.items()
        for position, (_, name) in enumerate(sorted(members), 1)
    }


def labelled(name: str, label: str | None) -> str:
    """A name with its label, as people read it: ``12 (linear 2)``."""
    return f"{name} ({label})" if label else name
