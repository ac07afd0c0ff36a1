"""How fused projections are cut: rows of one (out, in) matrix that belong to q, k and v, to gate and up, to experts.

A cut is told by the config (model type, heads, key/value heads, head size). Without one it is made only where name
and shape leave no doubt; otherwise the matrix stays whole, with kind "attention.qkv" or "mlp.other".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.archive.recipes import Op

_PER_HEAD = frozenset(("gpt_neox", "gpt_neox_japanese", "bloom", "persimmon"))
_SEQUENTIAL = frozenset(("c_attn", "Wqkv", "wqkv", "qkv_proj", "in_proj", "qkv", "to_qkv", "att_proj"))
_GATE_FIRST = frozenset(("gate_up_proj", "weights_in", "w13"))


@dataclass(frozen=True)
class Heads:
    """Attention geometry as the config tells it. `head_dim` is None when only heads and hidden size are given."""

    heads: int
    kv_heads: int
    head_dim: int | None = None
    kv_given: bool = False


@dataclass(frozen=True)
class FusedRows:
    """A part of a matrix (rows, cols): axis 0 is seen as `grid`, one of its axes is sliced, and flattened again.

    An empty `grid` slices axis 0 itself. `rows` is what remains.
    """

    suffix: str
    kind: str
    rows: int
    grid: tuple[int, ...]
    axis: int
    start: int
    stop: int
    step: int = 1

    def ops(self, cols: int) -> tuple[Op, ...]:
        """Recipe operations on a (∏grid, cols) matrix that leave (rows, cols)."""
        cut: Op = ("slice", self.axis, self.start, self.stop, self.step)
        if not self.grid:
            return (cut,)
        return (("reshape", *self.grid, cols), cut, ("reshape", self.rows, cols))


def integer(config: Mapping[str, Any], *names: str) -> int | None:
    """The first of these settings that is a positive whole number."""
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def model_type_of(config: Mapping[str, Any]) -> str:
    """The config's model_type; "" when there is none or it is no text."""
    value = config.get("model_type")
    return value if isinstance(value, str) else ""


