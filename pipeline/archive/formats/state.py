"""Finds the model's weights in what a torch file holds: a state dict, or one inside "model", "state_dict", ...

Optimizer states, schedulers, random states and arguments are left, and said to be left. Nothing recurses: a hostile
file can nest as deep, and share as much, as it likes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pipeline.archive.formats.pickle_data import Call, Global
from pipeline.archive.guarded import short

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

_DATA = re.compile(
    r"(?:^|_)(?:replay|replay_buffer|buffer|dataset|data|history|grads?|gradients|metrics)$", re.IGNORECASE
)
"""A key beside state dicts that matches is data of the training loop."""

_STATE_KEYS = (
    {"state", "param_groups"},  # an optimizer of torch
    {"optimizer_state_dict", "ds_version"},  # DeepSpeed's
    {"last_epoch", "_step_count"},  # a scheduler
    {"scale", "growth_factor", "backoff_factor"},  # a gradient scaler
)
"""What has all keys of one of these is training state under any name."""

_MOMENTS = ({"m", "v"}, {"mu", "nu"}, {"exp_avg", "exp_avg_sq"})
_COUNTS = {"step", "count", "t", "lr"}
_MOMENT_NAME = re.compile(
    r"(?:^|[./])(?:(?:max_)?exp_avg(?:_sq|_sq_row|_sq_col|_slow|_diff)?|exp_inf|momentum_buffer|square_avg|grad_avg|"
    r"acc_delta|master_param|state1|state2|absmax[12]|qmap[12])$"
)
_COUNT_NAME = re.compile(r"(?:^|[./])(?:step|count|lr|betas|eps|weight_decay)(?:\.\d+)?$")

MAX_DEPTH = 32
MAX_MODELS = 1000
"""Of one list."""
MAX_ENTRIES = 1_000_000
MAX_NAME = 1024
"""Characters of a tensor's name with those of the dicts around it."""
MAX_NAMES = 64 << 20
"""Characters of all names together."""

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
    "Parameter",
    "Variable",
}


_QUANTISED = re.compile(r"quant|int\d|nf4|fp[468]|float[468]|nvfp|^mx|affine|aqt|awq|gptq|hqq", re.IGNORECASE)
"""Class names of tensors that are codes with their scales, such as torchao's Int8Tensor."""


@dataclass(frozen=True)
class State:
    """The weights of a file, still as the calls that would rebuild them; `left` tells what else it holds.

    `training_state`: it holds no weights, but the state of an optimizer, a scheduler or the like.
    """

    tensors: dict[str, Call]
    left: tuple[str, ...] = ()
    training_state: bool = False
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
    if isinstance(value.state, dict) and isinstance(value.function, Global) and _is_script(value.function):
        return value.state
    if value.entries is not None:
        return value.entries
    return {} if isinstance(value.function, Global) and value.function.name == "OrderedDict" else None


def _is_script(function: Global) -> bool:
    """Whether a class is one of a TorchScript program, whose modules keep parameters and submodules as attributes."""
    return function.module.split(".")[0] == "__torch__"


def is_training_state(value: Any) -> bool:
    """Whether a value is the state of an optimizer, a scheduler or a scaler, by its keys."""
    entries = as_mapping(value)
    if not entries:
        return False
    keys = {key for key in entries if isinstance(key, str)}
    if any(known <= keys for known in _STATE_KEYS):
        return True
    return any(
        known <= keys <= known | _COUNTS and all(as_mapping(entries[key]) for key in known) for known in _MOMENTS
    )


def are_moments(names: Iterable[str]) -> bool:
    """Whether tensors are an optimizer's by their names alone: moments of the gradients, and counts."""
    names = list(names)
    moments = sum(_MOMENT_NAME.search(name) is not None for name in names)
    return moments > 0 and all(_MOMENT_NAME.search(name) or _COUNT_NAME.search(name) for name in names)


def find_weights(root: Any) -> State:
    """The model's tensors by name, and notes on the rest."""
    top = as_mapping(root)
    if top is None and isinstance(root, list | tuple):
        top = _models_of(root)
    if top is None:
        states = isinstance(root, list | tuple) and bool(root) and all(map(is_training_state, root[:1000]))
        kind = _kind(root)
        article = "" if root is None else "an " if kind[0] in "aeiou" else "a "
        return State({}, (f"{article}{kind}, not a dict of weights",), states)
    if is_training_state(top):
        return State({}, (f"training state: {_first_keys(top)}",), True)
    values = _by_name(top)
    left: list[str] = []
    around: set[int] = set()
    while id(top) not in around and len(around) < MAX_DEPTH and (container := _container(top)) is not None:
        around.add(id(top))
        left += [f"{key} ({_kind(value)})" for key, value in top.items() if key != container and _worth_saying(value)]
        inner = as_mapping(top[container])
        assert inner is not None
        top = inner
        values = _by_name(top) | values
    data = _data_beside_modules(top)
    left += [f"{key} ({_kind(top[key])})" for key in data]
    if data:  # else the same object stays, by which a dict that holds itself is known
        top = {key: value for key, value in top.items() if key not in data}
    tensors: dict[str, Call] = {}
    for name, value in _leaves(top, left):
        if is_tensor(value):
            tensors |= _quantised_parts(name, value) or {name: value}
        elif _worth_saying(value):
            left.append(f"{name} ({_kind(value)})")
    training_state = not tensors and any(is_training_state(value) or _named_state(key) for key, value in top.items())
    if not tensors and not left:
        left.append(f"no tensors, but {_first_keys(top) or 'an empty dict'}")
    return State(tensors, tuple(left), training_state, values)


