"""The little language of --steps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyzers.errors import ParameterError
from pipeline.units.selection import parse_steps

STEPS = (0, 30, 60, 100, 200, 300, 500)


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        (None, STEPS),
        ("all", STEPS),
        ("100", (100,)),
        ("0,100,200-500", (0, 100, 200, 300, 500)),
        ("first", (0,)),
        ("last", (500,)),
        ("first, last", (0, 500)),
        ("::5", (0, 300)),
        ("-3:", (200, 300, 500)),
        ("1:3", (30, 60)),
        ("7", ()),
        ("0,0,0-30", (0, 30)),
    ],
)
def test_words_choose_steps(text: str | None, chosen: tuple[int, ...]) -> None:
    assert parse_steps(text).of(STEPS) == chosen


@given(st.lists(st.integers(0, 10**6), unique=True), st.integers(1, 50))
def test_every_nth_is_pythons_slice_of_the_sorted_steps(steps: list[int], stride: int) -> None:
    assert parse_steps(f"::{stride}").of(steps) == tuple(sorted(steps)[::stride])


@pytest.mark.parametrize("text", ["", "abc", "1..3", "-5", "::0", "::-1", "500-200", "1,,2", "1.5", "1e3"])
def test_what_is_not_understood_fails_and_says_what_is(text: str) -> None:
    with pytest.raises(ParameterError, match="--steps"):
        parse_steps(text)


def test_a_step_that_no_run_has_is_named_with_the_nearest() -> None:
    with pytest.raises(ParameterError, match=r"no run has step 101; .*30, 60, 100"):
        parse_steps("101").check({"a": STEPS, "b": (0,)})


def test_a_step_that_only_one_run_has_is_fine() -> None:
    parse_steps("500").check({"a": STEPS, "b": (0,)})


def test_a_range_that_selects_nothing_fails_with_the_extent() -> None:
    with pytest.raises(ParameterError, match="0 to 500"):
        parse_steps("501-600").check({"a": STEPS})
