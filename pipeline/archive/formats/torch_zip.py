"""torch's zip files (.pt, .pth, .bin since torch 1.6): a pickle of the structure, and one member per storage.

The pickle is read as data (`pickle_data`), so nothing in the file is ever executed; tensors are found in their
storages by offset, size and strides. torch itself is not needed.
"""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from analyzers.errors import ArchiveError
from pipeline.archive.dtypes import NUMPY
from pipeline.archive.formats.contents import Contents, Place, row_major
from pipeline.archive.formats.pickle_data import Call, Global, Persistent, PickleError, read_pickle
from pipeline.archive.formats.state import State, find_weights, is_tensor
from pipeline.archive.types import Problem, TensorHeader
from pipeline.archive.zip_members import data_offset, is_stored, open_zip, read_member

NAME = "torch-zip"

MAX_PICKLE_BYTES = 256 << 20

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
class _Strided:
    """A tensor as the pickle describes it: offset and strides in elements of `dtype`, storage by member key."""

    storage: str
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    conjugated: bool = False
    negated: bool = False


class _Unreadable(Exception):  # noqa: N818 - a finding about one tensor
    pass


def scan(path: Path) -> Contents:
    """The weights of one torch zip file, from its pickle and its list of members."""
    with open_zip(path) as archive:
        pickles = [name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            raise ArchiveError(
                f"{path}: a zip file with {len(pickles)} members */data.pkl: not one that torch.save wrote"
            )
        prefix = pickles[0].removesuffix("data.pkl")
        members = {info.filename: info for info in archive.infolist()}
        if f"{prefix}constants.pkl" in members:
            raise ArchiveError(f"{path}: a TorchScript program, not a checkpoint: save its state_dict() instead")
        data = read_member(archive, path, members[pickles[0]], MAX_PICKLE_BYTES)
        order = members.get(f"{prefix}byteorder")
        big_endian = order is not None and read_member(archive, path, order, 16).strip() == b"big"
    try:
        state = find_weights(read_pickle(data))
    except PickleError as error:
        raise ArchiveError(f"{path}: {pickles[0]} is not a readable pickle: {error}") from error
    with path.open("rb") as file:
        locate = _Locator(path, file, prefix, members, big_endian)
        return _contents(path, state, locate)


def _contents(path: Path, state: State, locate: _Locator) -> Contents:
    places: dict[str, Place] = {}
    problems: list[Problem] = []
    sharing: dict[_Strided, list[str]] = {}
    for name, call in state.tensors.items():
        try:
            strided = _strided(call)
            places[name] = locate(name, strided)
            sharing.setdefault(strided, []).append(name)
        except _Unreadable as reason:
            problems.append(Problem(str(path), str(reason), name))
    tied = tuple(tuple(names) for names in sharing.values() if len(names) > 1)
    notes = [f"tied: {' = '.join(names)}" for names in tied]
    if state.left:
        shown = ", ".join(state.left[:12]) + (f" and {len(state.left) - 12} more" if len(state.left) > 12 else "")
        notes.append(f"left in {path.name}: {shown}")
    return Contents(
        places,
        (path,),
        steps=_steps(state.values, locate),
        config=_config(state.values),
        tied=tied,
        problems=tuple(problems),
        notes=tuple(notes),
    )


def _strided(call: Any) -> _Strided:
    """What a rebuild call would make, or `_Unreadable` with the reason."""
    function, args = call.function.name, call.args
    if function in ("_rebuild_parameter", "_rebuild_parameter_with_state") and args and is_tensor(args[0]):
        return _strided(args[0])
    if function == "_rebuild_from_type_v2" and isinstance(args, tuple) and len(args) >= 3:
        inner = Call(args[0], args[2])
        if is_tensor(inner) and inner.function.name != function:
            return _strided(inner)
    if function not in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"):
        raise _Unreadable(f"a {function.removeprefix('_rebuild_')}: only strided tensors are read")
    try:
        storage, offset, shape, strides = args[:4]
        kind, storage_type, key = storage.id[:3]
        typed = STORAGES.get(storage_type.name) if isinstance(storage_type, Global) else None
        dtype = args[6].name if function == "_rebuild_tensor_v3" else typed
        flags = args[-1] if function == "_rebuild_tensor_v3" and len(args) > 7 else (args[6:] or [None])[0]
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise _Unreadable(f"its description is not one that torch.save writes: {error}") from error
    if kind != "storage" or not isinstance(key, str):
        raise _Unreadable("its storage is not in the file")
    if dtype not in NUMPY:
        raise _Unreadable(f"dtype {dtype or getattr(storage_type, 'name', storage_type)} is not read yet")
    numbers = [offset, *shape, *strides]
    if len(shape) != len(strides) or not all(type(n) is int and 0 <= n < 2**62 for n in numbers) or len(shape) > 32:
        raise _Unreadable(f"implausible shape {tuple(shape)}, strides {tuple(strides)} or offset {offset}")
    flags = flags if isinstance(flags, dict) else {}
    return _Strided(
        key, dtype, offset, tuple(shape), tuple(strides), flags.get("conj") is True, flags.get("neg") is True
    )


@dataclass
class _Locator:
    """Finds tensors in the members of one open file; remembers where each storage starts."""

    path: Path
    file: IO[bytes]
    prefix: str
    members: dict[str, zipfile.ZipInfo]
    big_endian: bool

    def __post_init__(self) -> None:
        self.file_size = self.path.stat().st_size
        self._starts: dict[str, int] = {}

    def __call__(self, name: str, tensor: _Strided) -> Place:
        """The place of one tensor, checked against the storage's size. ArchiveError when the file is damaged."""
        info = self.members.get(f"{self.prefix}data/{tensor.storage}")
        itemsize = NUMPY[tensor.dtype].itemsize
        count = math.prod(tensor.shape)
        if info is None:
            raise ArchiveError(f"{self.path}: {name}: its storage data/{tensor.storage} is not in the file")
        if math.prod(max(size, 1) for size in tensor.shape) > 2**48:
            raise _Unreadable(f"implausible shape {tensor.shape}")
        reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
        end = (tensor.offset + reach + 1) * itemsize if count else 0
        if end > info.file_size:
            raise ArchiveError(
                f"{self.path}: {name}: {tensor.dtype} {list(tensor.shape)} ends at byte {end} of its storage, "
                f"which has {info.file_size}"
            )
        if count * itemsize > max(self.file_size, EXPANSION_BYTES) and is_stored(info):
            raise _Unreadable(f"{tensor.shape} repeats {info.file_size} stored bytes: an expanded view, not read")
        place = Place(
            TensorHeader(name, tensor.dtype, tensor.shape, count * itemsize),
            self.path,
            tensor.offset * itemsize,
            tensor.strides,
            member=None if is_stored(info) else info.filename,
            big_endian=self.big_endian,
            conjugated=tensor.conjugated,
            negated=tensor.negated,
        )
        start = 0 if place.member else self._start(info)
        whole = count * itemsize == info.file_size and place.contiguous and not place.member
        return Place(
            place.header,
            self.path,
            start + place.offset,
            tensor.strides if count else row_major(tensor.shape),
            place.member,
            place.big_endian,
            place.conjugated,
            place.negated,
            # A CRC of 0 is one that torch was told not to compute.
            crc32=info.CRC or None if whole else None,
        )

    def _start(self, info: zipfile.ZipInfo) -> int:
        if info.filename not in self._starts:
            self._starts[info.filename] = data_offset(self.file, self.path, info, self.file_size)
        return self._starts[info.filename]

    def number(self, tensor: Any) -> int | None:
        """The value of a stored scalar of an integer dtype, such as a step; None for any other tensor."""
        try:
            place = self("", _strided(tensor))
        except (_Unreadable, ArchiveError):
            return None
        if place.member or place.header.nbytes != NUMPY[place.header.dtype].itemsize or "int" not in place.header.dtype:
            return None
        self.file.seek(place.offset)
        return int.from_bytes(self.file.read(place.header.nbytes), "big" if place.big_endian else "little", signed=True)


def _steps(values: dict[str, Any], locate: _Locator) -> dict[str, int]:
    """Top-level whole numbers of the file, by key."""
    found = {}
    for key, value in values.items():
        number = locate.number(value) if is_tensor(value) else value
        if type(number) is int and 0 <= number < 2**62:
            found[key] = number
    return found


def _config(values: dict[str, Any]) -> dict[str, Any]:
    """A model's configuration, where a training loop stored it as a plain dict of numbers and words."""
    for key in ("model_config", "model_args", "config"):
        value = values.get(key)
        if isinstance(value, dict) and all(isinstance(name, str) for name in value):
            return {name: entry for name, entry in value.items() if isinstance(entry, str | int | float | bool)}
    return {}


__all__ = ["NAME", "Persistent", "scan"]
