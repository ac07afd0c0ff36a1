"""The routers of a model, and what each of them chose in a forward pass.

What a router *returned* is recorded, never a top-k recomputed from its logits (DeepSeek-V3 selects by a biased score).
Three kinds of answers are known: (logits, weights, int64 indices), Switch's one-hot dispatch, JetMoE's sorted list.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from analyzers.errors import Unmeasurable

_NAMED = re.compile(r"Router|Gating|TopK.*Gate|MoEGate", re.IGNORECASE)
_OWN = (
    "a router is a module whose forward returns (logits (tokens, experts), weights (tokens, k), int64 indices "
    "(tokens, k)); a model of your own names its routers in `model.routers`, a mapping of name to module"
)


@dataclass(frozen=True)
class Router:
    """One router of a model: its module path, and its matrix (experts, width), None where it has none of its own."""

    name: str
    module: torch.nn.Module
    matrix: torch.Tensor | None


@dataclass(frozen=True)
class Choice:
    """What a router did with its tokens. logits: (T, E); index: int64 (T, k); weight: (T, k), those the experts'
    outputs were multiplied by, 0 where a chosen expert's capacity was full."""

    logits: torch.Tensor
    index: torch.Tensor
    weight: torch.Tensor


def find_routers(model: torch.nn.Module) -> list[Router]:
    """All routers, in the order in which they stand in the model; [] for a dense model.

    Those that `model.routers` maps by name; else the classes that transformers records router logits of; else modules
    whose class is called a router and that do not contain another.
    """
    given = getattr(model, "routers", None)
    if isinstance(given, Mapping):
        return [Router(str(name), module, _matrix(module)) for name, module in given.items()]
    classes = _recorded_classes(model)
    found = [
        (name, module)
        for name, module in model.named_modules()
        if (type(module) in classes if classes else _NAMED.search(type(module).__name__))
    ]
    innermost = [
        (name, module)
        for name, module in found
        if not any(other is not module and other_name.startswith(f"{name}.") for other_name, other in found)
    ]
    return [Router(name, module, _matrix(module)) for name, module in innermost]


def _recorded_classes(model: torch.nn.Module) -> tuple[type, ...]:
    """The classes of `_can_record_outputs["router_logits"]` that are routers (JetMoE lists its attention, too)."""
    classes: dict[type, None] = {}
    for module in model.modules():
        recorded = getattr(module, "_can_record_outputs", None)
        listed = recorded.get("router_logits") if isinstance(recorded, Mapping) else None
        for one in listed if isinstance(listed, list | tuple) else () if listed is None else (listed,):
            target = getattr(one, "target_class", one)
            if isinstance(target, type) and "Attention" not in target.__name__:
                classes[target] = None
    return tuple(classes)


def _matrix(module: torch.nn.Module) -> torch.Tensor | None:
    """The (experts, width) matrix of a router: its own weight, or that of its one linear map."""
    own = [(name, p) for name, p in module.named_parameters() if p.ndim == 2]
    if len(own) != 1:
        return None
    name, matrix = own[0]
    if matrix.is_meta:  # its layer lies on disk: accelerate's hook of the module that holds it has the values
        holder = module.get_submodule(name.rpartition(".")[0])
        values = getattr(getattr(holder, "_hf_hook", None), "weights_map", None)
        return None if values is None else values[name.rpartition(".")[2]]
    return matrix.detach()


def read_choice(output: Any, name: str) -> Choice:
    """What a router's forward returned, as a choice. Raises `Unmeasurable` where it has another shape."""
    parts = tuple(output) if isinstance(output, tuple | list) else ()
    tensors = [part for part in parts if isinstance(part, torch.Tensor)]
    if len(parts) == 5 and len(tensors) == 4 and isinstance(parts[3], list):
        return _sorted_list(parts)
    if len(parts) == 3 and len(tensors) == 3:
        whole = [part for part in tensors if not part.is_floating_point()]
        floats = [part for part in tensors if part.is_floating_point()]
        if len(whole) == 1 and len(floats) == 2:
            index = whole[0]
            if index.shape[-1] == floats[1].shape[-1] > 1 and floats[0].shape[-1] == 1:
                return _one_hot(index, floats[0], floats[1])
            logits, weight = floats
            if weight.shape == index.shape and logits.shape[:-1] == index.shape[:-1]:
                return Choice(logits.flatten(0, -2), index.flatten(0, -2).long(), weight.flatten(0, -2))
    shapes = [tuple(part.shape) if isinstance(part, torch.Tensor) else type(part).__name__ for part in parts]
    raise Unmeasurable(f"the router {name} returned {shapes or type(output).__name__}, which is not understood: {_OWN}")


def _one_hot(dispatch: torch.Tensor, probability: torch.Tensor, logits: torch.Tensor) -> Choice:
    """Switch: one-hot (B, T, E), all zero where the expert's capacity was full; probability (B, T, 1).

    A token that was dropped keeps the expert it wanted, with weight 0: no expert changed its output.
    """
    flat, taken = logits.flatten(0, -2), dispatch.flatten(0, -2)
    kept = taken.sum(-1, keepdim=True) > 0
    return Choice(flat, flat.argmax(-1, keepdim=True), probability.flatten(0, -2) * kept)


def _sorted_list(parts: tuple[Any, ...]) -> Choice:
    """JetMoE: choices sorted by expert, with the token of each, its weight, and how many each expert got."""
    order, token, gate, sizes, logits = parts
    expert = torch.repeat_interleave(
        torch.arange(len(sizes), device=logits.device), torch.tensor(sizes, device=logits.device)
    )
    count = len(logits)
    k = len(token) // count
    index = torch.empty(count * k, dtype=torch.int64, device=logits.device)
    weight = torch.empty(count * k, dtype=gate.dtype, device=logits.device)
    index[order], weight[order] = expert, gate
    return Choice(logits, index.view(count, k), weight.view(count, k))
