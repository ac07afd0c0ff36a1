"""Exact tensors as Zarr arrays: every dtype bit for bit, in chunks of whole rows, hashed as they stream by.

bfloat16 and float8, which Zarr lacks, are stored as a uint16 or uint8 view with the attribute `logical_dtype`.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import blake3
import ml_dtypes
import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from analyzers.errors import DamageError, StoreError
from pipeline.store.clock import is_running, spend
from pipeline.store.documents import DIGEST, REPAIR, check_array, damage, seal_array

CHUNK_BYTES = 32 * 2**20
_NATIVE = frozenset(
    (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "complex64", "complex128"),
    )
)


def logical_dtype(name: str) -> np.dtype:
    """The numpy (or ml_dtypes) dtype of a name such as "float32", "bfloat16", "float8_e4m3fn"."""
    if name in _NATIVE:
        return np.dtype(name)
    scalar = getattr(ml_dtypes, name, None)
    if scalar is None:
        raise StoreError(f"unknown dtype {name!r}: it is neither numpy's nor one of ml_dtypes {ml_dtypes.__version__}")
    return np.dtype(scalar)


@functools.lru_cache(maxsize=256)  # numpy takes microseconds to spell a dtype's name
def stored_dtype(dtype: np.dtype) -> np.dtype:
    """What Zarr holds for `dtype`: itself, or the unsigned integer of its size."""
    return dtype if dtype.name in _NATIVE else np.dtype(f"u{dtype.itemsize}")


def plain(array: np.ndarray) -> np.ndarray:
    """`array` in C order, little-endian, viewed in the dtype that Zarr holds; the shape stays."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False) if array.dtype.byteorder == ">" else array
    return np.asarray(little, order="C").view(stored_dtype(little.dtype))


def is_constant(array: np.ndarray) -> bool:
    """Whether all entries have the same bits; true of an empty array."""
    held = plain(array).reshape(-1)
    return bool((held == held[:1]).all())


def is_sealed(array: zarr.Array) -> bool:
    """Whether the array's metadata carry a digest; those of the first stores do not."""
    return DIGEST in array.attrs


class TensorDigest:
    """blake3 (128 bits, hex) over dtype, shape and bytes in C order, fed block by block."""

    def __init__(self, dtype: str, shape: tuple[int, ...]) -> None:
        self._hash = blake3.blake3(f"{dtype}{list(shape)}\0".encode())

    def update(self, block: np.ndarray) -> None:
        """Adds the next rows (any array in C order)."""
        self._hash.update(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)

    def hexdigest(self) -> str:
        """32 hex digits."""
        return self._hash.hexdigest(length=16)


def tensor_digest(array: np.ndarray) -> str:
    """Digest of a tensor in memory; equal exactly when dtype name, shape and bits are."""
    digest = TensorDigest(array.dtype.name, array.shape)
    digest.update(plain(array))
    return digest.hexdigest()


def chunk_shape(shape: tuple[int, ...], itemsize: int, chunk_bytes: int = CHUNK_BYTES) -> tuple[int, ...]:
    """Whole tensor, or even blocks of leading rows of at most about `chunk_bytes` (Zarr pads a ragged last chunk)."""
    chunks = [max(1, extent) for extent in shape]
    for axis, extent in enumerate(chunks):
        nbytes = itemsize * math.prod(chunks)
        if nbytes <= chunk_bytes:
            break
        blocks = min(extent, math.ceil(nbytes / chunk_bytes))
        chunks[axis] = math.ceil(extent / blocks)
        if chunks[axis] > 1:  # a row fits: rounding up to even blocks is all that may exceed
            break
    return tuple(chunks)


def create_array(
    path: Path,
    dtype: np.dtype,
    shape: tuple[int, ...],
    attributes: Mapping[str, Any],
    chunk_bytes: int = CHUNK_BYTES,
    typesize: int | None = None,
) -> zarr.Array:
    """A new Zarr array at `path`: blosc lz4 bitshuffle, a checksum per chunk and of the metadata, every chunk written.

    An 'empty' chunk is one that *equals* the fill value, and -0.0 == 0.0: skipping those would lose bits.
    """
    held = stored_dtype(dtype)
    array = zarr.create_array(
        store=str(path),
        shape=shape,
        dtype=held,
        chunks=chunk_shape(shape, held.itemsize, chunk_bytes),
        filters=None,
        compressors=[
            BloscCodec(cname="lz4", shuffle="bitshuffle", clevel=5, typesize=typesize or held.itemsize),
            Crc32cCodec(),
        ],
        fill_value=False if held.kind == "b" else 0,
        attributes={**attributes, "logical_dtype": dtype.name},
        config={"write_empty_chunks": True},
    )
    seal_array(path)
    return array


