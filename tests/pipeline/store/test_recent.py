"""What was read last is kept, within bounds, and never outlives the file that it was read from."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pipeline.store.packs as packs
import pipeline.store.recent as recent
from analyzers.errors import StoreError
from pipeline.store import Store
from pipeline.store.recent import Recent
from tests.pipeline.store.samples import put


@given(st.lists(st.integers(0, 30), max_size=200))
def test_what_is_kept_never_exceeds_the_limit_and_is_the_last_used(keys: list[int]) -> None:
    kept: Recent[np.ndarray] = Recent(40, lambda value: value.nbytes)
    for key in keys:
        assert kept.get(key, lambda key=key: np.full(key, key, np.uint8)).nbytes == key
        assert kept.held <= 40
    if keys:
        kept.get(keys[-1], lambda: pytest.fail("the last one used is kept"))


def test_tensors_of_one_pack_are_decoded_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {f"w{i}": np.random.default_rng(i).standard_normal((20, 30)) for i in range(50)}
    record = put(store, tensors)
    decoded = []
    read_rows = recent.read_rows
    monkeypatch.setattr(recent, "read_rows", lambda *a: decoded.append(a[2:]) or read_rows(*a))
    digests = store.digests(record)
    with ThreadPoolExecutor(1) as pool:
        values = dict(pool.map(lambda name: (name, store.read_tensor(digests[name] or "")), tensors))
    assert len(decoded) == 1
    assert all(np.array_equal(values[name], tensors[name]) for name in tensors)
    values["w0"][:] = 0
    assert np.array_equal(store.read_tensor(digests["w0"] or ""), tensors["w0"]), "each reader owns what it reads"


def test_a_small_tensor_is_checked_once_while_its_files_stay(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    value = np.random.default_rng(0).standard_normal((20, 30))
    (digest,) = put(store, {"w": value}).digests
    checked: list[str] = []
    tensor_digest = packs.tensor_digest
    monkeypatch.setattr(packs, "tensor_digest", lambda values: checked.append("") or tensor_digest(values))
    for _ in range(3):
        assert np.array_equal(store.read_tensor(digest or ""), value)
    assert np.array_equal(store.read_tensor(digest or "", (5, 7)), value[5:7])
    assert len(checked) == 1
    (chunk,) = store.path.glob("packs/*/c/0")
    chunk.write_bytes(chunk.read_bytes())
    store.read_tensor(digest or "")
    assert len(checked) == 2
    recent.forget()
    store.read_tensor(digest or "")
    assert len(checked) == 3


def test_a_chunk_that_goes_bad_after_it_was_read_is_noticed(store: Store) -> None:
    record = put(store, {"w": np.random.default_rng(0).standard_normal((20, 30))})
    (digest,) = record.digests
    store.read_tensor(digest or "")
    (chunk,) = store.path.glob("packs/*/c/0")
    chunk.write_bytes(chunk.read_bytes()[:-5] + b"wrong")
    with pytest.raises(StoreError, match="is damaged"):
        store.read_tensor(digest or "")
