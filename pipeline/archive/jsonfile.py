"""Small JSON files that stand beside weights: configs, indices, the trainer's state."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from analyzers.errors import ArchiveError
from pipeline.archive.text import encodable_data

MAX_BYTES = 512 << 20


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. ArchiveError when it is damaged, too large, or not an object."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ArchiveError(f"{path}: {size} bytes of JSON; more than {MAX_BYTES} is refused")
        data = encodable_data(json.loads(path.read_bytes()))
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f"{path}: not valid JSON: {error}") from error
    except OSError as error:
        raise ArchiveError(f"{path}: cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise ArchiveError(f"{path}: a JSON {type(data).__name__}, not an object")
    return data
