"""What failed is kept with its traceback until the same key has a result."""

from __future__ import annotations

import numpy as np

from pipeline.store import Failure, Store
from tests.pipeline.store.samples import files_under

BOOM = Failure("a" * 32, "ZeroDivisionError: x", "Traceback ...", "run", 10, "layers.0.q")


def test_a_failure_stays_until_its_key_has_a_result(store: Store) -> None:
    store.record_failures("s", [BOOM, Failure("b" * 32, "boom")])
    (first, second) = Store.open(store.path).failures()
    assert (first.statistic, first.key, first.run, first.step, first.matrix) == ("s", "a" * 32, "run", 10, "layers.0.q")
    assert first.traceback == "Traceback ..."
    store.statistic("s").write([("a" * 32, {"x": np.array(1)})])
    assert Store.open(store.path).failures() == (second,)
    store.statistic("s").write([("b" * 32, "no entries")])
    assert Store.open(store.path).failures() == ()


def test_a_failure_of_another_statistic_is_its_own(store: Store) -> None:
    store.record_failures("s", [BOOM])
    store.record_failures("t", [BOOM])
    store.statistic("t").write([(BOOM.key, "no entries")])
    assert [failure.statistic for failure in store.failures()] == ["s"]


def test_failing_every_night_does_not_pile_up(store: Store) -> None:
    for night in range(5):
        store.record_failures("s", [Failure("a" * 32, f"night {night}")])
    assert [failure.error for failure in store.failures()] == ["night 4"]
    assert len(files_under(store.path / "failures")) == 3, "the room, the statistic, one document"
    store.statistic("s").write([("a" * 32, "no entries")])
    store.record_failures("s", [])
    assert len(files_under(store.path / "failures")) == 2
