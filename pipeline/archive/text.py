r"""Names from an archive are bytes; what varve keeps and shows is text. This is the one escaping between the two.

A file name of an old file system is Latin-1, a tensor's name in a header holds NUL or half of a surrogate pair. Where
such a name enters, `visible` writes what cannot be printed as an escape: ``mod\xe9le``, ``a\x00b``, ``\ud800``. From
there on it is valid UTF-8 in every file, table and page. `real_path` finds the file again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SURROGATE = re.compile("[\ud800-\udfff]")
_NO_TEXT = re.compile("[\x00\ud800-\udfff]")
"""What no UTF-8 file, or no C string, can hold."""
_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""And what a reader cannot see: control characters, line separators, marks that turn the direction of writing."""
_NOT_SHOWN = re.compile(_HIDDEN.pattern.replace("\x00-\x1f", "\x00-\x08\x0b-\x1f"))
"""The same but for tabs and line breaks."""
_ESCAPED_BYTE = re.compile(r"\\x([89a-f][0-9a-f])")


def visible(name: str) -> str:
    """A name of an archive as text. What is text already stays as it is, so that it may be called twice."""
    return name if name.isprintable() else _HIDDEN.sub(_escape, name)


def shown(text: str) -> str:
    """Lines for a terminal: what would move its cursor, change its colours or turn the direction of writing is
    escaped."""
    return text if text.isprintable() else _NOT_SHOWN.sub(_escape, text)


def encodable(text: str) -> str:
    """Longer text (a message, a config's value) keeps its line breaks: only NUL and what UTF-8 lacks are escaped."""
    return text if text.isprintable() else _NO_TEXT.sub(_escape, text)


def utf8(text: str) -> str:
    """Text that a UTF-8 file can hold: half surrogate pairs escaped, nothing else."""
    return text if text.isascii() else _SURROGATE.sub(_escape, text)


def encodable_data(value: Any) -> Any:
    """JSON-like data with `encodable` keys and values."""
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, Mapping):
        return {encodable(k) if isinstance(k, str) else k: encodable_data(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(encodable_data, value)) if type(value) in (list, tuple) else value
    return value


def path_text(path: Path | str) -> str:
    """A path as text, for records and messages."""
    return visible(str(path))


def real_path(path: Path | str) -> Path:
    """The path that `path_text` made this of; a part that is not there becomes the bytes that its escapes name."""
    path = Path(path)
    if "\\" not in str(path) or os.path.lexists(path):
        return path
    real = Path(path.anchor)
    for part in path.parts[1 if path.anchor else 0 :]:
        plain = real / part
        real = plain if "\\" not in part or os.path.lexists(plain) else real / _entry(real, part)
    return real


def _entry(folder: Path, part: str) -> str:
    try:
        names = [entry.name for entry in folder.iterdir()]
    except (OSError, ValueError):
        names = []
    unescaped = _ESCAPED_BYTE.sub(lambda match: chr(0xDC00 + int(match[1], 16)), part)
    return next((name for name in names if visible(name) == part), unescaped)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte that os.fsdecode could not decode
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
