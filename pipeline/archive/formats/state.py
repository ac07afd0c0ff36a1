"""Finds the model's weights in what a torch file holds: a state dict, or one inside "model", "state_dict", ...

Optimizer states, schedulers, random states and arguments are left, and said to be left. Nothing recurses: a hostile
file can nest as deep, and share as much, as it likes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pipeline.archive.formats.pickle_data import Call, Global

CONTAINERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "module",
    "model_state",
    "net",
    "network",
    "params",
    "weights",
    "student",
    "policy",
)
"""Keys under which a training loop keeps its model, in the order in which one is preferred to another."""

TRAINING_STATE = re.compile(
    r"(?:^|[-_. ])(?:optim\w*|\w*scheduler|rng|random|scaler|amp|callbacks?|loops?|sampler|dataloader)(?:$|[-_. ])",
    re.IGNORECASE,
)
"""A key that matches is training state, not weights."""

MAX_DEPTH = 32
MAX_ENTRIES = 5_000_000

_TENSOR_CALLS = {
    "_rebuild_tensor",
    "_rebuild_tensor_v2",
    "_rebuild_tensor_v3",
    "_rebuild_parameter",
    "_rebuild_parameter_with_state",
    "_rebuild_from_type_v2",
    "_rebuild_qtensor",
    "_rebuild_sparse_tensor",
    "_rebuild_sparse_csr_tensor",
    "_rebuild_meta_tensor_no_storage",
    "_rebuild_wrapper_subclass",
    "_rebuild_nested_tensor",
    "_rebuild_device_tensor_from_numpy",
    "_rebuild_device_tensor_from_cpu_tensor",
}


@dataclass(frozen=True)
class State:
    """The weights of a file, still as the calls that would rebuild them; `left` tells what else it holds."""

    tensors: dict[str, Call]
    left: tuple[str, ...] = ()
    values: dict[str, Any] = field(default_factory=dict)
    """Plain entries beside and above the weights by key, the outermost first: where a step or a config may stand."""


def is_tensor(value: Any) -> bool:
    """Whether the value is what torch would rebuild a tensor from."""
    return isinstance(value, Call) and isinstance(value.function, Global) and value.function.name in _TENSOR_CALLS


def as_mapping(value: Any) -> dict[Any, Any] | None:
    """The entries of a dict, of a dict subclass, or of a pickled module (parameters, buffers, submodules)."""
    if isinstance(value, dict):
        return value
    if not isinstance(value, Call) or is_tensor(value):
        return None
    if isinstance(value.state, dict) and "_parameters" in value.state and "_modules" in value.state:
        parts = [as_mapping(value.state.get(part)) or {} for part in ("_parameters", "_buffers", "_modules")]
        return {key: entry for part in parts for key, entry in part.items()}
    if value.entries is not None:
        return value.entries
    return {} if isinstance(value.function, Global) and value.function.name == "OrderedDict" else None


def find_weights(root: Any) -> State:
    """The model's tensors by name, and notes on the rest."""
    top = as_mapping(root)
    if top is None:
        return State({}, left=(f"a {_kind(root)}, not a dict of weights",))
    values = {key: value for key, value in top.items() if isinstance(key, str)}
    left: list[str] = []
    while (container := _container(top)) is not None:
        left += [f"{key} ({_kind(value)})" for key, value in top.items() if key != container and _worth_saying(value)]
        inner = as_mapping(top[container])
        assert inner is not None
        top = inner
        values = {key: value for key, value in top.items() if isinstance(key, str)} | values
    tensors: dict[str, Call] = {}
    for name, value in _leaves(top, left):
        if is_tensor(value):
            tensors[name] = value
        elif _worth_saying(value):
            left.append(f"{name} ({_kind(value)})")
    return State(tensors, tuple(left), values)


def _container(top: dict[Any, Any]) -> str | None:
    """The key under which the weights lie one level deeper, or None when `top` is itself a state dict.

    A state dict has matrices of its own; what a training loop stores beside the model are numbers and vectors.
    """
    if any(is_tensor(value) and _n_dims(value) >= 2 for value in top.values()):
        return None
    if (known := _known_container(top)) is not None:
        return known
    # One entry of any name that holds a known container, as in {"ckpt": {"model": ...}, "epoch": 3}.
    holders = [key for key, value in top.items() if _holds_tensors(key, value)]
    inner = as_mapping(top[holders[0]]) if len(holders) == 1 else None
    return holders[0] if inner is not None and _known_container(inner) is not None else None


def _known_container(top: dict[Any, Any]) -> str | None:
    if any(is_tensor(value) and _n_dims(value) >= 2 for value in top.values()):
        return None
    return next((key for key in CONTAINERS if _holds_tensors(key, top.get(key))), None)


def _holds_tensors(key: Any, value: Any) -> bool:
    if not isinstance(key, str) or TRAINING_STATE.search(key):
        return False
    inner = as_mapping(value)
    return inner is not None and any(is_tensor(leaf) for _, leaf in _leaves(inner, []))


def _leaves(top: dict[Any, Any], left: list[str]) -> Iterator[tuple[str, Any]]:
    """Dotted names and values below a mapping, depth first in order; training state and shared parts are left."""
    stack: list[tuple[str, Any, int]] = [("", top, 0)]
    seen: set[int] = set()
    count = 0
    while stack:
        name, value, depth = stack.pop()
        entries = as_mapping(value)
        if entries is None and isinstance(value, list | tuple) and any(map(_may_hold, value[:1000])):
            entries = dict(enumerate(value))
        if entries is None:
            yield name, value
            continue
        if id(value) in seen or depth > MAX_DEPTH:
            left.append(f"{name} (nested in itself, or shared)")
            continue
        seen.add(id(value))
        count += len(entries)
        if count > MAX_ENTRIES:
            left.append(f"everything from {name} on (more than {MAX_ENTRIES} entries)")
            return
        below = []
        for key, entry in entries.items():
            if not isinstance(key, str | int):
                continue
            if depth == 0 and isinstance(key, str) and not is_tensor(entry) and TRAINING_STATE.search(key):
                left.append(f"{key} ({_kind(entry)})")
                continue
            below.append((f"{name}.{key}" if name else str(key), entry, depth + 1))
        stack += reversed(below)


def _may_hold(value: Any) -> bool:
    return is_tensor(value) or isinstance(value, list | tuple | dict) or as_mapping(value) is not None


def _n_dims(tensor: Call) -> int:
    """Dimensions as the call's arguments tell; 0 when they do not."""
    call = tensor
    while isinstance(call.args, tuple) and call.args and is_tensor(call.args[0]):
        call = call.args[0]
    sizes = call.args[2] if isinstance(call.args, tuple) and len(call.args) > 2 else None
    return len(sizes) if isinstance(sizes, tuple | list) else 0


def _worth_saying(value: Any) -> bool:
    return not isinstance(value, str | int | float | bool | type(None))


def _kind(value: Any) -> str:
    """A word for what was left."""
    if is_tensor(value):
        return "tensor"
    entries = as_mapping(value)
    if entries is not None:
        return f"{len(entries)} entries"
    if isinstance(value, Call):
        return repr(value.function) if isinstance(value.function, Global) else "object"
    return type(value).__name__
