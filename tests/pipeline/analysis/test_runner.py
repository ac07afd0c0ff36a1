"""Pieces of work: each answers for itself; what may pass is tried again, a verdict about the data is not."""

from __future__ import annotations

import pytest

from analyzers.errors import ArchiveError, BaseNotFoundError
from flows import prefect_runner
from pipeline.analysis import runner as running
from pipeline.analysis.runner import Failed, PlainRunner


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "RETRY_DELAYS", (0.0, 0.0))


def test_one_failure_costs_only_itself() -> None:
    def work(item: int) -> int:
        if item == 2:
            raise ArchiveError("b.safetensors is cut short")
        return item * item

    first, second, third = PlainRunner().each("square", work, [1, 2, 3], str)
    assert (first, third) == (1, 9)
    assert isinstance(second, Failed) and second.reason == "b.safetensors is cut short"


def test_a_stumble_is_tried_again_and_a_verdict_is_not() -> None:
    calls = {"stumble": 0, "verdict": 0}

    def work(item: str) -> str:
        calls[item] += 1
        if item == "verdict":
            raise ArchiveError("hostile")
        if calls[item] < 3:
            raise OSError(5, "Input/output error")
        return "there"

    assert list(PlainRunner().each("read", work, ["stumble"], str)) == ["there"]
    assert isinstance(next(iter(PlainRunner().each("read", work, ["verdict"], str))), Failed)
    assert calls == {"stumble": 3, "verdict": 1}


def test_a_foreign_error_carries_its_type_and_trace() -> None:
    def work(item: int) -> int:
        return item // 0

    (failed,) = PlainRunner().each("divide", work, [1], str)
    assert isinstance(failed, Failed)
    assert failed.reason.startswith("ZeroDivisionError: ") and "in work" in failed.trace


@pytest.mark.parametrize(
    "error", [ArchiveError("a/\udce9.pt is cut"), BaseNotFoundError("\udce9"), ValueError("\udce9")]
)
def test_an_error_that_names_a_path_that_is_no_text_can_be_kept_as_json(error: Exception) -> None:
    with (
        pytest.raises(type(error) if type(error) is ArchiveError else RuntimeError) as raised,
        prefect_runner.errors_as_text(),
    ):
        raise error
    assert "\\xe9" in str(raised.value) and str(raised.value).encode()
    with pytest.raises(ValueError, match="plain") as same, prefect_runner.errors_as_text():
        raise (plain := ValueError("plain"))
    assert same.value is plain


def test_an_interrupt_is_no_failure_of_a_piece() -> None:
    def work(item: int) -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(PlainRunner().each("wait", work, [1], str))
