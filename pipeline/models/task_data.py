"""Arrays of a task from files (npz, idx as MNIST's, gzipped or not), scikit-learn's digits; and their splits."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import blake3
import numpy as np
import torch

from analyzers.errors import ParameterError
from analyzers.intrinsic_dimension.task import Data

_IDX_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
SPLIT_SEED = 0


@dataclass(frozen=True)
class Arrays:
    """Inputs (n, …) and class labels (n,)."""

    inputs: np.ndarray
    labels: np.ndarray


def file_digest(path: Path) -> str:
    """blake3 of a file's bytes."""
    hasher = blake3.blake3()
    with path.open("rb") as file:
        while block := file.read(2**22):
            hasher.update(block)
    return hasher.hexdigest(length=16)


def existing(path: str | Path, folder: Path, what: str) -> Path:
    """The file, relative to the task's folder. Raises `ParameterError` where there is none."""
    found = (folder / Path(path).expanduser()).resolve()
    if not found.exists():
        raise ParameterError(f"{what}: there is no {found}")
    return found


def read_idx(path: Path) -> np.ndarray:
    """An idx file. Raises `ParameterError` where it is none, or cut short."""
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError) as error:
            raise ParameterError(f"{path}: the gzip stream is damaged ({error})") from error
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in _IDX_TYPES:
        raise ParameterError(f"{path} is not an idx file: it begins with {raw[:4]!r}")
    count = raw[3]
    start = 4 + 4 * count
    if len(raw) < start:
        raise ParameterError(f"{path}: the idx header is incomplete")
    shape = struct.unpack(f">{count}I", raw[4:start])
    dtype = np.dtype(_IDX_TYPES[raw[2]])
    wanted = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if len(raw) - start != wanted:
        raise ParameterError(
            f"{path}: the header announces {wanted} bytes for shape {shape}, but there are {len(raw) - start}"
        )
    values = np.frombuffer(raw, dtype, offset=start).reshape(shape)
    return values.astype(dtype.newbyteorder("="))


def read_npz(path: Path, inputs: str, labels: str) -> Arrays:
    """Two arrays of an npz file; nothing in it is unpickled."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [name for name in (inputs, labels) if name not in archive.files]
            if missing:
                raise ParameterError(f"{path}: no array {missing[0]!r}; there are: {', '.join(sorted(archive.files))}")
            return Arrays(archive[inputs], archive[labels])
    except (ValueError, OSError) as error:
        raise ParameterError(f"{path} cannot be read as npz: {error}") from error


def digits() -> Arrays:
    """scikit-learn's 1797 digits of 8 × 8 pixels, 0…16."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ParameterError(
            "the digits come with scikit-learn: pip install -e '.[tasks]' in varve's folder"
        ) from error
    loaded = load_digits()
    return Arrays(loaded.images.astype(np.float32), loaded.target.astype(np.int64))


def checked(arrays: Arrays, where: str) -> Arrays:
    """The arrays, if they can be learned: as many labels as inputs, finite, integers from 0, at least two classes."""
    inputs, labels = arrays.inputs, np.asarray(arrays.labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise ParameterError(f"{where}: labels must be one number per example, but their shape is {labels.shape}")
    if inputs.ndim < 2 or len(inputs) != len(labels):
        raise ParameterError(f"{where}: inputs of shape {inputs.shape} do not match {len(labels)} labels")
    if not len(labels):
        raise ParameterError(f"{where}: there are no examples")
    if labels.dtype.kind == "f" and np.all(labels == np.round(labels)):
        labels = labels.astype(np.int64)
    if labels.dtype.kind not in "iub":
        raise ParameterError(f"{where}: labels must be integers, not {labels.dtype}")
    if int(labels.min()) < 0:
        raise ParameterError(f"{where}: labels must start at 0, but the smallest is {int(labels.min())}")
    if len(np.unique(labels)) < 2:
        raise ParameterError(f"{where}: all {len(labels)} labels are {int(labels[0])}; a task needs two classes")
    if inputs.dtype.kind not in "fiub":
        raise ParameterError(f"{where}: inputs must be numbers, not {inputs.dtype}")
    if inputs.dtype.kind == "f" and not np.isfinite(inputs).all():
        raise ParameterError(f"{where}: {int((~np.isfinite(inputs)).sum())} entries of the inputs are NaN or infinite")
    return Arrays(inputs, labels.astype(np.int64))


def data_of(arrays: Arrays, scale: float, mean: float, std: float, flat: bool) -> Data:
    """As the model sees them: (value / scale − mean) / std, float32; images get a channel axis unless `flat`."""
    x = torch.from_numpy(np.ascontiguousarray(arrays.inputs, dtype=np.float32))
    x = (x / scale - mean) / std
    if flat:
        x = x.reshape(len(x), -1)
    elif x.ndim == 3:
        x = x[:, None]
    return Data((x,), torch.from_numpy(arrays.labels))


def split(data: Data, fractions: Mapping[str, float]) -> dict[str, Data]:
    """Disjoint parts by a fixed shuffle; what the fractions leave goes to the first."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(SPLIT_SEED))
    parts: dict[str, Data] = {}
    at = 0
    names = list(fractions)
    for name in names[1:]:
        size = max(1, round(fractions[name] * len(data)))
        parts[name] = data.take(order[at : at + size])
        at += size
    if at >= len(data):
        raise ParameterError(f"{len(data)} examples are too few to split into {', '.join(names)}")
    parts[names[0]] = data.take(order[at:])
    return parts


def limited(data: Data, limit: int | None) -> Data:
    """At most `limit` examples, chosen by a fixed shuffle."""
    if limit is None or len(data) <= limit:
        return data
    return data.take(torch.randperm(len(data), generator=torch.Generator().manual_seed(SPLIT_SEED + 1))[:limit])
