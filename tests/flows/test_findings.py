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
    found = skipped(Skip("a", step, f"w{m}", "scores", reason) for step in (10, 20) for m in range(6))
    assert [str(f) for f in found] == [f"a, steps 10 to 20: w0, w1, w2, w3 and 2 more: {reason} (scores)"]


def test_a_finding_about_everything_says_so() -> None:
    assert str(Finding("no data", (("", None, None),), ("s",))) == "all runs: no data (s)"


def test_the_phrases_are_those_of_the_store() -> None:
    """The store's sentences are told apart by phrases: this fails when one is worded anew."""
    from pathlib import Path

    import pipeline.store
    from flows.findings import _WRONG

    sources = "".join(p.read_text() for p in Path(str(pipeline.store.__file__)).parent.glob("*.py"))
    sources += (Path(str(pipeline.store.__file__)).parents[1] / "compute/plan.py").read_text()
    for phrase in _WRONG:
        assert phrase in sources, phrase
