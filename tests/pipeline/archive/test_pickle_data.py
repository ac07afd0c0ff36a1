"""A pickle is read as data: plain values as pickle itself reads them, everything else described and never called."""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
import tracemalloc
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.archive.formats.pickle_data import Call, Global, PickleError, read_pickle

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**300), 2**300)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8"))
    | st.binary(max_size=300),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="utf-8")) | st.integers(), inner, max_size=4)
        | st.tuples(inner, inner)
    ),
    max_leaves=20,
)


@given(value=plain, protocol=st.integers(3, 5))
def test_plain_values_are_read_as_pickle_reads_them(value: Any, protocol: int) -> None:
    assert read_pickle(pickle.dumps(value, protocol)) == value


@given(value=st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists), protocol=st.integers(0, 2))
def test_the_old_text_protocols_are_read_too(value: Any, protocol: int) -> None:
    assert read_pickle(pickle.dumps(value, protocol)) == value


class Hostile:
    """Unpickling this touches a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", range(6))
def test_a_hostile_reduce_does_not_run(protocol: int, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    data = pickle.dumps({"x": Hostile(marker)}, protocol)
    call = read_pickle(data)["x"]
    assert isinstance(call, Call) and isinstance(call.function, Global) and call.function.name == "system"
    assert not marker.exists()
    pickle.loads(data)
    assert marker.exists(), "the attack itself works, so that not running it means something"


def test_objects_keep_what_would_be_put_into_them() -> None:
    ordered = read_pickle(pickle.dumps(OrderedDict(a=1, b=2)))
    assert ordered.entries == {"a": 1, "b": 2}
    # Not an exception: distributed teaches pickle another way to write those, once anything imported it.
    part = read_pickle(pickle.dumps(slice(1, 2), 4))
    assert (part.function.name, part.args) == ("slice", (1, 2, None))


def nested(depth: int, wrap: bytes) -> bytes:
    return b"\x80\x04N" + wrap * depth + b"."


@pytest.mark.parametrize(
    "data",
    [
        # A memo index of 2³¹ makes the C unpickler allocate 32 GB.
        b"\x80\x04Nr" + struct.pack("<I", 2**31) + b".",
        # A string that claims 2⁶² bytes.
        b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x.",
        nested(200_000, b"\x85"),
        b"\x80\x04}" + b"N" + b"\x85" * 200_000 + b"Ns.",
        b"\x80\x04]" + b"\x94h\x00a" * 1000 + b".",
    ],
    ids=["memo", "length", "deep tuple", "deep tuple as a key", "a list of itself"],
)
def test_a_bomb_takes_little_memory(data: bytes) -> None:
    tracemalloc.start()
    try:
        read_pickle(data)
    except PickleError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 100 << 20


def test_more_opcodes_than_is_sensible_end_in_an_error() -> None:
    with pytest.raises(PickleError, match="more than 100 opcodes"):
        read_pickle(b"\x80\x04" + b"N0" * 100 + b"N.", max_opcodes=100)


@given(data=st.binary(max_size=80))
def test_any_bytes_are_a_value_or_a_pickle_error(data: bytes) -> None:
    with contextlib.suppress(PickleError):
        read_pickle(data)


@given(value=plain, cut=st.floats(0, 1, exclude_max=True))
def test_a_cut_pickle_is_an_error(value: Any, cut: float) -> None:
    data = pickle.dumps(value, 4)
    with pytest.raises(PickleError):
        read_pickle(data[: int(len(data) * cut)])
