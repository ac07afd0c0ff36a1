"""How a matrix is cut from stored tensors: plain data, hashed into every key, replayed on any worker.

A recipe refers to tensors by name (in a `Layout`) or by digest (bound to a checkpoint). All shapes are (out, in).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import blake3
import numpy as np

Op = tuple[Any, ...]
"""("reshape", *shape) · ("select", axis, index) · ("slice", axis, start, stop, step) · ("permute", *axes)"""


@dataclass(frozen=True)
class Dense:
    """One tensor, then operations that only select, view or permute its entries."""

    tensor: str
    ops: tuple[Op, ...] = ()


@dataclass(frozen=True)
class LowRankProduct:
    """scale · b @ a: a LoRA's Δ, or an attention circuit of thin factors. b: (m, r), a: (r, n)."""

    b: Dense
    a: Dense
    scale: float = 1.0


@dataclass(frozen=True)
class Merged:
    """base + delta, for an adapter on its base."""

    base: Dense
    delta: LowRankProduct


Recipe = Dense | LowRankProduct | Merged


def apply_ops(array: np.ndarray, ops: tuple[Op, ...]) -> np.ndarray:
    """Replays `ops` on a tensor's values; views where numpy can."""
    for name, *arguments in ops:
        if name == "reshape":
            array = array.reshape(arguments)
        elif name == "select":
            axis, index = arguments
            array = np.take(array, index, axis=axis) if axis else array[index]
        elif name == "slice":
            axis, start, stop, step = arguments
            array = array[(slice(None),) * axis + (slice(start, stop, step),)]
        elif name == "permute":
            array = array.transpose(arguments)
        else:
            raise ValueError(f"unknown recipe operation {name!r}")
    return array


def rank_of(recipe: Recipe, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """r of a product of factors whose stored tensors have these shapes, None of any other matrix."""
    if not isinstance(recipe, LowRankProduct):
        return None
    stored = np.broadcast_to(np.int8(0), shapes[recipe.a.tensor])
    return int(apply_ops(stored, recipe.a.ops).shape[0])


def tensors_of(recipe: Recipe) -> tuple[str, ...]:
    """The tensors a recipe reads, in order."""
    if isinstance(recipe, Dense):
        return (recipe.tensor,)
    if isinstance(recipe, LowRankProduct):
        return (recipe.b.tensor, recipe.a.tensor)
    return (recipe.base.tensor, *tensors_of(recipe.delta))


def rename(recipe: Recipe, name: Callable[[str], str]) -> Recipe:
    """The same recipe with each tensor's name replaced (names → digests when bound to a checkpoint)."""
    if isinstance(recipe, Dense):
        return Dense(name(recipe.tensor), recipe.ops)
    if isinstance(recipe, LowRankProduct):
        b, a = rename(recipe.b, name), rename(recipe.a, name)
        assert isinstance(b, Dense) and isinstance(a, Dense)
        return LowRankProduct(b, a, recipe.scale)
    base, delta = rename(recipe.base, name), rename(recipe.delta, name)
    assert isinstance(base, Dense) and isinstance(delta, LowRankProduct)
    return Merged(base, delta)


def to_json(recipe: Recipe) -> dict[str, Any]:
    """Plain data, the inverse of `from_json`."""
    if isinstance(recipe, Dense):
        return {"tensor": recipe.tensor, "ops": [list(op) for op in recipe.ops]}
    if isinstance(recipe, LowRankProduct):
        return {"b": to_json(recipe.b), "a": to_json(recipe.a), "scale": recipe.scale}
    return {"base": to_json(recipe.base), "delta": to_json(recipe.delta)}


def from_json(data: Mapping[str, Any]) -> Recipe:
    """The recipe that `to_json` wrote."""
    if "tensor" in data:
        return Dense(data["tensor"], tuple(tuple(op) for op in data["ops"]))
    if "scale" in data:
        b, a = from_json(data["b"]), from_json(data["a"])
        assert isinstance(b, Dense) and isinstance(a, Dense)
        return LowRankProduct(b, a, float(data["scale"]))
    base, delta = from_json(data["base"]), from_json(data["delta"])
    assert isinstance(base, Dense) and isinstance(delta, LowRankProduct)
    return Merged(base, delta)


def digest(data: Any) -> str:
    """blake3 (128 bits, hex) of canonical JSON: the one hash behind every key and layout id."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return blake3.blake3(text.encode()).hexdigest(length=16)


def recipe_key(recipe: Recipe) -> str:
    """Identity of a bound recipe's content: equal keys mean bit-equal matrices."""
    return digest(to_json(recipe))
