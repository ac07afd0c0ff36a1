"""Pairs along a run: with the step before the previous one, and of an adapter's Δ as it is stored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from analyzers.contract import Analyzer, Context, Derived, LowRank, Result, Statistic, Unit, View
from analyzers.errors import ContractError
from pipeline.compute.cluster import ThreadCluster
from pipeline.compute.run import compute
from pipeline.report.view import StoreView
from pipeline.store import Store
from pipeline.units.prepared import prepare
from tests.analyzers.test_contract import FULL, LORA, UP, delta, full_weights, norm
from tests.pipeline.compute.plugins import Norm
from tests.pipeline.compute.stores import LAYERS, ingest, small_archive, small_store


@dataclass(frozen=True)
class TwoSteps(Statistic):
    """‖W_t − W_{t−2}‖_F."""

    name, version, scope, against = "test_two_steps", 1, "pair", "previous:2"

    def compute(self, unit: Unit, context: Context) -> Result:
        one = unit.only
        assert one.matrix is not None and one.reference is not None
        return {"change": (one.matrix.dense().double() - one.reference.dense().double()).norm().numpy()}


@dataclass(frozen=True)
class Stored(Statistic):
    """‖Δ_t‖, ‖Δ_{t−1}‖ of what is stored, and the norms that an input found."""

    name, version, scope, against, as_stored = "test_stored", 1, "pair", "previous", True

    def inputs(self) -> tuple[Statistic, ...]:
        return (Norm(),)

    def compute(self, unit: Unit, context: Context) -> Result:
        one = unit.only
        assert one.matrix is not None and one.reference is not None
        found = [one.statistics["test_norm"]["norm"], one.reference_statistics["test_norm"]["norm"]]
        own = [one.matrix.dense().double().norm().numpy(), one.reference.dense().double().norm().numpy()]
        factors = [isinstance(m.content(), LowRank) for m in (one.matrix, one.reference)]
        return {"norms": np.array(own), "inputs": np.array(found, dtype=float), "factors": np.array(factors)}


class Both(Analyzer):
    name, version = "both", 1

    def statistics(self) -> tuple[Statistic, ...]:
        return (TwoSteps(), Stored())

    def derive(self, view: View) -> Derived:
        return Derived(view.dataset({}, ()))


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> StoreView:
    return computed(small_store(tmp_path_factory.mktemp("steps")))


def computed(store: Store) -> StoreView:
    with ThreadCluster(1) as cluster:
        assert compute(store, [Both()], cluster).complete
    return StoreView(store, [Both()])


def test_two_steps_back_is_the_step_before_the_previous_one(view: StoreView) -> None:
    full = view.get(TwoSteps(), FULL, 30, UP[0])
    moved = full_weights(3)[LAYERS[0]].astype(float) - full_weights(1)[LAYERS[0]]
    assert full is not None and full["change"] == pytest.approx(norm(moved))
    adapter = view.get(TwoSteps(), LORA, 30, UP[0])
    assert adapter is not None and adapter["change"] == pytest.approx(norm(delta(3, 0) - delta(1, 0)), rel=1e-12)
    assert view.get(TwoSteps(), FULL, 20, UP[0]) is None and view.get(TwoSteps(), FULL, 10, UP[0]) is None
    reasons = {s.step: (s.reason, s.wrong) for s in view.skips if s.statistic == "test_two_steps" and s.run == FULL}
    assert "no previous one" in reasons[10][0] and "second step" in reasons[20][0]
    assert not reasons[10][1] and not reasons[20][1]


def test_of_an_adapter_as_stored_both_are_delta_with_its_inputs(view: StoreView) -> None:
    found = view.get(Stored(), LORA, 20, UP[0])
    assert found is not None and found["factors"].all()
    assert found["norms"] == pytest.approx([norm(delta(2, 0)), norm(delta(1, 0))], rel=1e-12)
    np.testing.assert_allclose(found["inputs"], found["norms"], rtol=1e-6)
    dense = view.get(Stored(), FULL, 20, UP[0])
    assert dense is not None and not dense["factors"].any()
    assert dense["norms"] == pytest.approx([norm(full_weights(i)[LAYERS[0]]) for i in (2, 1)])


def test_as_stored_an_adapter_needs_no_base(tmp_path: Path) -> None:
    view = computed(ingest(small_archive(tmp_path / "runs"), tmp_path / "S.zarr", {LORA: ("runs/nowhere@0", "given")}))
    assert view.get(Stored(), LORA, 20, UP[0]) is not None
    assert view.get(TwoSteps(), LORA, 30, UP[0]) is None
    assert {s.statistic for s in view.skips if s.wrong} == {"test_two_steps"}


def test_three_steps_back_is_not_offered() -> None:
    wrong = type("Wrong", (TwoSteps,), {"against": "previous:3"})
    with pytest.raises(ContractError, match="'previous:2', 'run:<id>'"):
        prepare([wrong()])
