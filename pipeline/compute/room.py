"""Where a device's memory runs out: a batch is halved and goes on; what does not fit alone is for the caller."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

One = TypeVar("One")
Found = TypeVar("Found")


def with_room(
    compute: Callable[[Sequence[One]], Sequence[Found | Exception]], units: Sequence[One]
) -> list[Found | Exception]:
    """compute(units), one answer for each; those that ran out of memory are tried again in halves, down to one.

    A unit that ran out alone keeps its `torch.OutOfMemoryError`. Any other exception of `compute` is for the caller.
    """
    try:
        results = list(compute(units))
    except torch.OutOfMemoryError as error:
        results = [error] * len(units)
    if len(results) != len(units):
        return results  # the caller says what is wrong with that
    short = [position for position, result in enumerate(results) if isinstance(result, torch.OutOfMemoryError)]
    for position in short:
        ran_out = results[position]
        assert isinstance(ran_out, torch.OutOfMemoryError)
        results[position] = ran_out.with_traceback(None)  # whose frames would keep the tensors that have to go
    if not short or len(units) == 1:
        return results
    free()
    middle = (len(short) + 1) // 2
    for half in (short[:middle], short[middle:]):
        if half:
            for position, result in zip(half, with_room(compute, [units[i] for i in half]), strict=True):
                results[position] = result
    return results


def free() -> None:
    """Gives back what nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
