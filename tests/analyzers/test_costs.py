"""Costs in operations: priced by rates, they order statistics and carry from machine to machine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyzers import costs, registry
from analyzers.contract import Cost, MatrixInfo

SIDES = st.integers(1, 100_000)


@given(st.sampled_from(sorted(costs.REFERENCE)), SIDES)
def test_a_rate_lies_between_those_measured(kind: str, side: int) -> None:
    known = costs.REFERENCE[kind].values()
    assert min(known) * (1 - 1e-12) <= costs.rate(costs.REFERENCE, kind, side) <= max(known) * (1 + 1e-12)


@given(SIDES, st.floats(1e-3, 1e15), st.floats(0.1, 10))
def test_a_machine_twice_as_fast_takes_half(side: int, operations: float, factor: float) -> None:
    faster = {kind: {s: factor * r for s, r in by.items()} for kind, by in costs.REFERENCE.items()}
    work = [costs.Work("svd", operations, side), costs.Work("scan", operations)]
    assert costs.seconds(work, faster) == pytest.approx(costs.seconds(work) / factor)


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_operations_do_not_depend_on_orientation(m: int, n: int) -> None:
    assert costs.svd(m, n) == costs.svd(n, m) and costs.gram(m, n) == costs.gram(n, m)


@pytest.mark.parametrize("analyzer", ["weight_spectra", "intruder_dimensions"])
@pytest.mark.parametrize("role", ["weight", "delta"])
def test_every_built_in_statistic_says_what_its_seconds_are_made_of(analyzer: str, role: str) -> None:
    """Catches a cost that another machine could not price, and one that does not grow with the matrix."""
    for statistic in registry.configure(analyzer, {}).statistics():
        small, large = (statistic.cost([MatrixInfo("W", (n, 2 * n), role=role)]) for n in (256, 2048))
        assert isinstance(small, Cost) and small.work, statistic.name
        assert small.seconds == pytest.approx(costs.seconds(small.work))
        assert small.seconds <= large.seconds and small.memory_bytes <= large.memory_bytes, statistic.name
