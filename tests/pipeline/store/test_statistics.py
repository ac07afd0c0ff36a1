"""Results are kept exactly, found by key, and take few files however they came."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from analyzers.errors import StoreError
from pipeline.store import Store, read_references, verify
from tests.pipeline.store.samples import bits, files_under

KEYS = [f"{index:032x}" for index in range(200)]

values = st.one_of(
    hnp.arrays(st.sampled_from([np.float64, np.float32, np.int64, np.bool_, np.uint8, np.complex128]),
               hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)),
    hnp.arrays(hnp.unicode_string_dtypes(endianness="<", max_len=4), hnp.array_shapes(max_dims=1, max_side=3)),
)  # fmt: skip
results = st.dictionaries(st.sampled_from(["sigma", "n", "rank", "note"]), values, max_size=3) | st.text(max_size=5)


def same(one: object, other: object) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    assert isinstance(one, dict) and isinstance(other, dict)
    return list(one) == list(other) and all(
        isinstance(other[name], np.ndarray)
        and (np.asarray(value).dtype, np.asarray(value).shape) == (other[name].dtype, other[name].shape)
        and bits(np.asarray(value)) == bits(other[name])
        for name, value in one.items()
    )


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(results, min_size=1, max_size=6), min_size=1, max_size=3))
def test_results_and_reasons_come_back_exactly_however_they_are_batched(batches: list[list[object]]) -> None:
    expected = {}
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(Path(folder) / "S.zarr")
        table = store.statistic("s")
        for batch in batches:
            keyed = {KEYS[len(expected) + index]: value for index, value in enumerate(batch)}
            table.write(list(keyed.items()))  # type: ignore[arg-type]  # drawn values
            expected |= keyed
        for _ in ("as written", "compacted"):
            fresh = Store.open(store.path).statistic("s")
            assert fresh.keys() == frozenset(expected)
            found = fresh.read(expected)
            referred = read_references(store.path, fresh.lookup(expected).values())
            for key, value in expected.items():
                assert same(value, found[key]) and same(value, referred[key])
            table.compact(min_batches=2)
        assert not verify(store)


def test_chosen_fields_and_chosen_keys_only(store: Store) -> None:
    table = store.statistic("s")
    table.write([(key, {"sigma": np.arange(4.0) + i, "n": np.int64(i)}) for i, key in enumerate(KEYS)])
    found = table.read([KEYS[150], KEYS[3], "unknown"], fields=["n", "absent"])
    assert {key: (list(value), int(value["n"])) for key, value in found.items() if isinstance(value, dict)} == {
        KEYS[150]: (["n"], 150),
        KEYS[3]: (["n"], 3),
    }
    assert table.read([]) == {}


def test_one_batch_of_three_hundred_matrices_takes_fewer_than_ten_files(store: Store) -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 60, 300)
    store.statistic("s").write(
        [
            (f"{i:032x}", {"sigma": rng.standard_normal(size), "n": np.int64(i), "ok": np.bool_(i % 2)})
            for i, size in enumerate(sizes)
        ]
    )
    assert len(files_under(store.path / "statistics" / "s")) < 10


def test_the_index_of_equal_fields_is_short(store: Store) -> None:
    store.statistic("s").write([(key, {f"scalar_{n}": np.float64(n) for n in range(20)}) for key in KEYS])
    (index,) = (store.path / "statistics" / "s").glob("*/zarr.json")
    assert index.stat().st_size < 32 * len(KEYS) + 2000, "the keys, and one line per field"


def test_a_larger_extent_counts_then_the_newest(store: Store) -> None:
    table = store.statistic("top")
    table.write([(KEYS[0], {"x": np.arange(10)})], extent=10)
    table.write([(KEYS[0], {"x": np.arange(5)})], extent=5)
    assert table.extent(KEYS[0]) == 10 and table.extent(KEYS[1]) is None
    table.write([(KEYS[0], {"x": np.arange(10) + 1})], extent=10)
    for when in ("written", "read anew", "compacted"):
        read = (table if when == "written" else Store.open(store.path).statistic("top")).read([KEYS[0]])[KEYS[0]]
        assert not isinstance(read, str) and np.array_equal(read["x"], np.arange(10) + 1), when
        table.compact(min_batches=2)
    assert Store.open(store.path).statistic("top").extent(KEYS[0]) == 10


def test_a_reason_has_an_extent_too(store: Store) -> None:
    table = store.statistic("s")
    table.write([(KEYS[0], "the matrix has NaN entries")], extent=7)
    assert table.extent(KEYS[0]) == 7
    assert table.lookup(KEYS)[KEYS[0]].reason == "the matrix has NaN entries"


def test_every_result_tells_how_it_was_computed_also_when_compacted(store: Store) -> None:
    table = store.statistic("s")
    for number in range(3):
        table.write([(KEYS[number], {"x": np.array(number)})], provenance={"torch": f"2.{number}"})
    table.compact(min_batches=2)
    fresh = Store.open(store.path).statistic("s")
    assert [fresh.provenance(KEYS[number])["torch"] for number in range(3)] == ["2.0", "2.1", "2.2"]
    assert "written" in fresh.provenance(KEYS[0])


def test_compacting_leaves_few_files_and_every_result(store: Store) -> None:
    table = store.statistic("s")
    keys = KEYS[:32]
    for number, key in enumerate(keys):
        table.write([(key, {"x": np.full(number % 5, float(number))})])
    assert table.compact(min_batches=len(keys) + 1) == 0, "not worth it yet"
    assert table.compact() == len(keys)
    assert len(files_under(table._folder)) == 4
    found = table.read(keys)
    assert all(np.array_equal(found[key]["x"], np.full(n % 5, float(n))) for n, key in enumerate(keys))  # type: ignore[index]  # no reasons here


def test_a_compaction_killed_before_it_removes_the_parts_loses_and_doubles_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = store.statistic("s")
    for number in range(5):
        table.write([(KEYS[number], {"x": np.array(number)})])

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("pipeline.store.statistics.withdraw", killed)
        table.compact(min_batches=2)
    fresh = Store.open(store.path, "a").statistic("s")
    assert {key: int(value["x"]) for key, value in fresh.read(KEYS).items()} == {KEYS[n]: n for n in range(5)}  # type: ignore[index]  # no reasons
    fresh.compact(min_batches=2)
    assert len(files_under(fresh._folder)) == 4


def test_readers_survive_a_compaction_under_them(store: Store) -> None:
    table = store.statistic("s")
    for number in range(5):
        table.write([(KEYS[number], {"x": np.array(number)})])
    reader = Store.open(store.path).statistic("s")
    references = pickle.loads(pickle.dumps(list(reader.lookup(KEYS).values())))
    store.statistic("s").compact(min_batches=2)
    assert len(reader.read(KEYS)) == 5
    assert int(read_references(store.path, references)[KEYS[3]]["x"]) == 3  # type: ignore[index]  # not a reason


def test_what_another_process_writes_is_seen_when_the_statistic_is_asked_for_again(store: Store) -> None:
    reader = Store.open(store.path)
    assert not reader.statistic("s").keys()
    store.statistic("s").write([(KEYS[0], {"x": np.array(1)})])
    assert reader.statistic("s").keys() == {KEYS[0]}


def test_a_dtype_that_cannot_be_kept_is_refused_with_its_field(store: Store) -> None:
    with pytest.raises(StoreError, match=r"'s'.*0001.*'names'.*object"):
        store.statistic("s").write([(KEYS[1], {"names": np.array([None, {}])})])
    assert not store.statistic("s").keys()


def test_unusual_names_of_statistics_are_safe(store: Store) -> None:
    names = ["../../escape", "zarr.json", "a/b", "", "ä", "x" * 300, "plain.name_1-2"]
    for name in names:
        store.statistic(name).write([(KEYS[0], {"x": np.array(len(name))})])
    fresh = Store.open(store.path)
    assert set(fresh.statistics()) == set(names)
    assert all(int(fresh.statistic(name).read(KEYS)[KEYS[0]]["x"]) == len(name) for name in names)  # type: ignore[index]
    assert len(list((store.path / "statistics").iterdir())) == len(names) + 1


def test_low_precision_results_keep_their_dtype(store: Store) -> None:
    value = np.arange(4).astype(ml_dtypes.bfloat16)
    store.statistic("s").write([(KEYS[0], {"x": value}), ("a key of another length", {"x": value[:0]})])
    found = Store.open(store.path).statistic("s").read([KEYS[0], "a key of another length"])
    assert same({"x": value}, found[KEYS[0]]) and same({"x": value[:0]}, found["a key of another length"])
