"""Results read field by field are those that are read one by one."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.store import Store
from pipeline.store.statistics import StatisticTable

RESULTS = st.lists(
    st.lists(
        st.tuples(st.integers(0, 9), st.sampled_from(["short", "long", "other fields", "reason"])),
        min_size=1,
        max_size=8,
        unique_by=lambda pair: pair[0],
    ),
    min_size=1,
    max_size=4,
)


def _value(kind: str, number: int) -> dict[str, np.ndarray] | str:
    if kind == "reason":
        return f"reason {number}"
    if kind == "other fields":
        return {"rank": np.array(number, np.int64)}
    size = 3 if kind == "short" else 5
    return {"sigma": np.arange(size) + float(number), "rank": np.array(number, np.int64)}


def _table(root: Path, batches: list[list[tuple[int, str]]]) -> StatisticTable:
    table = Store.create(root / "S.zarr").statistic("spectrum")
    number = 0
    for batch in batches:
        table.write([(f"key{at}", _value(kind, number := number + 1)) for at, kind in batch])
    return table


@settings(max_examples=60, deadline=None)
@given(batches=RESULTS, order=st.permutations(range(12)))
def test_columns_hold_what_read_gives_whatever_the_batches_shapes_and_order(
    batches: list[list[tuple[int, str]]], order: list[int]
) -> None:
    with tempfile.TemporaryDirectory() as root:
        table = _table(Path(root), batches)
        keys = [f"key{at}" for at in order]  # two of them are never stored
        single = table.read(keys)
        columns = table.columns(keys)
        for field in ("sigma", "rank", "no such field"):
            expected = {key: v[field] for key, v in single.items() if not isinstance(v, str) and field in v}
            found: dict[str, np.ndarray] = {}
            shapes = []
            for pieces in columns.shapes(field):
                positions, values = columns.read(pieces)
                shapes.append(values.shape[1:])
                assert len(positions) == len(values)
                found.update({keys[at]: value for at, value in zip(positions, values, strict=True)})
            assert len(set(shapes)) == len(shapes)
            assert found.keys() == expected.keys()
            for key, value in expected.items():
                np.testing.assert_array_equal(found[key], value, strict=True)
        assert table.reasons(keys) == {key: value for key, value in single.items() if isinstance(value, str)}
