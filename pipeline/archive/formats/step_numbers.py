"""The whole numbers in a torch file that may be its step: plain ones, numpy's and torch's scalars, and those one level
down, in the last entry of an optimizer's history or in a dict of what the training loop knew."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.archive.formats.pickle_data import Call, Global
from pipeline.archive.formats.state import as_mapping, is_tensor

# A dict of settings says how long training was meant to be, not how far it got.
SETTINGS = re.compile(r"arg|conf|cfg|param|option|optim|sched", re.IGNORECASE)
_COUNTS = re.compile(r"(?:^|_)(?:steps?|iter\w*|updates|epochs?|episodes?|timesteps)(?:$|_num$)", re.IGNORECASE)
_LARGEST = 2**62


def step_numbers(values: Mapping[str, Any], tensor_value: Callable[[Any], int | None]) -> dict[str, int]:
    """Key → number, for all keys at the top, and for those that count training one level down. `tensor_value` reads a
    stored tensor of one whole number."""
    numbers: dict[str, int] = {}
    for key, value in values.items():
        if (number := _number(value, tensor_value)) is not None:
            numbers[key] = number
    for key, value in values.items():
        inner = value[-1] if isinstance(value, list) and value and key.endswith("history") else value
        entries = as_mapping(inner)
        if entries is None or (SETTINGS.search(key) and inner is value):
            continue
        for name, entry in entries.items():
            counts = isinstance(name, str) and name not in numbers and _COUNTS.search(name)
            if counts and (number := _number(entry, tensor_value)) is not None:
                numbers[name] = number
    return numbers


def _number(value: Any, tensor_value: Callable[[Any], int | None]) -> int | None:
    if isinstance(value, Call):
        value = tensor_value(value) if is_tensor(value) else numpy_scalar(value)
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value < _LARGEST else None


def numpy_scalar(value: Any) -> int | float | None:
    """The value of a pickled numpy number, scalar(dtype("i8", …), its bytes), or of an array of one number."""
    function = value.function if isinstance(value, Call) else None
    if not isinstance(function, Global) or "multiarray" not in function.module:
        return None
    match function.name, value.args, value.state:
        case "scalar", (dtype, raw), _:
            pass
        case "_reconstruct", _, (_, tuple() as shape, dtype, _, raw) if all(length == 1 for length in shape):
            pass
        case _:
            return None
    if not isinstance(dtype, Call):
        return None
    code = dtype.args[0] if isinstance(dtype.args, tuple) and dtype.args else None
    if isinstance(raw, Call) and isinstance(raw.args, tuple) and raw.args and isinstance(raw.args[0], str):
        # Protocol 2 has no bytes: they are the text that _codecs.encode(text, "latin1") would turn into them.
        raw = raw.args[0].encode("latin-1", "ignore")
    if not isinstance(code, str) or not isinstance(raw, bytes) or re.fullmatch(r"[iu][1248]|f[248]", code) is None:
        return None
    if len(raw) != int(code[1]):
        return None
    order = dtype.state[1] if isinstance(dtype.state, tuple) and len(dtype.state) > 1 else "<"
    if code[0] == "f":
        number: float = struct.unpack((">" if order == ">" else "<") + {"2": "e", "4": "f", "8": "d"}[code[1]], raw)[0]
        return number
    return int.from_bytes(raw, "big" if order == ">" else "little", signed=code[0] == "i")
