"""What a format hands to the rest: where each tensor's bytes lie, and what else the file's header tells.

A format is one module with `scan(path) -> Contents`, which reads headers only; `pipeline.archive.reader` reads the
values of any `BytePlace`, so that a new format needs no reader of its own as long as its bytes lie in a file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.archive.text import encodable, encodable_data, visible
from pipeline.archive.types import Problem, TensorHeader

MAX_TENSORS = 200_000
"""Of one checkpoint."""


@dataclass(frozen=True)
class BytePlace:
    """Where one tensor lies: element (i, j, …) is at byte `offset` + itemsize · Σ index·stride of file `path`.

    `strides` count elements. With `member` the file is a zip and `offset` counts inside that compressed member.
    `big_endian`, `conjugated`, `negated` say how stored bytes differ from values. `crc32` is that of the tensor's
    bytes, known only where the tensor is all that its storage holds.
    """

    header: TensorHeader
    path: Path
    offset: int
    strides: tuple[int, ...]
    member: str | None = None
    big_endian: bool = False
    conjugated: bool = False
    negated: bool = False
    crc32: int | None = None

    @property
    def contiguous(self) -> bool:
        """Whether the values lie in row-major order without gaps."""
        expected = 1
        for size, stride in zip(reversed(self.header.shape), reversed(self.strides), strict=True):
            if size != 1 and stride != expected:
                return False
            expected *= size
        return True


@dataclass(frozen=True)
class FileContents:
    """A weights file by its header: tensors by name in file order, and what it says of its step and its model.

    `steps` holds what might be the training step, by the key it stood under ("global_step", "epoch", ...). `tied`
    groups the names that share storage, offset, shape and strides. `files` are all files it consists of.
    `training_state`: it holds the state of an optimizer or the like, by its content.
    """

    places: Mapping[str, BytePlace]
    files: tuple[Path, ...]
    steps: Mapping[str, int] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    tied: tuple[tuple[str, ...], ...] = ()
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    training_state: bool = False
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Loss and scores saved beside the weights."""

    def __post_init__(self) -> None:
        """Names become text here, whichever format they come from."""
        if not all(map(str.isprintable, self.places)):
            places: dict[str, BytePlace] = {}
            twice: list[Problem] = []
            for place in self.places.values():
                if places.setdefault(place.header.name, place) is not place:
                    twice.append(
                        Problem(
                            str(place.path),
                            "another tensor has the same name once it is written as text",
                            place.header.name,
                        )
                    )
            object.__setattr__(self, "places", places)
            object.__setattr__(self, "problems", (*self.problems, *twice))
        object.__setattr__(self, "steps", {visible(key): step for key, step in self.steps.items()})
        object.__setattr__(self, "metrics", {visible(key): value for key, value in self.metrics.items()})
        object.__setattr__(self, "config", encodable_data(self.config))
        object.__setattr__(self, "tied", tuple(tuple(map(visible, names)) for names in self.tied))
        object.__setattr__(self, "notes", tuple(map(encodable, self.notes)))


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in elements, of a contiguous tensor."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
