"""What is a problem and what is by design; equal reasons are told once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import pipeline
from analyzers.contract import Result, Statistic, Unit
from pipeline.analysis.findings import Finding, Place, failed, in_their_units, skipped
from pipeline.store.failures import Failure
from pipeline.units.addresses import Skip, UnitRef


class Named(Statistic):
    """A statistic of which only the name counts here."""

    version = 1
    scope = "checkpoint"

    def __init__(self, name: str) -> None:
        self.name = name

    def compute(self, unit: Unit, context: object) -> Result:
        raise AssertionError


@pytest.mark.parametrize(
    "reason",
    [
        "is the base itself",
        "is the first step, so there is no previous one",
        "excluded by '*.bias'",
        "not among those included (*attn*)",
        "an attention circuit is a product of thin factors: it has no update of its own to find intruders in",
    ],
)
def test_what_is_left_out_by_design_is_no_problem(reason: str) -> None:
    assert skipped([Skip("a", 1, "w", "pair_scores", reason)]) == []


def test_steps_are_called_what_their_runs_count(tmp_path: Path) -> None:
    for name in ("a/epoch_1", "a/epoch_2", "b/step_10", "b/step_20"):
        path = tmp_path / "runs" / f"{name}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"fc.weight": torch.randn(4, 4)}, path)
    store = pipeline.ingest(tmp_path / "runs", tmp_path / "S.zarr", name="net")
    places: list[tuple[Place, ...]] = [(("net/a", 2, None),), (("net/a", 1, None), ("net/a", 2, None))]
    places += [(("net/b", 10, None),), (("net/a", 1, None), ("net/b", 10, None))]
    found = in_their_units([Finding("why", place, ("s",)) for place in places], store)
    assert [str(f).partition(":")[0] for f in found] == [
        "net/a, epoch 2",
        "net/a, epochs 1, 2",
        "net/b, step 10",
        "net/a, net/b, steps 1, 10",
    ]


def test_equal_reasons_are_told_once_with_where_they_hold() -> None:
    reason = "its shape is (24, 24), but (24, 25) in base@0, its reference"
    found = skipped(Skip("a", step, f"w{m}", "scores", reason, wrong=True) for step in (10, 20) for m in range(6))
    assert [str(f) for f in found] == [f"a, steps 10, 20: w0, w1, w2, w3 and 2 more: {reason} (scores)"]


def test_what_lacks_an_input_is_counted_with_the_input_and_its_reason_told_once() -> None:
    skips = [Skip("a", 5, None, "routing", "it is dense", wrong=True)]
    skips += [Skip("a", 5, None, "distances", "needs routing: it is dense", wrong=True)] * 4
    skips += [Skip("a", 5, None, "groups", "needs distances: needs routing: it is dense", wrong=True)]
    assert [str(f) for f in skipped(skips)] == [
        "a, step 5: it is dense (routing; therefore also missing: 4 distances, 1 groups)"
    ]


def test_an_input_that_was_not_asked_for_still_gives_its_reason() -> None:
    found = skipped([Skip("a", 5, None, "distances", "needs routing: it is dense", wrong=True)])
    assert [str(f) for f in found] == ["a, step 5: it is dense (distances)"]


def blocked(key: str, statistic: str, *inputs: str) -> UnitRef:
    return UnitRef(Named(statistic), "a", 5, None, key, (), tuple(("input", one) for one in inputs))


def test_a_failure_is_told_with_all_that_waits_for_it() -> None:
    failures = [Failure("f1", "KeyError: 'x'", run="a", step=5, statistic="routing"), Failure("f2", "other", "", "b")]
    waiting = [blocked("u1", "distances", "f1"), blocked("u2", "distances", "f1"), blocked("v", "groups", "u1")]
    assert [str(f) for f in failed(failures, waiting)] == [
        "a, step 5: KeyError: 'x' (routing; therefore also missing: 2 distances, 1 groups)",
        "b: other ()",
    ]


def test_a_finding_about_everything_says_so() -> None:
    assert str(Finding("no data", (("", None, None),), ("s",))) == "all runs: no data (s)"


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ((100,), "a, step 100: no trace (s)"),
        ((300, 100, 700), "a, steps 100, 300, 700: no trace (s)"),  # 200, 400, 500 and 600 have one
        (tuple(range(0, 900, 100)), "a, 9 steps from 0 to 800: no trace (s)"),
    ],
)
def test_the_steps_concerned_are_named_or_counted_and_no_others(steps: tuple[int, ...], said: str) -> None:
    assert str(Finding("no trace", tuple(("a", step, None) for step in steps), ("s",))) == said
