"""Tensors keep every bit, in every dtype, however they are cut into blocks and chunks."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzers.errors import StoreError
from pipeline.store.tensors import (
    CHUNK_BYTES,
    chunk_shape,
    create_array,
    logical_dtype,
    read_array,
    stored_dtype,
    tensor_digest,
    write_tensor,
)
from tests.pipeline.store.samples import bits

DTYPES = [
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128", "bfloat16"),
    *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"),
]


@st.composite
def tensors(draw: st.DrawFn) -> np.ndarray:
    """Any dtype, any small shape (0-d and empty ones too), any bit pattern."""
    dtype = logical_dtype(draw(st.sampled_from(DTYPES)))
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=3)))
    raw = draw(st.binary(min_size=math.prod(shape) * dtype.itemsize, max_size=math.prod(shape) * dtype.itemsize))
    if dtype == np.bool_:
        raw = bytes(byte & 1 for byte in raw)
    return np.frombuffer(raw, dtype).reshape(shape)


@settings(max_examples=40, deadline=None)
@given(tensors())
def test_a_tensor_comes_back_bit_for_bit(tensor: np.ndarray) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t"
        written = write_tensor(path, tensor.dtype, tensor.shape, [tensor], {})
        back = read_array(path)
    assert (back.dtype, back.shape, bits(back)) == (tensor.dtype, tensor.shape, bits(tensor))
    assert written == tensor_digest(tensor)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_zarr_reader_can_open_every_dtype_and_finds_its_logical_name(dtype: str, tmp_path: Path) -> None:
    tensor = np.frombuffer(bytes([0, 1] * 48), logical_dtype(dtype))
    write_tensor(tmp_path / "t", tensor.dtype, tensor.shape, [tensor], {})
    array = zarr.open_array(tmp_path / "t", mode="r")
    assert array.attrs["logical_dtype"] == dtype
    assert bits(np.asarray(array[...])) == bits(tensor)


@pytest.mark.parametrize("fill", [-0.0, np.nan, 0.0])
def test_chunks_of_one_value_keep_the_sign_of_zero_and_the_payload_of_nan(fill: float, tmp_path: Path) -> None:
    tensor = np.full((8, 8), fill, np.float32)
    if np.isnan(fill):
        tensor.view(np.uint32)[...] = 0xFFC0_1234  # a quiet NaN with a payload
    write_tensor(tmp_path / "t", tensor.dtype, tensor.shape, [tensor], {})
    assert bits(read_array(tmp_path / "t")) == bits(tensor)


def test_big_endian_and_strided_values_are_the_same_tensor() -> None:
    tensor = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert tensor_digest(tensor.astype(">f4")) == tensor_digest(tensor)
    assert tensor_digest(np.asfortranarray(tensor)) == tensor_digest(tensor)


def test_the_digest_tells_dtype_shape_and_bits_apart() -> None:
    values = np.zeros((2, 6), np.float32)
    others = [values.reshape(3, 4), values.reshape(12), values.view(np.int32), -values, values.view(np.uint16)]
    assert len({tensor_digest(other) for other in [values, *others]}) == 6
    assert tensor_digest(values) != tensor_digest(np.zeros((2, 6), np.float32) + np.float32(1e-45))
    assert tensor_digest(np.zeros(4, ml_dtypes.bfloat16)) != tensor_digest(np.zeros(4, np.uint16))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.lists(st.integers(1, 9), min_size=1, max_size=20), st.integers(1, 7))
def test_the_heights_of_the_blocks_do_not_matter(rows: int, heights: list[int], chunk_rows: int) -> None:
    tensor = np.arange(rows * 3, dtype=np.int16).reshape(rows, 3)
    blocks, start = [], 0
    while start < rows:
        height = heights[len(blocks) % len(heights)]
        blocks.append(tensor[start : start + height])
        start += height
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.store.tensors.create_array", _with_chunks(chunk_rows * 6))
        path = Path(folder) / "t"
        written = write_tensor(path, tensor.dtype, tensor.shape, blocks, {})
        assert written == tensor_digest(tensor)
        assert np.array_equal(read_array(path), tensor)
        first, last = rows // 3, max(rows // 3, rows - 1)
        assert np.array_equal(read_array(path, (first, last)), tensor[first:last])


def _with_chunks(chunk_bytes: int) -> Callable[..., zarr.Array]:
    return lambda path, dtype, shape, attributes: create_array(path, dtype, shape, attributes, chunk_bytes)


@settings(deadline=None)
@given(st.lists(st.integers(0, 3000), max_size=4).map(tuple), st.sampled_from([1, 2, 4, 8, 16]))
def test_chunks_are_even_blocks_of_whole_rows_and_never_much_too_large(shape: tuple[int, ...], itemsize: int) -> None:
    chunks = chunk_shape(shape, itemsize, 2**16)
    assert len(chunks) == len(shape) and all(1 <= c <= max(1, s) for c, s in zip(chunks, shape, strict=True))
    # Rounding rows up to even blocks less than doubles each cut axis, and an axis is cut to 1 before the next is.
    assert itemsize * math.prod(chunks) <= 2 * 2**16
    for axis, (chunk, extent) in enumerate(zip(chunks, shape, strict=True)):
        if chunk < extent:
            assert all(c == 1 for c in chunks[:axis]), "a leading axis is cut to single rows before a later one is cut"
            blocks = math.ceil(extent / chunk)
            assert blocks * chunk - extent < blocks, "even: the last block lacks less than one row per block"


def test_a_large_tensor_is_cut_at_about_32_mib() -> None:
    assert chunk_shape((4096, 4096), 2) == (4096, 4096)
    assert chunk_shape((4096, 4096), 4) == (2048, 4096)
    assert chunk_shape((8, 4096, 14336), 2) == (1, 1024, 14336)
    assert CHUNK_BYTES == 2**25


def test_an_unknown_dtype_is_named() -> None:
    with pytest.raises(StoreError, match="float3_e1m1"):
        logical_dtype("float3_e1m1")
    assert stored_dtype(np.dtype(ml_dtypes.bfloat16)) == np.uint16


def test_a_flipped_byte_is_noticed_when_it_is_read(tmp_path: Path) -> None:
    tensor = np.random.default_rng(0).standard_normal((64, 64))
    write_tensor(tmp_path / "t", tensor.dtype, tensor.shape, [tensor], {})
    chunk = tmp_path / "t" / "c" / "0" / "0"
    damaged = bytearray(chunk.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    chunk.write_bytes(damaged)
    with pytest.raises(StoreError, match="damaged"):
        read_array(tmp_path / "t")


def test_a_chunk_that_is_gone_is_an_error_and_not_zeros(tmp_path: Path) -> None:
    tensor = np.ones((64, 64))
    write_tensor(tmp_path / "t", tensor.dtype, tensor.shape, [tensor], {})
    (tmp_path / "t" / "c" / "0" / "0").unlink()
    with pytest.raises(StoreError, match="missing"):
        read_array(tmp_path / "t")
