"""Experts held in one tensor: which orientation they have and how each one's matrices are cut from it.

A stack is (E, out, in) or (E, in, out): GPT-OSS, Llama 4 and DBRX store experts transposed. Names follow the
per-expert files: ``mlp.experts.gate_up_proj`` (E, 2F, D) → ``mlp.experts.3.gate_proj`` and ``mlp.experts.3.up_proj``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.archive.fused import FusedRows, config_for, gate_up, integer, model_type_of
from pipeline.archive.recipes import Op

_TRANSPOSED = frozenset(("gpt_oss", "llama4", "llama4_text", "dbrx"))
_FUSED = frozenset(("gate_up_proj", "w13", "gate_up", "w13_weight"))
_DOWN = frozenset(("down_proj", "w2", "w2_weight"))
_CANONICAL = {"w1": "gate_proj", "w3": "up_proj", "v1": "up_proj", "w2": "down_proj", "w2_weight": "down_proj"}

MOST_EXPERTS = 65536
"""A longer stack is no stack of experts: a header must not make varve name millions of matrices."""

Cut = tuple[str, tuple[Op, ...], tuple[int, int], str]
"""(what follows ``experts.``, operations on the stored tensor, (out, in), orientation)"""


def is_stack(path: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor of this canonical path holds one matrix per expert along its first axis."""
    parts = path.split(".")
    return (
        len(shape) == 3
        and shape[0] <= MOST_EXPERTS
        and ("experts" in parts[:-1] or parts[-1] == "experts" or "moe" in parts[:-1])
    )


def stored_transposed(path: str, shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any]) -> bool:
    """Whether the experts beside `path` are held (in, out).

    Told by the model type, else by the shapes of gate_up (E, a, b) and down (E, c, d): a = 2d and b = c when they are
    (out, in), b = 2c and a = d when not; else (out, in).
    """
    own = config_for(path, config)
    if model_type_of(own) in _TRANSPOSED:
        return True
    head = path.rsplit(".", 1)[0]
    fused = next((shapes[f"{head}.{leaf}"] for leaf in sorted(_FUSED) if f"{head}.{leaf}" in shapes), None)
    down = next((shapes[f"{head}.{leaf}"] for leaf in sorted(_DOWN) if f"{head}.{leaf}" in shapes), None)
    if fused is None or down is None or len(fused) != 3 or len(down) != 3:
        return False
    return fused[1] == down[2] and fused[2] == 2 * down[1]


def expert_cuts(
    path: str,
    shape: tuple[int, ...],
    shapes: Mapping[str, tuple[int, ...]],
    config: Mapping[str, Any],
    alternating: bool = False,
) -> list[Cut]:
    """Each expert's matrices of a stack (E, a, b), in order of the experts, gate before up.

    `shapes` are those of all tensors by canonical path: they tell the orientation where the config does not, and
    GPT-OSS by its expert biases (gate and up alternate there, and where `alternating`; elsewhere they are halves).
    """
    count, first, second = shape
    head, _, leaf = path.rpartition(".")
    transposed = stored_transposed(path, shapes, config)
    rows, cols = (second, first) if transposed else (first, second)
    turn: tuple[Op, ...] = (("permute", 1, 0),) if transposed else ()
    orientation = "in_out" if transposed else "out_in"
    parts: tuple[FusedRows, ...] = ()
    if leaf in _FUSED and rows % 2 == 0:
        model_type = model_type_of(config_for(path, config))
        by_biases = not model_type and transposed and f"{head}.{leaf}_bias" in shapes
        parts = gate_up(rows, interleaved=alternating or model_type == "gpt_oss" or by_biases)
    cuts: list[Cut] = []
    for expert in range(count):
        chosen: tuple[Op, ...] = (("select", 0, expert), *turn)
        if not parts:
            cuts.append((f"{expert}.{_CANONICAL.get(leaf, leaf)}", chosen, (rows, cols), orientation))
        for part in parts:
            name = f"{expert}.{part.suffix}_proj"
            cuts.append((name, (*chosen, *part.ops(cols)), (part.rows, cols), orientation))
    return cuts


def dbrx_cuts(path: str, shape: tuple[int, ...], config: Mapping[str, Any]) -> list[Cut]:
    """DBRX stacks its experts' rows in one 2-D tensor (E·F, D): w1 is gate, v1 up, w2 down (held transposed)."""
    settings = config.get("ffn_config")
    count = integer(settings, "moe_num_experts") if isinstance(settings, Mapping) else None
    leaf = path.rpartition(".")[2]
    if count is None or shape[0] % count or leaf not in ("w1", "v1", "w2"):
        return []
    rows, cols = shape[0] // count, shape[1]
    down = leaf == "w2"
    turn: tuple[Op, ...] = (("permute", 1, 0),) if down else ()
    size = (cols, rows) if down else (rows, cols)
    orientation = "in_out" if down else "out_in"
    return [
        (f"{e}.{_CANONICAL[leaf]}", (("slice", 0, e * rows, (e + 1) * rows, 1), *turn), size, orientation)
        for e in range(count)
    ]
