"""What torch's formats share: tensors as pickles describe them, and where their storages lie.

torch's pickles never hold a tensor's values. They say which storage it is a view of, with offset, shape and strides;
the storages stand elsewhere in the file, and each format knows where (`StoredTensor`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from analyzers.errors import ArchiveError
from pipeline.archive.dtypes import NUMPY
from pipeline.archive.formats.contents import MAX_TENSORS, BytePlace, FileContents, row_major
from pipeline.archive.formats.metric_numbers import metric_numbers
from pipeline.archive.formats.pickle_data import Call, Global
from pipeline.archive.formats.state import State, is_tensor
from pipeline.archive.formats.step_numbers import step_numbers
from pipeline.archive.guarded import open_regular, short
from pipeline.archive.types import Problem, TensorHeader
from pipeline.archive.zip_members import Region

STORAGES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
}
# A tensor of stride 0 repeats its storage: so much more than the file may it hold.
EXPANSION_BYTES = 64 << 20


@dataclass(frozen=True)
class StoredTensor:
    """Where a storage's `nbytes` bytes lie: from byte `start` of the file, or as its compressed `member`."""

    start: int
    nbytes: int
    member: str | None = None
    crc32: int | None = None


@dataclass(frozen=True)
class Strided:
    """A tensor as the pickle describes it: offset and strides in elements of `dtype`, its storage by key."""

    storage: str
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    conjugated: bool = False
    negated: bool = False


class Unreadable(Exception):  # noqa: N818 - a finding about one tensor
    """One tensor that cannot be read, while the others of its file can."""


@dataclass(frozen=True)
class TorchFile:
    """An open torch file: `find_storage` gives the place of a storage by its key, or ArchiveError."""

    region: Region
    find_storage: Callable[[str], StoredTensor]
    big_endian: bool = False

    def contents(self, state: State) -> FileContents:
        """The places of all tensors, and what the file says of its step and its model."""
        if len(state.tensors) > MAX_TENSORS:
            raise ArchiveError(f"{self.region}: {len(state.tensors)} tensors; more than {MAX_TENSORS} are refused")
        places: dict[str, BytePlace] = {}
        problems: list[Problem] = []
        sharing: dict[Strided, list[str]] = {}
        for name, call in state.tensors.items():
            try:
                tensor = strided(call)
                places[name] = self.place(name, tensor)
                sharing.setdefault(tensor, []).append(name)
            except Unreadable as reason:
                problems.append(Problem(str(self.region.path), str(reason), name))
        tied = tuple(tuple(names) for names in sharing.values() if len(names) > 1)
        notes = [f"tied: {' = '.join(names)}" for names in tied]
        if state.left:
            shown = ", ".join(state.left[:12])
            shown += f" and {len(state.left) - 12} more" if len(state.left) > 12 else ""
            inside = f" in {self.region.name}" if self.region.name else ""
            notes.append(f"ignored{inside}: {shown}")
        return FileContents(
            places,
            (self.region.path,),
            steps=step_numbers(state.values, self.number),
            config=_config(state.values),
            tied=tied,
            problems=tuple(problems),
            notes=tuple(notes),
            training_state=state.training_state,
            metrics=metric_numbers(state.values, self.scalar, state.tensors),
        )

    def place(self, name: str, tensor: Strided) -> BytePlace:
        """The place of one tensor, checked against the storage's size. ArchiveError when the file is damaged."""
        itemsize = NUMPY[tensor.dtype].itemsize
        count = math.prod(tensor.shape)
        try:
            stored = self.find_storage(tensor.storage)
        except KeyError:
            raise ArchiveError(
                f"{self.region}: {name}: its storage data/{tensor.storage:.80} is not in the file"
            ) from None
        if math.prod(max(size, 1) for size in tensor.shape) > 2**48:
            raise Unreadable(f"implausible shape {tensor.shape}")
        reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
        end = (tensor.offset + reach + 1) * itemsize if count else 0
        if end > stored.nbytes:
            raise ArchiveError(
                f"{self.region}: {name}: {tensor.dtype} {list(tensor.shape)} ends at byte {end} of its storage, "
                f"which has {stored.nbytes} bytes"
            )
        if count * itemsize > max(self.region.size, EXPANSION_BYTES) and stored.member is None:
            raise Unreadable(
                f"{tensor.shape} repeats {stored.nbytes} stored bytes: an expanded view, which is not read"
            )
        strides = tensor.strides if count else row_major(tensor.shape)
        place = BytePlace(
            TensorHeader(name, tensor.dtype, tensor.shape, count * itemsize),
            self.region.path,
            stored.start + tensor.offset * itemsize,
            strides,
            stored.member,
            self.big_endian,
            tensor.conjugated,
            tensor.negated,
        )
        whole = count * itemsize == stored.nbytes and place.contiguous and not stored.member
        return replace(place, crc32=stored.crc32) if whole else place

    def number(self, tensor: Any) -> int | None:
        """The value of a stored scalar of an integer dtype, such as a step; None for any other tensor."""
        value = self.scalar(tensor)
        return value if type(value) is int else None

    def scalar(self, tensor: Any) -> float | None:
        """The value of a stored tensor of one real number: an int of an integer dtype, else a float; None for any other
        tensor."""
        try:
            place = self.place("", strided(tensor))
        except (Unreadable, ArchiveError):
            return None
        dtype = NUMPY[place.header.dtype]
        whole = "int" in place.header.dtype
        if place.member or place.header.nbytes != dtype.itemsize or not (whole or "float" in place.header.dtype):
            return None
        with open_regular(place.path) as file:
            file.seek(place.offset)
            raw = file.read(place.header.nbytes)
        value = np.frombuffer(raw, dtype.newbyteorder(">" if place.big_endian else "<"))[0]
        return int(value) if whole else float(value)


