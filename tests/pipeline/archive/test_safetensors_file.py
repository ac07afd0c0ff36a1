"""safetensors files: every tensor bit for bit, and no header believed that does not fit its file."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzers.errors import ArchiveError
from pipeline.archive.dtypes import NUMPY
from pipeline.archive.formats import scan
from pipeline.archive.formats.safetensors_file import DTYPES
from pipeline.archive.reader import TensorReader
from tests.pipeline.archive.folders import bits, save, torch_bits, weights
from tests.pipeline.archive.test_torch_zip import random_tensor

READABLE = sorted(set(DTYPES.values()))


def reader(path: Path) -> TensorReader:
    return TensorReader(path, scan(path))


@settings(deadline=None, max_examples=100)
@given(
    tensors=st.lists(
        st.tuples(st.sampled_from(READABLE), st.lists(st.integers(0, 6), max_size=3).map(tuple)), min_size=1, max_size=5
    ),
    block_bytes=st.integers(1, 200),
)
def test_any_dtypes_and_shapes_are_read_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, tensors: list[Any], block_bytes: int
) -> None:
    state = {f"t{at}": random_tensor(dtype, shape, at) for at, (dtype, shape) in enumerate(tensors)}
    path = save(tmp_path_factory.mktemp("any") / "any.safetensors", state)
    with reader(path) as opened:
        assert {header.name for header in opened.headers} == set(state)
        for name, tensor in state.items():
            assert bits(opened.read(name)) == torch_bits(tensor)
            blocks = list(opened.blocks(name, block_bytes))
            assert bits(np.concatenate(blocks) if tensor.ndim else blocks[0]) == torch_bits(tensor)


def test_every_dtype_of_numpy_that_the_format_has_a_name_for_is_read() -> None:
    assert set(READABLE) == set(NUMPY) - {"complex128"}


def test_a_dtype_packed_below_a_byte_costs_only_its_tensor(tmp_path: Path) -> None:
    state = {"w": torch.ones(2, 2), "packed": torch.zeros(2, 2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)}
    contents = scan(save(tmp_path / "f4.safetensors", state))
    assert set(contents.places) == {"w"}
    assert [(problem.tensor, "F4" in problem.reason) for problem in contents.problems] == [("packed", True)]


def test_the_step_in_its_metadata_and_removed_ties_are_told(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    safetensors.torch.save_file(weights(), path, metadata={"step": "120", "head.weight": "fc1.weight", "format": "pt"})
    contents = scan(path)
    assert contents.steps == {"step": 120}
    assert contents.notes == ("tied: head.weight is fc1.weight",)


def written(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def entry(begin: Any, end: Any, shape: Any = (2,), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape) if isinstance(shape, tuple) else shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "data", "fault"),
    [
        ({"w": entry(0, 8)}, 4, "w: ends at byte .* truncated"),
        ({"w": entry(0, 8)}, 12, "4 bytes after the last tensor"),
        ({"w": entry(0, 8), "v": entry(4, 12)}, 12, "v: overlaps w"),
        ({"w": entry(0, 8), "v": entry(12, 20)}, 20, "v: leaves 4 bytes unused after w"),
        ({"w": entry(0, 12)}, 12, r"F32 \[2\] does not fit into its 12 bytes"),
        ({"w": entry(0, 8, shape=(2**62, 4))}, 8, "does not fit"),
        ({"w": entry(0, 8, shape=(-2, -1))}, 8, "implausible shape"),
        ({"w": entry(0, 8, shape=[True, 2])}, 8, "implausible shape"),
        ({"w": entry(0, 8, shape="2")}, 8, "implausible shape"),
        ({"w": entry(8, 0)}, 8, "implausible shape"),
        ({"w": entry(-8, 0)}, 8, "implausible shape"),
        ({"w": entry(0, 8, dtype="F31")}, 8, "unknown dtype 'F31'"),
        ({"w": entry(0, 8, dtype=["F32"])}, 8, "unknown dtype"),
        ({"w": 3}, 8, "lacks a dtype, a shape or two data_offsets"),
        ({"w": {"dtype": "F32"}}, 8, "lacks a dtype, a shape or two data_offsets"),
        ({"__metadata__": [1], "w": entry(0, 8)}, 8, "__metadata__"),
        ([1, 2], 0, "JSON list"),
        (b'{"w": ', 0, "not valid JSON"),
        (b"\xff\xfe\x00", 0, "not valid JSON"),
        (b'{"w":' + b"[" * 100_000, 0, "not valid JSON"),
        (b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"w":{}}', 8, "twice"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(tmp_path: Path, header: Any, data: int, fault: str) -> None:
    path = written(tmp_path / "bad.safetensors", header, bytes(data))
    with pytest.raises(ArchiveError, match=f"bad.safetensors: .*{fault}"):
        scan(path)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 1000])
def test_a_header_length_beyond_the_file_is_refused_without_allocating(tmp_path: Path, length: int) -> None:
    with pytest.raises(ArchiveError, match="the header claims"):
        scan(written(tmp_path / "bad.safetensors", {}, length=length))


@settings(deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_refused(tmp_path_factory: pytest.TempPathFactory, share: float) -> None:
    path = save(tmp_path_factory.mktemp("cut") / "c.safetensors")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ArchiveError, match=r"c\.safetensors"):
        scan(path)


@settings(deadline=None, max_examples=200)
@given(at=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_a_file_with_a_changed_byte_is_read_or_is_an_archive_error(
    tmp_path_factory: pytest.TempPathFactory, at: float, byte: int
) -> None:
    raw = bytearray(safetensors.torch.save(weights()))
    raw[int(at * len(raw))] = byte
    path = tmp_path_factory.mktemp("fuzz") / "f.safetensors"
    path.write_bytes(raw)
    try:
        with reader(path) as tensors:
            for header in tensors.headers:
                tensors.read(header.name)
    except ArchiveError:
        pass


def test_a_huge_tensor_comes_in_blocks_without_being_in_memory(tmp_path: Path) -> None:
    # A sparse file of 1 TiB: reading more than a block of it would end in a MemoryError, or take minutes.
    shape, nbytes = (1 << 18, 1 << 20), 1 << 40
    path = written(tmp_path / "huge.safetensors", {"w": entry(0, nbytes, shape)})
    try:
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size + nbytes)
    except OSError as error:
        pytest.skip(f"no sparse file of 1 TiB here: {error}")
    try:
        with reader(path) as tensors:
            first = next(tensors.blocks("w", 10 << 20))
    finally:
        path.unlink()
    assert first.shape == (2, 1 << 20)
