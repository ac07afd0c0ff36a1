"""Out of memory on a device: the batch is halved, nothing is lost, and what fits nowhere is computed on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import Mock, patch

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzers.contract import Context, Result, Statistic, Unit
from pipeline.compute.plan import plan
from pipeline.compute.room import with_room
from pipeline.compute.work import run_group
from tests.pipeline.compute.plugins import Everything
from tests.pipeline.compute.stores import small_store


@patch("pipeline.compute.room.free")  # a collection of all garbage takes half a second late in a long test run
@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 9), max_size=12), room=st.integers(1, 20), apart=st.booleans())
def test_every_unit_that_fits_alone_is_answered_in_its_place(
    free: Mock, sizes: list[int], room: int, apart: bool
) -> None:
    largest = 0

    def compute(units: Sequence[int]) -> Sequence[int | Exception]:
        nonlocal largest
        if sum(units) > room:
            if apart:  # a statistic that catches its units' errors gives them back as answers
                return [torch.OutOfMemoryError(f"{unit} does not fit") for unit in units]
            raise torch.OutOfMemoryError("CUDA out of memory")
        largest = max(largest, sum(units))
        return [10 * unit for unit in units]

    answers = with_room(compute, sizes)
    assert len(answers) == len(sizes) and largest <= room
    for size, answer in zip(sizes, answers, strict=True):
        if size <= room:
            assert answer == 10 * size
        else:
            assert isinstance(answer, torch.OutOfMemoryError)


def test_only_what_ran_out_is_tried_again() -> None:
    asked: list[tuple[int, ...]] = []

    def compute(units: Sequence[int]) -> Sequence[int | Exception]:
        asked.append(tuple(units))
        return [torch.OutOfMemoryError("no") if unit > 2 and len(units) > 1 else unit for unit in units]

    assert with_room(compute, [1, 3, 2, 4]) == [1, 3, 2, 4]
    assert asked == [(1, 3, 2, 4), (3,), (4,)]


@dataclass(frozen=True)
class OnlyOnCpu(Statistic):
    """matrix: its Frobenius norm; any other device has no room for matrices of more rows than columns."""

    name, version, scope = "test_only_on_cpu", 1, "matrix"

    def compute(self, unit: Unit, context: Context) -> Result:
        assert unit.only.matrix is not None and unit.only.info is not None
        content = unit.only.matrix.dense()
        if content.device.type != "cpu":
            if unit.only.info.shape[0] > unit.only.info.shape[1]:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return {"norm": np.float64(-1.0)}
        return {"norm": content.double().norm().numpy()}


def test_what_does_not_fit_on_the_device_is_computed_beside_it(tmp_path: Path) -> None:
    store = small_store(tmp_path, steps=(10,))
    planned = plan(store, [Everything(OnlyOnCpu())])
    tall = {job.key for job in planned.jobs for m in job.members if m.matrix and m.matrix.info.shape == (8, 6)}
    # "meta" stands for a device: torch has it everywhere, and tensors on it have no values
    outcomes = {o.key: o for group in planned.groups for o in run_group(store.path, group, device="meta")}
    assert tall and set(outcomes) > tall
    for key, outcome in outcomes.items():
        assert outcome.error is None and outcome.result is not None
        assert outcome.device == ("cpu" if key in tall else "meta")
        assert (float(outcome.result["norm"]) > 0) == (key in tall)
