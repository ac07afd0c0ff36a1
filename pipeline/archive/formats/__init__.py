"""The formats that are read, one module each, and how a file's format is told. See docs/formats.md.

A new format: a module with `NAME` and `scan(path) -> Contents`, an entry in `_SCANNERS`, its marks in `detect`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from analyzers.errors import ArchiveError
from pipeline.archive.formats import safetensors_file, sharded, torch_zip
from pipeline.archive.formats.contents import Contents, Place

SHARDED = "-sharded"

_SCANNERS: dict[str, Callable[[Path], Contents]] = {
    safetensors_file.NAME: safetensors_file.scan,
    torch_zip.NAME: torch_zip.scan,
    safetensors_file.NAME + SHARDED: partial(sharded.scan_shards, scan_one=safetensors_file.scan),
    torch_zip.NAME + SHARDED: partial(sharded.scan_shards, scan_one=torch_zip.scan),
}

TORCH_SUFFIXES = (".pt", ".pth", ".bin")
SUFFIXES = (".safetensors", *TORCH_SUFFIXES)

READ = "safetensors (single or sharded) and torch zip files (.pt, .pth, .bin), PEFT adapters in either"
"""What is read, in words, for messages."""

NOT_READ = {
    ".ckpt": "Lightning and TensorFlow checkpoints (.ckpt) are not read yet",
    ".npz": "numpy archives (.npz) are not read yet",
    ".gguf": "GGUF is not read yet",
    ".ggml": "GGML is not read",
    ".h5": "Keras weights (.h5) are not read yet",
    ".hdf5": "Keras weights (.hdf5) are not read yet",
    ".keras": "Keras models (.keras) are not read yet",
    ".msgpack": "Flax checkpoints (.msgpack) are not read yet",
    ".distcp": "torch distributed checkpoints (.distcp) are not read yet",
    ".nemo": "NeMo archives (.nemo) are not read yet",
    ".ot": "rust-bert weights (.ot) are not read",
    ".onnx": "ONNX graphs (.onnx) are not read",
    ".pb": "TensorFlow graphs (.pb) are not read",
    ".tflite": "TensorFlow Lite models (.tflite) are not read",
    ".mar": "TorchServe archives (.mar) are not read",
    ".pkl": "pickles that torch.save did not write (.pkl) are not read",
    ".joblib": "joblib pickles are not read",
}

MAY_BE_ANYTHING = (".pkl", ".joblib", ".pb")
"""Suffixes of unread formats that mostly hold something else than weights."""


def detect(path: Path) -> str:
    """The name of a weights file's format, by its first bytes. ArchiveError says why a file is none that is read."""
    if sharded.is_index(path):
        is_safetensors = path.name.endswith(".safetensors" + sharded.INDEX_SUFFIX)
        return (safetensors_file.NAME if is_safetensors else torch_zip.NAME) + SHARDED
    with path.open("rb") as file:
        first = file.read(16)
    if not first:
        raise ArchiveError(f"{path}: empty (0 bytes): perhaps it is still being written")
    if path.suffix == ".safetensors":
        return safetensors_file.NAME
    if first[:4] == b"PK\x03\x04" or (first[:2] == b"PK" and zipfile.is_zipfile(path)):
        return torch_zip.NAME
    # Legacy files are a pickle of torch's magic number, then more pickles: protocol 2, LONG1 of 10 bytes.
    if first[:3] == b"\x80\x02\x8a" or first[:1] == b"\x80":
        raise ArchiveError(
            f"{path}: torch's legacy format (a bare pickle, before torch 1.6) is not supported yet: load it in torch "
            "and save it again"
        )
    if not any(first):
        raise ArchiveError(f"{path}: begins with zeros: half-written or damaged")
    if first[:4] == b"GGUF":
        raise ArchiveError(f"{path}: GGUF is not read yet")
    raise ArchiveError(f"{path}: begins with {first[:8]!r}: neither a torch zip file nor any other format that is read")


def scan(path: Path, format_name: str | None = None) -> Contents:
    """The contents of a weights file or index, from headers only."""
    return _SCANNERS[format_name or detect(path)](path)


__all__ = ["MAY_BE_ANYTHING", "NOT_READ", "READ", "SUFFIXES", "Contents", "Place", "detect", "scan"]