def strided(call: Any) -> Strided:
    """What a rebuild call would make, or `Unreadable` with the reason."""
    function, args = call.function.name, call.args
    wrapped = function in ("_rebuild_parameter", "_rebuild_parameter_with_state", "Parameter", "Variable")
    if wrapped and isinstance(args, tuple) and args and is_tensor(args[0]):
        return strided(args[0])
    if function == "_rebuild_from_type_v2" and isinstance(args, tuple) and len(args) >= 3:
        inner = Call(args[0], args[2])
        if is_tensor(inner) and inner.function.name != function:
            return strided(inner)
    if function not in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"):
        raise Unreadable(f"a {function.removeprefix('_rebuild_'):.80}: only strided tensors are read")
    try:
        storage, offset, shape, strides = args[:4]
        kind, storage_type, key = storage.id[:3]
        typed = STORAGES.get(storage_type.name) if isinstance(storage_type, Global) else None
        dtype = args[6].name if function == "_rebuild_tensor_v3" else typed
        flags = args[-1] if function == "_rebuild_tensor_v3" and len(args) > 7 else (args[6:] or [None])[0]
        # Old legacy files describe a storage that is part of another one: (its key, first element, elements).
        view = storage.id[5] if len(storage.id) > 5 else None
        offset = offset + view[1] if view is not None else offset
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise Unreadable(f"torch.save does not write such a description: {error}") from error
    if kind != "storage" or not isinstance(key, str):
        raise Unreadable("its storage is not in the file")
    if dtype not in NUMPY:
        told = dtype or getattr(storage_type, "name", None) or short(storage_type)
        raise Unreadable(f"dtype {told:.80} is not supported yet")
    if not isinstance(shape, tuple | list) or not isinstance(strides, tuple | list) or len(shape) > 32:
        raise Unreadable(f"implausible shape {short(shape)} or strides {short(strides)}")
    numbers = [offset, *shape, *strides]
    if len(shape) != len(strides) or not all(type(n) is int and 0 <= n < 2**62 for n in numbers):
        raise Unreadable(f"implausible shape {short(shape)}, strides {short(strides)} or offset {short(offset)}")
    flags = flags if isinstance(flags, dict) else {}
    return Strided(
        key, dtype, offset, tuple(shape), tuple(strides), flags.get("conj") is True, flags.get("neg") is True
    )


def _config(values: dict[str, Any]) -> dict[str, Any]:
    """A model's configuration, where a training loop stored it as a plain dict of numbers and words."""
    for key in ("model_config", "model_args", "config"):
        value = values.get(key)
        if isinstance(value, dict) and len(value) <= _CONFIG_ENTRIES and all(isinstance(name, str) for name in value):
            return {name: entry for name, entry in value.items() if _is_setting(name) and _is_setting(entry)}
    return {}


_CONFIG_ENTRIES = 1000


def _is_setting(value: Any) -> bool:
    """Whether a value is a number or word of the size that a setting has."""
    if isinstance(value, int):
        return value.bit_length() <= 128
    return isinstance(value, float) or (isinstance(value, str) and len(value) <= 1000)
