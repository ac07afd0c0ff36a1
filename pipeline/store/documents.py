"""A document is the `zarr.json` of a Zarr group: any Zarr reader sees it, and it is read here as plain JSON.

Every document carries a digest of itself, so that `verify` notices a changed byte in it too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from analyzers.errors import StoreError
from pipeline.archive.recipes import digest
from pipeline.archive.text import path_text, utf8
from pipeline.store.scratch import publish, scratch, sync

FILE = "zarr.json"
_DIGEST = "document_digest"
_FLOAT = "__float__"


def create_document(root: Path, target: Path, attributes: Mapping[str, Any]) -> bool:
    """Writes a new document in one rename; False (and nothing written) when `target` exists already."""
    with scratch(root) as folder:
        (folder / FILE).write_bytes(encode(attributes, target))
        return publish(folder, target)


def replace_document(root: Path, target: Path, attributes: Mapping[str, Any]) -> None:
    """Writes a document in place of the one at `target` (an existing folder, whose other content stays)."""
    with scratch(root) as folder:
        (folder / FILE).write_bytes(encode(attributes, target))
        sync(folder / FILE)
        (folder / FILE).replace(target / FILE)
        sync(target)


def ensure_group(root: Path, target: Path) -> None:
    """Makes `target` a Zarr group without attributes unless it is one."""
    if not (target / FILE).exists() and not create_document(root, target, {}):
        replace_document(root, target, {})  # the folder was there and its zarr.json was not


def read_document(folder: Path) -> dict[str, Any]:
    """The attributes of the document at `folder`; StoreError when it is missing or damaged."""
    path = folder / FILE
    try:
        return decode(path.read_bytes(), path)
    except FileNotFoundError as error:
        raise StoreError(f"{path} is missing: `varve verify` lists what is damaged") from error
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error}") from error


def document_is_intact(attributes: Mapping[str, Any]) -> bool:
    """Whether a document's content agrees with the digest it was written with."""
    content = {name: value for name, value in attributes.items() if name != _DIGEST}
    return bool(attributes.get(_DIGEST) == digest(_plain(content)))


def encode(attributes: Mapping[str, Any], where: Path) -> bytes:
    """The bytes of a group's zarr.json; numbers that JSON lacks (NaN, Infinity: losses have them) are spelled out."""
    try:
        plain = _plain(attributes)
        document = {"zarr_format": 3, "node_type": "group", "attributes": {**plain, _DIGEST: digest(plain)}}
        return json.dumps(document, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise StoreError(f"{where} cannot be written as JSON: {error}") from error


def decode(data: bytes, path: Path) -> dict[str, Any]:
    """The attributes in a group's zarr.json."""
    try:
        hook = _unspell if _FLOAT.encode() in data else None  # a hook slows the parser: only where it is needed
        document = json.loads(data, object_hook=hook)
        if document["node_type"] != "group":
            raise ValueError(f"node_type is {document['node_type']!r}, not 'group'")
        attributes = document["attributes"]
        if not isinstance(attributes, dict):
            raise ValueError(f"attributes are {attributes!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is damaged: {error!r}; `varve verify` lists what else is") from error
    return attributes


def _plain(value: Any) -> Any:
    """JSON data equal to `value`: tuples become lists, numpy scalars numbers, non-finite floats are spelled, text is
    what UTF-8 can hold."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {_FLOAT: repr(float(value))}
    if isinstance(value, str):
        return utf8(value)
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, Mapping):
        return {utf8(str(name)): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, Path):
        return path_text(value)
    raise TypeError(f"{value!r} of type {type(value).__name__} is not JSON data")


def _unspell(data: dict[str, Any]) -> Any:
    return float(data[_FLOAT]) if data.keys() == {_FLOAT} else data