def write_tensor(
    path: Path, dtype: np.dtype, shape: tuple[int, ...], blocks: Iterable[np.ndarray], attributes: Mapping[str, Any]
) -> str:
    """Writes consecutive row blocks (of any heights) as one array and returns the digest of what was written.

    Memory: one row of chunks beside the reader's block.
    """
    array = create_array(path, dtype, shape, attributes)
    digest = TensorDigest(dtype.name, shape)
    if not shape:
        (value,) = blocks
        array[...] = plain(value)
        digest.update(plain(value))
        return digest.hexdigest()
    row = 0
    for block in rechunk(blocks, dtype, shape[1:], array.chunks[0]):
        array[row : row + len(block)] = block
        digest.update(block)
        row += len(block)
    return digest.hexdigest()


def rechunk(
    blocks: Iterable[np.ndarray], dtype: np.dtype, row_shape: tuple[int, ...], rows: int
) -> Iterator[np.ndarray]:
    """The same rows in blocks of exactly `rows` (the last may be shorter), in the stored dtype.

    A yielded block may be the buffer that the next one is gathered in: use it up before asking for the next.
    """
    held = stored_dtype(dtype)
    buffer, filled = np.empty((0, *row_shape), held), 0
    for block in blocks:
        values, start = plain(block), 0
        while start < len(values):
            if not filled and len(values) - start >= rows:
                yield values[start : start + rows]
                start += rows
                continue
            if len(buffer) < rows:
                buffer = np.empty((rows, *row_shape), held)
            taken = min(rows - filled, len(values) - start)
            buffer[filled : filled + taken] = values[start : start + taken]
            filled, start = filled + taken, start + taken
            if filled == rows:
                yield buffer
                filled = 0
    if filled:
        yield buffer[:filled]


def read_array(path: Path, rows: tuple[int, int] | None = None, array: zarr.Array | None = None) -> np.ndarray:
    """The tensor at `path`, or its rows start..stop along axis 0, in its logical dtype. `array`: opened before."""
    array = array if array is not None else open_array(path)
    dtype = logical_dtype(str(array.attrs["logical_dtype"]))
    if not array.shape:
        return read_rows(path, array, 0, 1).view(dtype).reshape(())
    start, stop, _ = slice(*(rows or (None,))).indices(array.shape[0])
    return read_rows(path, array, start, max(start, stop)).view(dtype)


def read_rows(path: Path, array: zarr.Array, start: int, stop: int) -> np.ndarray:
    """Rows start..stop of the array at `path` as it is held (a 0-d array has one row, and comes as a 1-D array).

    Read in turn by rows of chunks, so that no more than one of them is in memory beside the result. DamageError names
    the chunk that is damaged, or gone (which Zarr alone would read as zeros).
    """
    if not array.shape:
        with _chunk_errors(path, array, 0):
            return np.asarray(array[...]).reshape(1)
    out = np.empty((stop - start, *array.shape[1:]), array.dtype)
    if out.size:
        for first, last in row_blocks(array, start, stop):
            with _chunk_errors(path, array, first // array.chunks[0]):
                if is_running():
                    _read_apart(path, array, first // array.chunks[0])
                with spend("decode"):
                    out[first - start : last - start] = array[first:last]
    return out


def _read_apart(path: Path, array: zarr.Array, row: int) -> None:
    """Reads the files of a row of chunks once before Zarr does, which reads and decodes in one: then that is decoding
    with the bytes at hand."""
    with spend("read"):
        for file in chunk_files(path, array, row):
            if file.exists():
                file.read_bytes()


def chunk_files(path: Path, array: zarr.Array, row: int) -> list[Path]:
    """The files of one row of chunks of the array at `path`."""
    if not array.shape:
        return [path / "c"]
    grid = [range(-(-extent // chunk)) for extent, chunk in zip(array.shape[1:], array.chunks[1:], strict=True)]
    return [path.joinpath("c", str(row), *map(str, at)) for at in itertools.product(*grid)]


@contextmanager
def _chunk_errors(path: Path, array: zarr.Array, row: int) -> Iterator[None]:
    files = chunk_files(path, array, row)
    gone = [str(file) for file in files if not file.exists()]
    if gone:
        raise DamageError(f"{gone[0]} is missing: {REPAIR}")
    try:
        yield
    except (ValueError, OSError, RuntimeError) as error:  # a checksum that fails, blosc's refusal, a bad disk
        where = files[0] if len(files) == 1 else files[0].parent
        raise damage(where, str(error)) from error


def row_blocks(array: zarr.Array, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """(first, last) of the pieces of rows start..stop that lie in one row of chunks each."""
    rows = array.chunks[0]
    first = start
    while first < stop:
        last = min(stop, (first // rows + 1) * rows)
        yield first, last
        first = last


def open_array(path: Path) -> zarr.Array:
    """The Zarr array at `path`; DamageError when its metadata are missing, unreadable or do not give their digest."""
    check_array(path)
    try:
        return zarr.open_array(store=str(path), mode="r", zarr_format=3)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damage(path, f"it is not a readable Zarr array: {error}") from error
