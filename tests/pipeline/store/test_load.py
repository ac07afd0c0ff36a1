"""Recipes become torch tensors, and of a fused tensor only the rows that are wanted are read."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzers.contract import LowRank, Sum
from pipeline.archive.recipes import Dense, LowRankProduct, Merged, Op, apply_ops
from pipeline.store import Store
from pipeline.store.load import contiguous_part, to_torch
from tests.pipeline.store.samples import bits, put

RNG = np.random.default_rng(0)


@st.composite
def cuts(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[Op, ...]]:
    """A shape and a chain of ops that is valid on it, as layouts make them."""
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    current, ops = shape, []
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(["select", "slice", "reshape", "permute"]))
        if not current:
            break
        axis = draw(st.integers(0, len(current) - 1))
        size = current[axis]
        if kind == "select" and size:
            ops.append(("select", axis, draw(st.integers(0, size - 1))))
        elif kind == "slice":
            start, stop = sorted((draw(st.integers(0, size)), draw(st.integers(0, size))))
            ops.append(("slice", axis, start, stop, draw(st.integers(1, 2))))
        elif kind == "permute":
            ops.append(("permute", *draw(st.permutations(range(len(current))))))
        elif kind == "reshape":
            divisor = draw(st.sampled_from([d for d in range(1, max(2, current[0] + 1)) if current[0] % d == 0]))
            ops.append(("reshape", current[0] // divisor, divisor, *current[1:]))
        current = apply_ops(np.zeros(shape), tuple(ops)).shape
    return shape, tuple(ops)


@settings(max_examples=150)
@given(cuts())
def test_the_part_that_is_read_gives_what_the_whole_gives(cut: tuple[tuple[int, ...], tuple[Op, ...]]) -> None:
    shape, ops = cut
    whole = np.arange(math.prod(shape)).reshape(shape)
    start, taken, rest = contiguous_part(shape, ops)
    part = whole.reshape(-1)[start : start + math.prod(taken)].reshape(taken)
    assert np.array_equal(apply_ops(part, rest), apply_ops(whole, ops))


@settings(max_examples=15, deadline=None)
@given(cuts())
def test_a_loaded_matrix_is_the_recipe_applied_to_the_tensor(
    tmp_path_factory: pytest.TempPathFactory, cut: tuple[tuple[int, ...], tuple[Op, ...]]
) -> None:
    shape, ops = cut
    store = Store.create(tmp_path_factory.mktemp("s") / "S.zarr")
    tensor = RNG.standard_normal(shape)
    (digest,) = put(store, {"w": tensor}).digests
    loaded = store.load(Dense(digest or "", ops))
    assert isinstance(loaded, torch.Tensor)
    assert np.array_equal(loaded.numpy(), apply_ops(tensor, ops))


def test_one_expert_of_many_reads_its_own_chunk_only(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.store.tensors.create_array.__defaults__", (170_000, None))
    experts = RNG.standard_normal((8, 400, 100)).astype(np.float32)
    (digest,) = put(store, {"experts": experts}).digests
    chunks = store.path / "tensors" / str(digest) / "c"
    for chunk in chunks.iterdir():
        if chunk.name != "5":
            for file in chunk.rglob("*"):
                if file.is_file():
                    file.write_bytes(b"not to be read")
    assert sum(1 for _ in chunks.iterdir()) == 8
    loaded = store.load(Dense(str(digest), (("select", 0, 5), ("permute", 1, 0))))
    assert isinstance(loaded, torch.Tensor) and np.array_equal(loaded.numpy(), experts[5].T)
    half = store.load(Dense(str(digest), (("reshape", 16, 200, 100), ("select", 0, 11))))
    assert isinstance(half, torch.Tensor) and np.array_equal(half.numpy(), experts[5, 200:])


DTYPES = ["float32", "float64", "float16", "int64", "uint8", "bool", "complex64", "uint16"]
NARROW = ["bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"]


@pytest.mark.parametrize("dtype", [*DTYPES, *NARROW])
def test_every_dtype_becomes_torchs_own_with_the_same_bits(store: Store, dtype: str) -> None:
    scalar = np.dtype(getattr(ml_dtypes, dtype) if dtype in NARROW else dtype)
    raw = RNG.integers(0, 2 if dtype == "bool" else 256, 12 * scalar.itemsize, dtype=np.uint8).tobytes()
    tensor = np.frombuffer(raw, scalar).reshape(3, 4)
    (digest,) = put(store, {"w": tensor}).digests
    loaded = store.load(Dense(str(digest)))
    assert isinstance(loaded, torch.Tensor)
    assert (loaded.dtype, tuple(loaded.shape)) == (getattr(torch, dtype), (3, 4))
    held = loaded.view(getattr(torch, f"uint{8 * scalar.itemsize}")) if dtype in NARROW else loaded
    assert bits(held.numpy()) == bits(tensor)
    turned = store.load(Dense(str(digest), (("permute", 1, 0),)))
    assert isinstance(turned, torch.Tensor) and turned.shape == (4, 3)


def test_a_loaded_tensor_is_nobody_elses(store: Store) -> None:
    tensor = RNG.standard_normal((4, 4))
    (digest,) = put(store, {"w": tensor}).digests
    first = store.load(Dense(str(digest)))
    assert isinstance(first, torch.Tensor)
    first.zero_()
    second = store.load(Dense(str(digest)))
    assert isinstance(second, torch.Tensor) and np.array_equal(second.numpy(), tensor)
    assert to_torch(np.broadcast_to(np.float32(1), (2, 2))).shape == (2, 2)


def test_an_adapter_stays_factors_and_its_merge_stays_a_sum(store: Store) -> None:
    tensors = {"w": RNG.standard_normal((6, 5)), "b": RNG.standard_normal((6, 2)), "a": RNG.standard_normal((2, 5))}
    w, b, a = (str(digest) for digest in put(store, tensors).digests)
    product = LowRankProduct(Dense(b), Dense(a), 0.5)
    delta = store.load(product)
    assert isinstance(delta, LowRank) and delta.scale == 0.5 and delta.b.shape == (6, 2) and delta.a.shape == (2, 5)
    merged = store.load(Merged(Dense(w), product))
    assert isinstance(merged, Sum)
    expected = tensors["w"] + 0.5 * tensors["b"] @ tensors["a"]
    assert np.allclose((merged.base + merged.delta.dense()).numpy(), expected, rtol=0, atol=1e-14)
