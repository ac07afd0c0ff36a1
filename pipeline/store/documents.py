"""A document is the `zarr.json` of a Zarr group: any Zarr reader sees it, and it is read here as plain JSON.

Every document carries a digest of itself, which is checked whenever it is read. The metadata of our Zarr arrays carry
one too (those of the first stores do not, and are read unchecked).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from analyzers.errors import DamageError, StoreError
from pipeline.archive.recipes import digest
from pipeline.archive.text import path_text, utf8
from pipeline.store import journal
from pipeline.store.scratch import publish, scratch, sync

FILE = "zarr.json"
DIGEST = "document_digest"
_FLOAT = "__float__"
REPAIR = "`varve verify STORE --repair` removes it, and the next `varve analyze` recreates it"
"""The way out of any damage, for error messages."""


def create_document(root: Path, target: Path, attributes: Mapping[str, Any]) -> bool:
    """Writes a new document in one rename; False (and nothing written) when `target` exists already."""
    with scratch(root) as folder:
        (folder / FILE).write_bytes(encode(attributes, target))
        created = publish(folder, target)
    if created:
        journal.added(root, target)
    return created


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
    """The attributes of the document at `folder`; DamageError when it is missing or not as it was written."""
    path = folder / FILE
    try:
        return decode(path.read_bytes(), path)
    except FileNotFoundError as error:
        raise DamageError(f"{path} is missing: {REPAIR}") from error
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error}") from error


def document_digest(folder: Path) -> str:
    """The digest that the document at `folder` carries, which is checked when its content is read; "" where it cannot
    be read."""
    try:
        return str(json.loads((folder / FILE).read_bytes())["attributes"][DIGEST])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def damage(path: Path, error: object) -> DamageError:
    """The error for a damaged file. What is quoted stays short, however large the document is."""
    text = str(error) if isinstance(error, StoreError | str) else repr(error)
    return DamageError(f"{path} is damaged: {brief(text)}; {REPAIR}")


def brief(text: str, limit: int = 200) -> str:
    """The text, cut to `limit` characters."""
    return text if len(text) <= limit else f"{text[:limit]}…"


def seal_array(folder: Path) -> None:
    """Adds their digest to the metadata of the Zarr array at `folder`."""
    path = folder / FILE
    document = json.loads(path.read_bytes())
    document["attributes"][DIGEST] = digest(document)
    path.write_text(json.dumps(document, separators=(",", ":")))


def check_array(folder: Path) -> None:
    """Raises DamageError unless the metadata of the array at `folder` give their digest, where they have one."""
    path = folder / FILE
    try:
        document = json.loads(path.read_bytes())
        expected = document["attributes"].pop(DIGEST, None)
        if expected is not None and digest(document) != expected:
            raise DamageError("its content does not match its digest")
    except FileNotFoundError as error:
        raise DamageError(f"{path} is missing: {REPAIR}") from error
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, DamageError) as error:
        raise damage(path, error) from error


def encode(attributes: Mapping[str, Any], where: Path) -> bytes:
    """The bytes of a group's zarr.json; numbers that JSON lacks (NaN, Infinity: losses have them) are spelled out."""
    try:
        plain = _plain(attributes)
        document = {"zarr_format": 3, "node_type": "group", "attributes": {**plain, DIGEST: digest(plain)}}
        return json.dumps(document, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise StoreError(f"{where} cannot be written as JSON: {error}") from error


def decode(data: bytes, path: Path) -> dict[str, Any]:
    """The attributes in a group's zarr.json; DamageError unless they give their digest."""
    try:
        document = json.loads(data)
        if document["node_type"] != "group":
            raise ValueError(f"node_type is {document['node_type']!r}, not 'group'")
        attributes = document["attributes"]
        if not isinstance(attributes, dict):
            raise TypeError(f"attributes are {attributes!r}")
        expected = attributes.pop(DIGEST, None)
        if expected is None:
            raise ValueError(f"it has no {DIGEST}")
        if digest(attributes) != expected:
            raise DamageError("it was changed: its content does not match its digest")
        if _FLOAT.encode() in data:  # parsed again, because a hook slows the parser: only where it is needed
            attributes = json.loads(data, object_hook=_unspell)["attributes"]
            attributes.pop(DIGEST)
    except (ValueError, KeyError, TypeError, DamageError) as error:
        raise damage(path, error) from error
    return dict(attributes)


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
    raise TypeError(f"{value!r} of type {type(value).__name__} cannot be stored as JSON")


def _unspell(data: dict[str, Any]) -> Any:
    return float(data[_FLOAT]) if data.keys() == {_FLOAT} else data
