"""Recipes become torch tensors: the only place where numpy does. What a recipe does not need is not read."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import torch

from analyzers.contract import Content, LowRank, Sum
from pipeline.archive.recipes import Dense, LowRankProduct, Op, Recipe, apply_ops
from pipeline.store.clock import spend


class StoredTensors(Protocol):
    """Stored tensors by digest; `pipeline.store.store.Store` is one."""

    def read_tensor(self, digest: str, rows: tuple[int, int] | None = None) -> np.ndarray: ...

    def shape_of(self, digest: str) -> tuple[int, ...]: ...


def load(store: StoredTensors, recipe: Recipe) -> Content:
    """The content of a recipe bound to digests, on the CPU, in storage dtype, oriented (out, in)."""
    if isinstance(recipe, Dense):
        return to_torch(read_dense(store, recipe))
    if isinstance(recipe, LowRankProduct):
        return _low_rank(store, recipe)
    return Sum(to_torch(read_dense(store, recipe.base)), _low_rank(store, recipe.delta))


def read_dense(store: StoredTensors, recipe: Dense) -> np.ndarray:
    """The matrix as numpy. Of one expert of a fused (E, a, b) tensor, or q of a fused qkv, only its rows are read."""
    if not recipe.ops:
        return store.read_tensor(recipe.tensor)
    shape = store.shape_of(recipe.tensor)
    start, taken, rest = contiguous_part(shape, recipe.ops)
    size, row = math.prod(taken), math.prod(shape[1:])
    if size == math.prod(shape) or not row or not size:
        return apply_ops(store.read_tensor(recipe.tensor), recipe.ops)
    first, last = start // row, -(-(start + size) // row)
    rows = store.read_tensor(recipe.tensor, (first, last)).reshape(-1)
    part = apply_ops(rows[start - first * row : start - first * row + size].reshape(taken), rest)
    # A small view would keep all the rows alive.
    return part.copy() if part.size * 2 < rows.size else part


def contiguous_part(shape: tuple[int, ...], ops: tuple[Op, ...]) -> tuple[int, tuple[int, ...], tuple[Op, ...]]:
    """(start, shape, remaining ops): the leading ops that pick one run of consecutive entries, as that run.

    A reshape keeps the run, a select or plain slice along the first axis narrows it; the first other op ends it.
    """
    start = 0
    for count, (name, *arguments) in enumerate(ops):
        if name == "reshape":
            sizes = [int(size) for size in arguments]
            if -1 in sizes:
                known = math.prod(size for size in sizes if size != -1)
                sizes[sizes.index(-1)] = math.prod(shape) // known if known else 0
            shape = tuple(sizes)
        elif name == "select" and arguments[0] == 0 and -shape[0] <= arguments[1] < shape[0]:
            start += (arguments[1] % shape[0]) * math.prod(shape[1:])
            shape = shape[1:]
        elif name == "slice" and arguments[0] == 0 and (arguments[3] or 1) == 1:
            first, last, _ = slice(arguments[1], arguments[2]).indices(shape[0])
            start += first * math.prod(shape[1:])
            shape = (max(0, last - first), *shape[1:])
        else:
            return start, shape, ops[count:]
    return start, shape, ()


def to_torch(array: np.ndarray) -> torch.Tensor:
    """The same bits as a torch tensor; bfloat16 and float8 pass as unsigned integers."""
    with spend("copy"):
        return _to_torch(array)


def _to_torch(array: np.ndarray) -> torch.Tensor:
    array = np.asarray(array)  # numpy makes a scalar of an entry that was selected
    if array.dtype.kind == "V" or not hasattr(np, array.dtype.name):
        held = array.view(f"u{array.dtype.itemsize}")
        return torch.from_numpy(_owned(held)).view(getattr(torch, array.dtype.name))
    return torch.from_numpy(_owned(array))


def _owned(array: np.ndarray) -> np.ndarray:
    """Writable, as torch wants it."""
    return array if array.flags.writeable else array.copy()


def _low_rank(store: StoredTensors, recipe: LowRankProduct) -> LowRank:
    return LowRank(to_torch(read_dense(store, recipe.b)), to_torch(read_dense(store, recipe.a)), recipe.scale)
