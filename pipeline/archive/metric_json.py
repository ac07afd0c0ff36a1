"""Logs in JSON: a list of entries, the Trainer's {"log_history": [...]}, or one entry a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from analyzers.errors import ArchiveError
from pipeline.archive.jsonfile import parse_json
from pipeline.archive.text import visible

_FORMS = 'a list of entries, {"log_history": [...]}, or one entry a line, such as {"step": 10, "loss": 0.5}'


def looks_like_json(text: str) -> bool:
    """Whether a log begins as JSON does; no CSV with a column `step` does."""
    return text.lstrip()[:1] in ("{", "[")


def json_entries(path: Path, text: str) -> list[tuple[int, dict[str, str]]]:
    """(number, name → cell) of each entry, its numbers as text, like cells of a table; what is no number is left out.
    Raises `ArchiveError` for another form."""
    entries = _entries(path, text)
    for number, entry in entries:
        if not isinstance(entry, dict):
            raise ArchiveError(f"{path}, entry {number}: {json.dumps(entry)[:60]} is no entry; expected {_FORMS}")
    return [
        (number, {visible(key): str(value) for key, value in entry.items() if _is_cell(value)})
        for number, entry in entries
    ]


def _entries(path: Path, text: str) -> list[tuple[int, Any]]:
    try:
        data = parse_json(text.encode())
    except (ValueError, RecursionError) as error:
        lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        if len(lines) < 2 or text.lstrip()[:1] != "{":
            raise ArchiveError(f"{path}: not valid JSON: {error}") from error
        return [(number, _entry(path, number, line)) for number, line in lines]
    if isinstance(data, dict):
        data = data.get("log_history", [data])
    if not isinstance(data, list):
        raise ArchiveError(f"{path}: 'log_history' is {json.dumps(data)[:60]}; expected {_FORMS}")
    return list(enumerate(data, 1))


def _entry(path: Path, number: int, line: str) -> Any:
    try:
        return parse_json(line.encode())
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f"{path}, line {number}: not valid JSON: {error}; expected {_FORMS}") from error


def _is_cell(value: Any) -> bool:
    """Numbers, and texts, among which a run's name may be; no truth values."""
    return type(value) in (int, float, str)
