"""Attention circuits per head: QK = W_Qᵀ W_K and OV = W_O W_V, as products of thin factors that are never formed.

They are the raw products of weights (Elhage et al. 2021): no 1/√d_head, no biases, no rotary embedding between q and
k. Rank is at most d_head, so p = d_head, and no Marchenko–Pastur law applies.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from pipeline.archive.fused import Heads, heads_of
from pipeline.archive.hooked import parameter
from pipeline.archive.recipes import Dense, LowRankProduct
from pipeline.archive.types import Layout, MatrixSpec

MAX_HEADS = 1024
"""More heads than any model has in a block are a config's mistake, and would make millions of circuits."""

_ATTENTION = re.compile(r"attn|attention|^mha$", re.IGNORECASE)
_PARTS = ("attention.query", "attention.key", "attention.value", "attention.output")


def circuits(layout: Layout, config: Mapping[str, Any]) -> tuple[MatrixSpec, ...]:
    """Per head h of each attention block: QK_h (D_q, D_k) and OV_h (D_out, D_v), roles "circuit_qk", "circuit_ov".

    Named ``<attention block>.qk.head<h>`` and ``.ov.head<h>``. With grouped keys and values, head h reads the key and
    value head h // (heads / kv_heads). Heads come from the config, or from projections that are stored by head
    (TransformerLens); without either there are no circuits. A block whose shapes do not agree with them (latent
    attention, gated queries) has none.
    """
    shapes = {header.name: header.shape for header in layout.tensors}
    blocks: dict[str, dict[str, list[MatrixSpec]]] = defaultdict(lambda: defaultdict(list))
    for spec in layout.matrices:
        block = attention_block(spec.name)
        if block is not None and spec.role == "weight" and spec.kind in _PARTS and isinstance(spec.recipe, Dense):
            blocks[block][spec.kind].append(spec)
    found: list[MatrixSpec] = []
    for block, parts in blocks.items():
        if any(len(parts[part]) != 1 for part in _PARTS):
            continue
        q, k, v, o = (parts[part][0] for part in _PARTS)
        heads = heads_of(config, block) or _heads_by_shape(q, k, shapes)
        if heads is None:
            continue
        sizes = _head_sizes(q, k, v, o, heads)
        if sizes is not None and heads.heads <= MAX_HEADS:
            found.extend(_of_block(block, (q, k, v, o), heads.heads, *sizes))
    return tuple(found)


def _heads_by_shape(q: MatrixSpec, k: MatrixSpec, shapes: Mapping[str, tuple[int, ...]]) -> Heads | None:
    """Heads of W_Q and W_K where they are stored by head: (heads, …), or (d, heads, d_head)."""
    counts = []
    for spec, name in ((q, "W_Q"), (k, "W_K")):
        assert isinstance(spec.recipe, Dense)
        shape = shapes[spec.recipe.tensor]
        if parameter(spec.recipe.tensor) != name or len(shape) != 3:
            return None
        counts.append(shape[0] if spec.shape[1] in shape[1:] else shape[1])
    return Heads(counts[0], counts[1], None, True)


def attention_block(name: str) -> str | None:
    """The attention block in a matrix's name: up to the first component that speaks of attention.

    ``encoder.layer.0.attention.self.query`` → ``encoder.layer.0.attention``.
    """
    parts = name.split(".")
    for i, part in enumerate(parts[:-1]):
        if _ATTENTION.search(part) and part != "c_attn":
            return ".".join(parts[: i + 1])
    return None


def _head_sizes(
    q: MatrixSpec, k: MatrixSpec, v: MatrixSpec, o: MatrixSpec, heads: Heads
) -> tuple[int, int, int] | None:
    """(d_head of q and k, d_head of v, key/value heads) when the shapes agree with the config, else None."""
    if q.shape[0] % heads.heads or not q.shape[0]:
        return None
    dim = q.shape[0] // heads.heads
    if heads.head_dim is not None and heads.head_dim != dim:
        return None
    if k.shape[0] % dim:
        return None
    kv_heads = k.shape[0] // dim
    if not kv_heads or heads.heads % kv_heads or v.shape[0] % kv_heads or o.shape[1] % heads.heads:
        return None
    if heads.kv_given and heads.kv_heads != kv_heads:
        return None
    value_dim = v.shape[0] // kv_heads
    return (dim, value_dim, kv_heads) if value_dim and o.shape[1] == heads.heads * value_dim else None


def _of_block(
    block: str, specs: tuple[MatrixSpec, MatrixSpec, MatrixSpec, MatrixSpec], heads: int, dim: int, value_dim: int,
    kv_heads: int,
) -> list[MatrixSpec]:  # fmt: skip
    q, k, v, o = specs
    found: list[MatrixSpec] = []
    for head in range(heads):
        group = head // (heads // kv_heads)
        query = _slice(q, 0, head, dim, turn=True)
        key = _slice(k, 0, group, dim)
        value = _slice(v, 0, group, value_dim)
        output = _slice(o, 1, head, value_dim)
        qk, ov = LowRankProduct(query, key), LowRankProduct(output, value)
        for short, shape, recipe in (("qk", (q.shape[1], k.shape[1]), qk), ("ov", (o.shape[0], v.shape[1]), ov)):
            found.append(
                MatrixSpec(
                    f"{block}.{short}.head{head}", shape, recipe, q.layer, f"attention.{short}", f"circuit_{short}",
                    q.dtype, "out_in",
                )
            )  # fmt: skip
    return found


def _slice(spec: MatrixSpec, axis: int, index: int, size: int, turn: bool = False) -> Dense:
    """Rows (axis 0) or columns (axis 1) of one head; `turn` transposes what remains."""
    assert isinstance(spec.recipe, Dense)
    ops = (*spec.recipe.ops, ("slice", axis, index * size, (index + 1) * size, 1))
    return Dense(spec.recipe.tensor, (*ops, ("permute", 1, 0)) if turn else ops)