def config_for(name: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a config that speaks of this tensor: a composite model keeps one for text and one for vision."""
    lower = name.lower()
    wanted = "vision_config" if any(w in lower for w in ("vision", "visual", "image_encoder")) else "text_config"
    if "audio" in lower:
        wanted = "audio_config"
    for side in ("encoder", "decoder"):
        if lower.startswith(f"{side}.") and isinstance(config.get(side), Mapping):
            return config[side]
    part = config.get(wanted)
    return part if isinstance(part, Mapping) else config


def heads_of(config: Mapping[str, Any], name: str = "") -> Heads | None:
    """Heads from a config.json under the names that the families use; None when it does not tell them."""
    config = config_for(name, config)
    side = "decoder" if name.startswith("decoder.") else "encoder"
    heads = integer(
        config, f"{side}_attention_heads", "num_attention_heads", "n_head", "n_heads", "num_heads", "nhead", "heads"
    )
    if heads is None:
        return None
    head_dim = integer(config, "head_dim", "d_kv", "kv_channels", "attention_head_size", "d_head")
    kv = integer(config, "num_key_value_heads", "num_kv_heads", "n_head_kv", "n_kv_heads", "multi_query_group_num")
    attention = config.get("attn_config")
    if kv is None and isinstance(attention, Mapping):  # MPT, DBRX
        kv = integer(attention, "kv_n_heads")
    multi_query = bool(config.get("multi_query")) and not config.get("new_decoder_architecture")
    if multi_query:
        kv = 1
    return Heads(heads, kv or heads, head_dim, kv is not None)


def row_cuts(path: str, rows: int, cols: int, config: Mapping[str, Any]) -> tuple[FusedRows, ...]:
    """How a matrix (rows, cols) of this canonical path falls into parts; () when it is one matrix.

    `rows` and `cols` are those of the orientation (out, in). Each part's `suffix` is appended to the path.
    """
    leaf = path.rsplit(".", 1)[-1]
    own = config_for(path, config)
    model_type = model_type_of(own)
    if leaf == "query_key_value":
        return _query_key_value(rows, heads_of(config, path), own, model_type)
    if leaf in _SEQUENTIAL:
        return _sequential(leaf, path, rows, cols, heads_of(config, path), model_type)
    if leaf == "kv_b_proj":
        return _latent_kv(rows, heads_of(config, path), own)
    gated = leaf in _GATE_FIRST or (leaf == "Wi" and model_type.startswith("modernbert"))
    gated = gated or (leaf == "input_linear" and model_type.startswith("granitemoe"))
    gated = gated or (leaf == "dense_h_to_4h" and model_type == "chatglm")
    if gated and rows % 2 == 0 and rows:
        return gate_up(rows)
    return ()


def gate_up(rows: int, interleaved: bool = False) -> tuple[FusedRows, ...]:
    """Gate (the branch that goes through the activation) and up: halves, or even and odd rows."""
    half = rows // 2
    if interleaved:
        return (
            FusedRows("gate", "mlp.gate", half, (), 0, 0, rows, 2),
            FusedRows("up", "mlp.up", half, (), 0, 1, rows, 2),
        )
    return (FusedRows("gate", "mlp.gate", half, (), 0, 0, half), FusedRows("up", "mlp.up", half, (), 0, half, rows))


def _parts(grid: tuple[int, ...], axis: int, q: tuple[int, int], k: tuple[int, int], v: tuple[int, int],
           per_slot: int) -> tuple[FusedRows, ...]:  # fmt: skip
    named = (("q", "query", q), ("k", "key", k), ("v", "value", v))
    return tuple(
        FusedRows(suffix, f"attention.{kind}", (stop - start) * per_slot, grid, axis, start, stop)
        for suffix, kind, (start, stop) in named
    )


def _sequential(
    leaf: str, path: str, rows: int, cols: int, heads: Heads | None, model_type: str
) -> tuple[FusedRows, ...]:
    """All rows of q, then of k, then of v; the key and value parts smaller when their heads are grouped."""
    if leaf == "c_attn" and "crossattention" in path and rows == 2 * cols:  # GPT-2 reads q from its own q_attn
        return (
            FusedRows("k", "attention.key", cols, (), 0, 0, cols),
            FusedRows("v", "attention.value", cols, (), 0, cols, rows),
        )
    if model_type == "codegen" and leaf == "qkv_proj" and rows % 12 == 0:  # four blocks of (q, v, k)
        return _parts((4, 3, rows // 12), 1, (0, 1), (2, 3), (1, 2), rows // 3)
    if model_type == "gpt_bigcode" and heads and heads.kv_heads == heads.heads and rows % (3 * heads.heads) == 0:
        return _per_head(rows, heads.heads)
    if heads is not None and heads.kv_given and heads.kv_heads != heads.heads:
        slots = heads.heads + 2 * heads.kv_heads
        if rows % slots == 0 and heads.head_dim in (None, rows // slots):
            dim, nq, nk = rows // slots, heads.heads, heads.kv_heads
            return _parts((), 0, (0, nq * dim), (nq * dim, (nq + nk) * dim), ((nq + nk) * dim, rows), 1)
        return ()
    known = heads is not None and heads.head_dim is not None and rows == 3 * heads.heads * heads.head_dim
    if rows and rows % 3 == 0 and (known or rows == 3 * cols):
        third = rows // 3
        return _parts((), 0, (0, third), (third, 2 * third), (2 * third, rows), 1)
    return ()


def _per_head(rows: int, heads: int) -> tuple[FusedRows, ...]:
    """q, k, v of head 0, then of head 1, …: grid (heads, 3, head_dim)."""
    dim = rows // (3 * heads)
    return _parts((heads, 3, dim), 1, (0, 1), (1, 2), (2, 3), heads * dim)


def _query_key_value(
    rows: int, heads: Heads | None, config: Mapping[str, Any], model_type: str
) -> tuple[FusedRows, ...]:
    """GPT-NeoX and BLOOM per head; Falcon by its two switches; nothing is cut for a model that is not known."""
    if heads is None or not rows:
        return ()
    if model_type in _PER_HEAD or (model_type in ("falcon", "RefinedWeb", "RefinedWebModel") and _falcon_plain(config)):
        return _per_head(rows, heads.heads) if rows % (3 * heads.heads) == 0 else ()
    if model_type in ("falcon", "RefinedWeb", "RefinedWebModel"):
        groups = heads.kv_heads if config.get("new_decoder_architecture") else 1
        per_group = heads.heads // groups
        if heads.heads % groups or rows % (groups * (per_group + 2)):
            return ()
        dim = rows // (groups * (per_group + 2))
        n = per_group
        return _parts((groups, n + 2, dim), 1, (0, n), (n, n + 1), (n + 1, n + 2), groups * dim)
    if model_type == "chatglm" and config.get("multi_query_attention"):
        return _sequential("qkv_proj", "", rows, 0, heads, model_type)
    return ()


def _falcon_plain(config: Mapping[str, Any]) -> bool:
    return not config.get("new_decoder_architecture") and not config.get("multi_query", True)


def _latent_kv(rows: int, heads: Heads | None, config: Mapping[str, Any]) -> tuple[FusedRows, ...]:
    """DeepSeek's kv_b_proj: per head the keys' rows (without rotary part), then the values'."""
    nope, value = integer(config, "qk_nope_head_dim"), integer(config, "v_head_dim")
    if heads is None or nope is None or value is None or rows != heads.heads * (nope + value):
        return ()
    grid = (heads.heads, nope + value)
    return (
        FusedRows("k", "attention.key", heads.heads * nope, grid, 1, 0, nope),
        FusedRows("v", "attention.value", heads.heads * value, grid, 1, nope, nope + value),
    )
