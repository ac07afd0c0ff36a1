"""Keys by number answer as a dict of strings does."""

from __future__ import annotations

import sys

from hypothesis import given
from hypothesis import strategies as st

from pipeline.store.key_index import KeyIndex, PackedKeys, packed

DIGESTS = st.binary(min_size=16, max_size=16).map(bytes.hex)
KEYS = st.one_of(DIGESTS, st.text(max_size=40), DIGESTS.map(str.upper), st.sampled_from(["", "a", "0" * 32, " " * 32]))


def _in_a_dict(keys: list[str]) -> dict[str, int]:
    rows: dict[str, int] = {}
    for key in keys:
        rows.setdefault(key, len(rows))
    return rows


@given(st.lists(KEYS, max_size=200))
def test_keys_have_the_rows_that_a_dict_would_give_them(keys: list[str]) -> None:
    index, expected = KeyIndex(), _in_a_dict(keys)
    assert [index.add(key) for key in keys] == [expected[key] for key in keys]
    assert list(index) == list(expected) and len(index) == len(expected)
    assert index.rows(keys).tolist() == [expected[key] for key in keys]


@given(st.lists(st.lists(st.integers(0, 300).map(lambda n: f"{n:032x}")), max_size=6))
def test_many_keys_at_once_are_as_one_by_one(batches: list[list[str]]) -> None:
    index, expected = KeyIndex(), _in_a_dict([key for batch in batches for key in batch])
    for batch in batches:
        keys = packed("".join(batch), 32)
        assert isinstance(keys, PackedKeys) and list(keys) == batch == [keys[at] for at in range(len(batch))]
        assert index.add_all(keys).tolist() == [expected[key] for key in batch]
    assert list(index) == list(expected)
    assert all(index.get(key) == row for key, row in expected.items())
    assert index.get("f" * 32) is None and "f" * 32 not in index


def test_a_key_takes_less_than_fifty_bytes() -> None:
    keys = PackedKeys(b"".join(number.to_bytes(16, "little") for number in range(100_000)))
    index = KeyIndex()
    index.add_all(keys)
    held = index._digests.nbytes + index._slots.nbytes + sys.getsizeof(keys.digests)
    assert held < 50 * len(keys)
