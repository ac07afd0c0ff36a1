"""The content key: equal work has one key, different work never shares one."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyzers.contract import Context, Result, Statistic, Unit
from analyzers.errors import ContractError
from pipeline.archive.recipes import Dense, LowRankProduct, Merged, recipe_key
from pipeline.compute.plan import find_units
from pipeline.compute.work import _store
from pipeline.store import Store
from pipeline.units.keys import identity, key, seed_of
from pipeline.units.selection import Selection
from tests.pipeline.compute.plugins import Change, Everything, Norm, TopEntries, Total, Trace
from tests.pipeline.compute.stores import LAYERS, ingest, weights, write_adapter, write_full
from tests.pipeline.store.samples import put

DIGESTS = st.text("0123456789abcdef", min_size=32, max_size=32)


@dataclass(frozen=True)
class Tuned(Statistic):
    """A statistic with parameters."""

    name, version, scope = "tuned", 1, "matrix"
    threshold: float = 0.5
    method: str = "a"

    def compute(self, unit: Unit, context: Context) -> Result:
        raise NotImplementedError


class Newer(Tuned):
    version = 2


@given(st.lists(DIGESTS, min_size=1, max_size=3), st.lists(DIGESTS, max_size=3))
def test_moving_a_digest_between_matrices_and_inputs_changes_the_key(inputs: list[str], input_keys: list[str]) -> None:
    plain = key(Tuned(), inputs, None, input_keys)
    assert plain == key(Tuned(), list(inputs), None, tuple(input_keys))
    assert plain != key(Tuned(), [*inputs, *input_keys, "0"], None)
    if input_keys:
        assert plain != key(Tuned(), [*inputs, *input_keys])
    if inputs != inputs[::-1]:
        assert plain != key(Tuned(), inputs[::-1], None, input_keys)
    assert 0 <= seed_of(plain) < 2**63


def test_parameters_version_trial_and_name_enter_the_key_and_the_extent_does_not() -> None:
    inputs = ["0" * 32]
    keys = [
        key(Tuned(), inputs),
        key(Tuned(threshold=0.6), inputs),
        key(Tuned(method="b"), inputs),
        key(Newer(), inputs),
        key(Norm(), inputs),
        key(Tuned(), inputs, {"d": 3}),
        key(Tuned(), inputs, {"d": 4}),
        key(Tuned(), inputs, {}),
    ]
    assert len(set(keys)) == len(keys)
    assert key(TopEntries(k=3), inputs) == key(TopEntries(k=30), inputs)


def test_a_parameter_that_is_no_json_is_refused_by_name() -> None:
    with pytest.raises(ContractError, match=r"'tuned'.*nan"):
        identity(Tuned(threshold=float("nan")))
    with pytest.raises(ContractError, match="trial must be JSON"):
        key(Tuned(), ["0"], {"at": np.float64})


def test_the_recipe_of_a_merged_adapter_depends_on_base_factors_and_scale() -> None:
    b, a = Dense("b" * 32), Dense("a" * 32)
    recipes = [
        Merged(Dense("0" * 32), LowRankProduct(b, a, 1.0)),
        Merged(Dense("0" * 32), LowRankProduct(b, a, 2.0)),
        Merged(Dense("1" * 32), LowRankProduct(b, a, 1.0)),
        Merged(Dense("0" * 32, (("permute", 1, 0),)), LowRankProduct(b, a, 1.0)),
        LowRankProduct(b, a, 1.0),
    ]
    assert len({recipe_key(recipe) for recipe in recipes}) == len(recipes)


def test_two_adapters_with_equal_factors_and_another_alpha_have_different_keys(tmp_path: Path) -> None:
    write_full(tmp_path / "runs" / "base", weights(0))
    draw = np.random.default_rng(0)
    a, b = draw.standard_normal((2, 6)).astype(np.float32), draw.standard_normal((8, 2)).astype(np.float32)
    for name, alpha in (("half", 1), ("same", 1), ("double", 4)):
        module = LAYERS[0].removesuffix(".weight")
        write_adapter(tmp_path / "runs" / name / "checkpoint-5", {module: (a, b)}, alpha, 2)
    runs = ("half", "same", "double")
    store = ingest(tmp_path / "runs", tmp_path / "S.zarr", {f"runs/{run}": ("runs/base@0", "given") for run in runs})
    units = find_units(store, [Everything(Norm(), Change())], Selection())
    for statistic in (Norm(), Change()):
        prepared = units.known(statistic)
        assert prepared is not None
        places = units.of(prepared).places
        half, same, double = (places[f"runs/{run}", 5, "layers.0.mlp.up_proj"] for run in runs)
        assert half == same, "equal content is one unit, wherever it stands"
        assert half != double


def keys_of(store_path: Path, root: Path, statistic: Statistic) -> dict[object, str]:
    units = find_units(ingest(root, store_path), [Everything(statistic)], Selection())
    prepared = units.known(statistic)
    assert prepared is not None
    return dict(units.of(prepared).places)


def test_a_series_depends_on_its_steps_and_its_order(tmp_path: Path) -> None:
    def write(root: Path, seeds: dict[int, int]) -> dict[object, str]:
        for step, seed in seeds.items():
            write_full(root / "run" / f"checkpoint-{step}", weights(seed))
        return keys_of(root / "S.zarr", root / "run", Trace())

    first = write(tmp_path / "a", {1: 1, 2: 2})
    assert write(tmp_path / "b", {1: 1, 2: 2}) == first
    for name, seeds in {"later": {1: 1, 3: 2}, "swapped": {1: 2, 2: 1}, "longer": {1: 1, 2: 2, 3: 2}}.items():
        other = write(tmp_path / name, seeds)
        assert not set(other.values()) & set(first.values()), name


@dataclass(frozen=True)
class AtTheEnd(Trace):
    """The trace of the last step alone."""

    name, grows, last_step_only = "at_the_end", False, True


def test_a_statistic_of_the_last_step_sees_that_one_only_and_depends_on_nothing_else(tmp_path: Path) -> None:
    def write(root: Path, seeds: dict[int, int]) -> dict[object, str]:
        for step, seed in seeds.items():
            write_full(root / "run" / f"checkpoint-{step}", weights(seed))
        return keys_of(root / "S.zarr", root / "run", AtTheEnd())

    first = write(tmp_path / "a", {1: 1, 2: 2})
    assert write(tmp_path / "b", {1: 5, 2: 2}) == write(tmp_path / "c", {2: 2}) == first
    assert not set(write(tmp_path / "d", {1: 1, 2: 2, 3: 3}).values()) & set(first.values())
    units = find_units(ingest(tmp_path / "a" / "run", tmp_path / "a" / "S.zarr"), [Everything(AtTheEnd())], Selection())
    prepared = units.known(AtTheEnd())
    assert prepared is not None
    assert {tuple(m.step for m in unit.members) for unit in units.of(prepared).units.values()} == {(2,)}


def test_a_checkpoint_depends_on_which_matrix_holds_what(tmp_path: Path) -> None:
    straight = weights(0)
    swapped = {**straight, LAYERS[0]: straight[LAYERS[1]], LAYERS[1]: straight[LAYERS[0]]}
    write_full(tmp_path / "a" / "run" / "checkpoint-1", straight)
    write_full(tmp_path / "b" / "run" / "checkpoint-1", swapped)
    found = [keys_of(tmp_path / f"{n}.zarr", tmp_path / n / "run", Total()) for n in ("a", "b")]
    assert found[0].values() != found[1].values()
    assert len({*found[0].values(), *found[1].values()}) == 2


def test_an_input_s_extent_enters_where_the_statistic_has_none_of_its_own() -> None:
    @dataclass(frozen=True)
    class OfTop(Statistic):
        name, version, scope, reads_matrices = "of_top", 1, "matrix", False
        k: int = 3

        def parameters(self) -> dict[str, object]:
            return {}

        def inputs(self) -> tuple[Statistic, ...]:
            return (TopEntries(self.k),)

        def compute(self, unit: Unit, context: Context) -> Result:
            raise NotImplementedError

    from pipeline.units.members import entering
    from pipeline.units.prepared import prepare

    entered = []
    for k in (3, 5):
        of_top = next(p for p in prepare([OfTop(k)]) if p.name == "of_top")
        entered.append(entering(of_top, [("test_top", "0" * 32)]))
    assert entered[0] != entered[1]


def test_a_worker_opens_a_store_that_was_made_anew_at_the_same_path(tmp_path: Path) -> None:
    """A cluster outlives a store: what its workers keep is not of the store that was there before."""
    path = tmp_path / "S.zarr"
    Store.create(path)
    before = _store(str(path))
    assert _store(str(path)) is before
    shutil.rmtree(path)
    again = Store.create(path)
    put(again, {"w": np.ones((3, 4))})
    assert [run.id for run in _store(str(path)).runs()] == ["run"]
    assert _store(str(path)).packs is again.packs is not before.packs