def _models_of(entries: list[Any] | tuple[Any, ...]) -> dict[Any, Any] | None:
    """The state dicts of a list, by position, or the only one: (model.state_dict(), epoch); None where it has none."""
    models = {}
    for at, entry in enumerate(entries[:MAX_MODELS]):
        mapping = None if is_training_state(entry) else as_mapping(entry)
        if mapping and any(isinstance(key, str) and is_tensor(value) for key, value in mapping.items()):
            models[str(at)] = mapping
    return next(iter(models.values())) if len(models) == 1 else models or None


def _by_name(entries: dict[Any, Any]) -> dict[str, Any]:
    return {key: value for key, value in entries.items() if isinstance(key, str) and len(key) <= MAX_NAME}


def _quantised_parts(name: str, value: Any, depth: int = 0) -> dict[str, Call]:
    """The tensors that a quantised tensor subclass keeps (codes, scales, zero points), by dotted name; {} of others."""
    if not is_tensor(value) or not isinstance(value.args, tuple) or depth > 4:
        return {}
    if value.function.name in ("_rebuild_parameter", "_rebuild_parameter_with_state") and value.args:
        return _quantised_parts(name, value.args[0], depth + 1)
    if value.function.name != "_rebuild_from_type_v2" or len(value.args) != 4:
        return {}
    _, subclass, _, state = value.args
    if not isinstance(subclass, Global) or not _QUANTISED.search(subclass.name) or not isinstance(state, dict):
        return {}
    parts: dict[str, Call] = {}
    for key, part in state.items():
        if isinstance(key, str) and is_tensor(part):
            parts |= _quantised_parts(f"{name}.{key}", part, depth + 1) or {f"{name}.{key}": part}
    return parts


def _first_keys(entries: dict[Any, Any]) -> str:
    return ", ".join(str(key)[:80] if isinstance(key, str) else short(key) for key in list(entries)[:6])


def _named_state(key: Any) -> bool:
    return isinstance(key, str) and TRAINING_STATE.search(key) is not None


def _container(top: dict[Any, Any]) -> str | None:
    """The key under which the weights lie one level deeper, or None when `top` is itself a state dict.

    A state dict has matrices of its own, besides data that a training loop stored beside its modules.
    """
    if (known := _known_container(top)) is not None:
        return known
    # One entry of any name that holds a known container, as in {"ckpt": {"model": ...}, "epoch": 3}.
    holders = [key for key, value in top.items() if _holds_tensors(key, value)]
    inner = as_mapping(top[holders[0]]) if len(holders) == 1 else None
    return holders[0] if inner is not None and _known_container(inner) is not None else None


def _known_container(top: dict[Any, Any]) -> str | None:
    data = _data_beside_modules(top)
    if any(is_tensor(value) and _n_dims(value) >= 2 for key, value in top.items() if key not in data):
        return None
    return next((key for key in CONTAINERS if _holds_tensors(key, top.get(key))), None)


def _data_beside_modules(top: dict[Any, Any]) -> frozenset[Any]:
    """Keys of tensors that a training loop saved beside its modules' state dicts: a batch, fixed noise, a buffer.

    A state dict names its tensors by dotted paths. Where one is an entry, plain names beside it are no parameters.
    """
    if not any(_is_state_dict(value) for value in top.values()):
        return frozenset()
    return frozenset(key for key, value in top.items() if _is_data(key, value))


def _is_data(key: Any, value: Any) -> bool:
    if is_tensor(value):
        return _n_dims(value) >= 2 and isinstance(key, str) and "." not in key
    return isinstance(key, str) and bool(_DATA.search(key)) and _worth_saying(value)


def _is_state_dict(value: Any) -> bool:
    """Whether a plain dict holds tensors under dotted names that end as parameters do."""
    if not isinstance(value, Call | dict) or is_tensor(value):
        return False
    entries = value if isinstance(value, dict) else value.entries or {}
    names = [key for key, entry in entries.items() if isinstance(key, str) and is_tensor(entry)]
    return any(name.endswith((".weight", ".bias")) for name in names)


def _holds_tensors(key: Any, value: Any) -> bool:
    if not isinstance(key, str) or TRAINING_STATE.search(key) or is_training_state(value):
        return False
    inner = as_mapping(value)
    return inner is not None and any(is_tensor(leaf) for _, leaf in _leaves(inner, []))


def _leaves(top: dict[Any, Any], left: list[str]) -> Iterator[tuple[str, Any]]:
    """Dotted names and values below a mapping, depth first in order; training state and shared parts are left."""
    stack: list[tuple[str, Any, int]] = [("", top, 0)]
    seen: set[int] = set()
    count = characters = 0
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
        characters += len(entries) * len(name)
        if count > MAX_ENTRIES or characters > MAX_NAMES:
            left.append(f"everything from {name} on (more than {MAX_ENTRIES} entries, or {MAX_NAMES} characters)")
            return
        below = []
        for key, entry in entries.items():
            if not isinstance(key, str | int):
                continue
            if len(name) + len(str(key)) > MAX_NAME:
                left.append(f"{str(key)[:80]}… (a name of more than {MAX_NAME} characters)")
                continue
            if (depth == 0 and not is_tensor(entry) and _named_state(key)) or is_training_state(entry):
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
        return f"{len(entries)} {'entry' if len(entries) == 1 else 'entries'}" if entries else "empty"
    if isinstance(value, Call):
        return repr(value.function) if isinstance(value.function, Global) else "object"
    return "None" if value is None else type(value).__name__
