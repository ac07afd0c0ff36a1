"""What is a problem and what is by design; equal reasons are told once."""

from __future__ import annotations

import pytest

from flows.findings import Finding, skipped
from pipeline.store.addresses import Skip


@pytest.mark.parametrize(
    "reason",
    [
        "is the base itself",
        "is the first step, there is no previous one",
        "excluded by '*.bias'",
        "not among those included (*attn*)",
        "an attention circuit is a product of thin factors: it has no update of its own to find intruders in",
    ],
)
def test_what_is_left_out_by_design_is_no_problem(reason: str) -> None:
    assert skipped([Skip("a", 1, "w", "pair_scores", reason)]) == []


def test_equal_reasons_are_told_once_with_where_they_hold() -> None:
    reason = "its shape is (24, 24), and (24, 25) in base@0, its reference"
    found = skipped(Skip("a", step, f"w{m}", "scores", reason, wrong=True) for step in (10, 20) for m in range(6))
    assert [str(f) for f in found] == [f"a, steps 10 to 20: w0, w1, w2, w3 and 2 more: {reason} (scores)"]


def test_a_finding_about_everything_says_so() -> None:
    assert str(Finding("no data", (("", None, None),), ("s",))) == "all runs: no data (s)"
