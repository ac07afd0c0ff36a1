"""Documents are Zarr groups, written whole or not at all."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from analyzers.errors import DamageError, StoreError
from pipeline.store import Store
from pipeline.store.documents import (
    FILE,
    create_document,
    decode,
    encode,
    read_document,
    replace_document,
)

json_data = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def same(one: object, other: object) -> bool:
    """Equality in which NaN equals NaN."""
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    return type(one) is type(other) and one == other


@given(st.dictionaries(st.text(max_size=5), json_data, max_size=4))
def test_attributes_come_back_with_nan_and_infinity_in_standard_json(attributes: dict[str, object]) -> None:
    data = encode(attributes, Path("x"))
    json.loads(data, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    back = decode(data, Path("x"))
    assert same(back, attributes)


def test_a_document_is_a_zarr_group(store: Store) -> None:
    create_document(store.path, store.path / "layouts" / "one", {"a": 1})
    assert zarr.open_group(store.path / "layouts" / "one", mode="r").attrs["a"] == 1


def test_the_second_writer_of_a_new_document_is_told(store: Store) -> None:
    target = store.path / "layouts" / "one"
    assert create_document(store.path, target, {"a": 1})
    assert not create_document(store.path, target, {"a": 2})
    assert read_document(target)["a"] == 1
    replace_document(store.path, target, {"a": 3})
    assert read_document(target)["a"] == 3
    assert [path.name for path in (store.path / "tmp").iterdir()] == [FILE], "nothing is left behind"


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"node_type": "array"}', b'{"node_type": "group", "attributes": 3}', b"\xff"]
)
def test_a_damaged_document_is_named(store: Store, content: bytes) -> None:
    (store.path / "layouts" / FILE).write_bytes(content)
    with pytest.raises(StoreError, match="layouts"):
        read_document(store.path / "layouts")


def test_a_changed_byte_inside_valid_json_is_noticed(store: Store) -> None:
    target = store.path / "layouts" / "one"
    create_document(store.path, target, {"base": "run@30"})
    (target / FILE).write_bytes((target / FILE).read_bytes().replace(b"run@30", b"run@31"))
    with pytest.raises(DamageError, match="does not match its digest"):
        read_document(target)


def test_an_error_quotes_no_whole_document(store: Store) -> None:
    target = store.path / "layouts" / "one"
    create_document(store.path, target, {"names": ["a long name"] * 10_000})
    (target / FILE).write_bytes(
        (target / FILE).read_bytes().replace(b'"attributes":{', b'"attributes":[{').replace(b"}}", b"}]}")
    )
    with pytest.raises(DamageError) as caught:
        read_document(target)
    assert "attributes are" in str(caught.value) and len(str(caught.value)) < 600


def test_what_is_not_json_is_refused_and_named(store: Store) -> None:
    with pytest.raises(StoreError, match="object"):
        create_document(store.path, store.path / "layouts" / "one", {"a": object()})
    assert not (store.path / "layouts" / "one").exists()
