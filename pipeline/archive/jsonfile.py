"""Small JSON files that stand beside weights: configs, indices, the trainer's state. And how JSON is parsed at all.

The limits hold time and memory down before anything is parsed: a value costs up to 150 bytes and a microsecond.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from analyzers.errors import ArchiveError
from pipeline.archive.guarded import boundary, read_regular
from pipeline.archive.text import encodable_data

MAX_BYTES = 32 << 20
MAX_VALUES = 2_000_000
"""Keys and values of one JSON text, as its commas, colons and brackets count them."""
MAX_DEPTH = 64
MAX_DIGITS = 1000
"""Of a whole number: Python takes time that grows with their square."""

_LONG_NUMBER = re.compile(rb"(?<!\d)\d{%d}" % (MAX_DIGITS + 1))  # from a first digit: else in quadratic time

Pairs = Callable[[list[tuple[str, Any]]], Any]


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. ArchiveError when it is damaged, too large, or not an object."""
    with boundary(path):
        try:
            text = read_regular(path, MAX_BYTES)
            data = parse_json(text)
            if not text.isascii() or b"\\u" in text:
                data = encodable_data(data)
        except (ValueError, RecursionError) as error:
            raise ArchiveError(f"{path}: not valid JSON: {error}") from error
        except OSError as error:
            raise ArchiveError(f"{path}: cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise ArchiveError(f"{path}: a JSON {type(data).__name__}, not an object")
    return data


def parse_json(text: bytes, pairs: Pairs | None = None) -> Any:
    """The value of a JSON text from an archive; `pairs` makes its objects.

    ValueError or RecursionError where it is damaged, larger than `MAX_BYTES`, or holds more values, deeper ones or
    longer numbers than is sensible.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"{len(text)} bytes; more than {MAX_BYTES} are refused")
    values = sum(map(text.count, (b",", b":", b"[", b"{")))
    if values > MAX_VALUES:
        raise ValueError(f"about {values} keys and values; more than {MAX_VALUES} are refused")
    parse_int = _whole_number if _LONG_NUMBER.search(text) else None
    data = json.loads(text, object_pairs_hook=pairs, parse_int=parse_int)
    _check_depth(data)
    return data


def _whole_number(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a whole number of {len(digits)} digits; more than {MAX_DIGITS} are refused")
    return int(digits)


def _check_depth(data: Any) -> None:
    level = [data]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for parent in level
            if isinstance(parent, dict | list)
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise ValueError(f"nested deeper than {MAX_DEPTH}")
