"""safetensors: 8 bytes of header length, a JSON header, then the tensors' bytes, row-major and little-endian.

Every header is checked (dtype × shape against its span, inside the file, no overlap, no hole) before it is believed.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from analyzers.errors import ArchiveError
from pipeline.archive.dtypes import NUMPY
from pipeline.archive.formats.contents import BytePlace, FileContents, row_major
from pipeline.archive.guarded import open_regular, short
from pipeline.archive.jsonfile import MAX_BYTES, parse_json
from pipeline.archive.types import Problem, TensorHeader

NAME = "safetensors"

# The reference implementation takes 100 MB; this is enough for 200 000 tensors.
MAX_HEADER_BYTES = MAX_BYTES
# A longer name of a tensor is none.
MAX_NAME = 1024

DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
}
# Known to the format, and packed below one byte per value: listed, not read.
PACKED_BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}


def scan(path: Path) -> FileContents:
    """The tensors of one safetensors file, from its header. ArchiveError says what is wrong with a damaged one."""
    header, data_start, data_bytes = _read_header(path)
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict):
        raise ArchiveError(f"{path}: __metadata__ is a {type(metadata).__name__}, not an object")
    places: dict[str, BytePlace] = {}
    problems: list[Problem] = []
    spans: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        dtype, shape, begin, end = _entry(path, name, entry)
        bits = PACKED_BITS.get(dtype) or 8 * NUMPY[DTYPES[dtype]].itemsize
        if (end - begin) * 8 != math.prod(shape) * bits:
            raise ArchiveError(f"{path}: {name}: {dtype} {list(shape)} does not fit into its {end - begin} bytes")
        if end > data_bytes:
            raise ArchiveError(
                f"{path}: {name}: ends at byte {data_start + end}, but the file has {data_start + data_bytes} bytes: "
                "truncated, or still being written"
            )
        spans.append((begin, end, name))
        if dtype in PACKED_BITS:
            problems.append(
                Problem(str(path), f"dtype {dtype} packs several values into a byte, which is not supported yet", name)
            )
            continue
        described = TensorHeader(name, DTYPES[dtype], shape, end - begin)
        places[name] = BytePlace(described, path, data_start + begin, row_major(shape))
    _check_cover(path, spans, data_bytes)
    # A header is sorted by dtype and name; the tensors' own order in the file is that of the bytes.
    places = dict(sorted(places.items(), key=lambda item: item[1].offset))
    return FileContents(
        places, (path,), _steps(metadata), notes=_removed_ties(metadata, places), problems=tuple(problems)
    )


def _read_header(path: Path) -> tuple[dict[str, Any], int, int]:
    """The parsed header, where the data starts, and how many bytes of data there are."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise ArchiveError(
                f"{path}: the header claims {length} bytes, but the file has {size}: truncated, still being "
                "written, or not safetensors"
            )
        if length > MAX_HEADER_BYTES:
            raise ArchiveError(f"{path}: the header claims {length} bytes; more than {MAX_HEADER_BYTES} is refused")
        text = file.read(length)
    try:
        header = parse_json(text, _without_duplicates)
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f"{path}: the header is not valid JSON: {error}") from error
    if not isinstance(header, dict):
        raise ArchiveError(f"{path}: the header is a JSON {type(header).__name__}, not an object")
    return header, 8 + length, size - 8 - length


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) != len(pairs):
        raise ValueError("a name occurs twice")
    return names


def _entry(path: Path, name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """dtype, shape, begin, end of one header entry, each of the right type and sign."""
    if len(name) > MAX_NAME:
        raise ArchiveError(f"{path}: {name[:80]}…: a tensor's name of {len(name)} characters")
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise ArchiveError(f"{path}: {name}: its header entry lacks a dtype, a shape or two data_offsets") from error
    if not isinstance(dtype, str) or (dtype not in DTYPES and dtype not in PACKED_BITS):
        raise ArchiveError(f"{path}: {name}: unknown dtype {short(dtype)}")
    numbers = [*shape, begin, end] if isinstance(shape, list) else [None]
    if not all(type(number) is int and 0 <= number < 2**63 for number in numbers) or begin > end or len(shape) > 32:
        raise ArchiveError(
            f"{path}: {name}: implausible shape {short(shape)} or data_offsets [{short(begin)}, {short(end)}]"
        )
    return dtype, tuple(shape), begin, end


def _check_cover(path: Path, spans: list[tuple[int, int, str]], data_bytes: int) -> None:
    """Every byte of data belongs to exactly one tensor, as the format demands."""
    position, before = 0, "the header"
    for begin, end, name in sorted(spans):
        if begin != position:
            what = "overlaps" if begin < position else f"leaves {begin - position} bytes unused after"
            raise ArchiveError(f"{path}: {name}: {what} {before}")
        position, before = end, name
    if position != data_bytes:
        raise ArchiveError(f"{path}: {data_bytes - position} bytes after the last tensor belong to no tensor")


def _steps(metadata: dict[str, Any]) -> dict[str, int]:
    return {key: int(value) for key, value in metadata.items() if isinstance(value, str) and _is_count(value)}


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19


def _removed_ties(metadata: dict[str, Any], places: dict[str, BytePlace]) -> tuple[str, ...]:
    """safetensors' `save_model` drops tied copies and says under the dropped name which one it kept."""
    return tuple(
        f"tied: {name} is {kept}"
        for name, kept in sorted(metadata.items())
        if isinstance(kept, str) and kept in places and name not in places
    )
