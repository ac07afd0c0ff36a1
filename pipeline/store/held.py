"""What a run's checkpoints hold, by digest: the input of every comparison of contents, and what one finds.

held = held_by(store, run_record, checkpoints)
equal_contents.within(held), runs_alike.between([held, …])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from pipeline.archive.names import without_wrappers
from pipeline.archive.recipes import digest
from pipeline.archive.types import TensorHeader
from pipeline.archive.unmeasured import is_parameter

if TYPE_CHECKING:
    from pipeline.store.records import CheckpointRecord, RunRecord
    from pipeline.store.store import Store

NAMES_SHOWN = 12
STEPS_SHOWN = 8


@dataclass(frozen=True)
class ContentFinding:
    """Something that the contents of checkpoints show and the reader has to know. Nothing is missing because of it.

    "warning": the numbers may not mean what they seem to (a wrong file, parameters that never moved); "note": worth
    knowing, and as it should be (a final checkpoint saved twice, runs from one start).
    """

    code: str
    severity: Literal["warning", "note"]
    runs: tuple[str, ...]
    steps: tuple[int, ...]
    tensors: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Held:
    """One run: `digests` of each parameter over `steps`, ascending (None: not there, or not readable).

    Buffers, counters and masks are no parameters. `headers` are those of the first step that has the parameter.
    """

    run: str
    steps: tuple[int, ...]
    digests: Mapping[str, tuple[str | None, ...]]
    headers: Mapping[str, TensorHeader]
    role: str = "run"
    base: str | None = None
    base_kind: str | None = None

    @cached_property
    def keys(self) -> tuple[str | None, ...]:
        """Per step: equal where all parameters are; None where one could not be read or there is none."""
        whole: list[str | None] = []
        for at in range(len(self.steps)):
            held = [[name, of_steps[at]] for name, of_steps in self.digests.items() if of_steps[at] is not None]
            whole.append(digest(sorted(held)) if held and at not in self.incomplete else None)
        return tuple(whole)

    @cached_property
    def equal(self) -> tuple[tuple[int, ...], ...]:
        """Indices of steps that hold the same weights, in groups of two and more."""
        groups: dict[str, list[int]] = {}
        for at, key in enumerate(self.keys):
            if key is not None:
                groups.setdefault(key, []).append(at)
        return tuple(tuple(group) for group in groups.values() if len(group) > 1)

    incomplete: frozenset[int] = frozenset()
    adapter: bool = False
    """Whether its files hold an adapter alone, not the weights that it is for."""


def held_by(store: Store, run: RunRecord, checkpoints: Sequence[CheckpointRecord]) -> Held:
    """What the checkpoints of a run (one of each step) hold."""
    ordered = sorted(checkpoints, key=lambda record: record.step)
    digests: dict[str, list[str | None]] = {}
    headers: dict[str, TensorHeader] = {}
    kept: dict[str, list[tuple[int, TensorHeader]]] = {}
    incomplete = set()
    for at, record in enumerate(ordered):
        if record.layout not in kept:
            tensors = store.layout(record.layout).tensors
            names = without_wrappers([header.name for header in tensors])
            bare = [replace(header, name=name) for header, name in zip(tensors, names, strict=True)]
            kept[record.layout] = [(i, header) for i, header in enumerate(bare) if is_parameter(header)]
        for index, header in kept[record.layout]:
            headers.setdefault(header.name, header)
            digests.setdefault(header.name, [None] * len(ordered))[at] = record.digests[index]
        if record.problems or any(record.digests[index] is None for index, _ in kept[record.layout]):
            incomplete.add(at)
    return Held(
        run.id,
        tuple(record.step for record in ordered),
        {name: tuple(of_steps) for name, of_steps in digests.items()},
        headers,
        run.role,
        run.base,
        run.base_kind,
        frozenset(incomplete),
        run.adapter,
    )


def in_words(words: Sequence[str]) -> str:
    """a, b and c"""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def step_words(steps: Sequence[int]) -> str:
    """Each step where they are few, else how many between which."""
    if len(steps) == 1:
        return f"step {steps[0]}"
    if len(steps) <= STEPS_SHOWN:
        return f"steps {in_words([str(step) for step in steps])}"
    return f"{len(steps)} steps from {steps[0]} to {steps[-1]}"


def name_words(names: Sequence[str], shown: int = NAMES_SHOWN) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def plural(count: int, word: str) -> str:
    """1 tensor, 2 tensors"""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
