"""Which way round a weight stands, told by its bias: code that multiplies x @ w keeps w as (in, out).

Haiku's and many hand-written layers do so, whatever their parameters are called. A bias has one entry for each output.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from pipeline.archive.types import TensorHeader

_BIASES = {
    "weight": ("bias",),
    "weights": ("biases", "bias"),
    "kernel": ("bias",),
    "w": ("b", "bias"),
    "W": ("b", "bias"),
}


def inputs_first(tensors: Sequence[TensorHeader]) -> dict[str, bool]:
    """Matrix name → whether it is stored (in, out); only matrices that have a bias, as far as biases tell.

    The bias of a square matrix does not tell: it stands as other layers of its name (``c_proj``), or else all other
    layers of the file, do.
    """
    shapes = {t.name: t.shape for t in tensors}
    told: dict[str, bool] = {}
    squares: list[tuple[str, str]] = []
    votes: dict[str, set[bool]] = defaultdict(set)
    for name, shape in shapes.items():
        *path, leaf = re.split(r"[./]", name)
        if len(shape) != 2 or leaf not in _BIASES or 1 in shape:
            continue
        biases = (shapes.get(f"{name[: -len(leaf)]}{bias}", ()) for bias in _BIASES[leaf])
        outputs = next((bias for bias in biases if len(bias) == 1 and bias[0] in shape), None)
        layer = f"{path[-1] if path else ''}.{leaf}"
        if outputs is None:
            continue
        if shape[0] == shape[1]:
            squares.append((name, layer))
        else:
            told[name] = outputs == (shape[1],)
            votes[layer].add(told[name])
    everywhere = set(told.values())
    for name, layer in squares:
        opinions = votes.get(layer, everywhere)
        if len(opinions) == 1:
            told[name] = next(iter(opinions))
    return told
