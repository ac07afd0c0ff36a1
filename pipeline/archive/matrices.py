"""Full weights → matrices: which matrices a tensor holds, in the orientation (out, in), and the recipe of each.

A tensor is one matrix (linear, convolution, embedding), several (fused q/k/v, gate/up, experts), or none.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from pipeline.archive.averages import averaged_copies
from pipeline.archive.experts import dbrx_cuts, expert_cuts, is_stack
from pipeline.archive.factors import low_rank_factors
from pipeline.archive.fused import config_for, integer, model_type_of
from pipeline.archive.hooked import Hooked, HookedCut
from pipeline.archive.kinds import kind_of
from pipeline.archive.names import Dialect, layer_of, module_path, one_form, strip_prefixes, unique_names, words
from pipeline.archive.orientation import inputs_first
from pipeline.archive.prefixes import UNCHANGED, Prefix
from pipeline.archive.quantised import quantised_parts
from pipeline.archive.recipes import Dense, Op, Recipe
from pipeline.archive.renaming import StoredName, disk_names, stored_on_disk
from pipeline.archive.stored import pieces_of
from pipeline.archive.types import Layout, MatrixSpec, TensorHeader, Unmeasured
from pipeline.archive.unmeasured import why_not

_CONV1D_TYPES = frozenset(("gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp"))
_CONV1D = frozenset(("c_attn", "q_attn", "c_proj", "c_fc"))
_TURN: tuple[Op, ...] = (("permute", 1, 0),)


@dataclass(frozen=True)
class Draft:
    """A matrix before it has its final name: `names` are candidates, the canonical one first."""

    names: tuple[str, ...]
    shape: tuple[int, int]
    recipe: Recipe
    kind: str | None
    dtype: str
    orientation: str = "out_in"
    role: str = "weight"


@dataclass(frozen=True)
class _Layers:
    """What a checkpoint's other tensors tell: shapes by path, whether GPT-2's Conv1D is used, and what biases say of
    which way round their weights stand."""

    shapes: Mapping[str, tuple[int, ...]]
    conv1d: bool
    told: Mapping[str, bool]


def drafts_of(
    tensors: Sequence[TensorHeader],
    config: Mapping[str, Any],
    on_disk: Mapping[str, str] | None = None,
    prefix: Prefix = UNCHANGED,
) -> tuple[list[Draft], list[Unmeasured]]:
    """The matrices and the unmeasured tensors of full weights.

    `on_disk`: tensor name → its name in transformers' files, where that is known; by default it is found here, with
    the `prefix` of the base.
    """
    names = frozenset(t.name for t in tensors)
    known = on_disk if on_disk is not None else names_on_disk([t.name for t in tensors], config, prefix)
    stored = stored_on_disk(_as_in_base([t.name for t in tensors], prefix), config) if on_disk is None else {}
    dialect = Dialect.of(known.values(), model_type_of(config))
    shapes = {one_form(strip_prefixes(module_path(known[t.name])), dialect): t.shape for t in tensors}
    layers = _Layers(shapes, _uses_conv1d(shapes, config), inputs_first(tensors))
    hooked = Hooked.of(tensors)
    parts = averaged_copies(tensors) | quantised_parts(tensors) | low_rank_factors(tensors)
    drafts: list[Draft] = []
    unmeasured: list[Unmeasured] = []
    for header in tensors:
        reason = parts.get(header.name) or why_not(header, names)
        cut = None if reason else hooked.cut(header.name, header.shape)
        if cut is not None:
            drafts.append(_bare(header, known[header.name], cut, dialect, names))
            continue
        how = stored.get(prefix.in_base(header.name))
        cuts = [] if reason else _matrices(header, known[header.name], layers, config, dialect, how)
        if not cuts:
            reason = reason or f"{len(header.shape)}-D {header.shape}: its layout is unknown"
            unmeasured.append(Unmeasured(header.name, reason))
        drafts.extend(cuts)
    return drafts, unmeasured


def names_on_disk(names: Sequence[str], config: Mapping[str, Any], prefix: Prefix = UNCHANGED) -> dict[str, str]:
    """Each tensor name with the one that transformers' files have for it, below the prefix of the base."""
    return dict(zip(names, disk_names(_as_in_base(names, prefix), config)[: len(names)], strict=True))


def _as_in_base(names: Sequence[str], prefix: Prefix) -> list[str]:
    """The names as the base has them. Where they get its prefix, one more stands for the names that lack it there: a
    prefix that all share would be taken for a wrapper's, and not be kept."""
    return [prefix.in_base(name) for name in names] + [""] * bool(prefix.there)


def layout_of(tensors: Sequence[TensorHeader], drafts: Sequence[Draft], unmeasured: Sequence[Unmeasured]) -> Layout:
    """The layout with unique names, layers and kinds."""
    names = unique_names([draft.names for draft in drafts])
    matrices = tuple(
        MatrixSpec(
            name, d.shape, d.recipe, layer_of(name), d.kind or kind_of(d.names[0]), d.role, d.dtype, d.orientation
        )
        for name, d in zip(names, drafts, strict=True)
    )
    return Layout(tuple(tensors), matrices, tuple(unmeasured))


def _bare(header: TensorHeader, name: str, cut: HookedCut, dialect: Dialect, names: Collection[str]) -> Draft:
    """The matrix of a bare parameter whose layout was told by shapes. `name`: the tensor's on disk. ``W_gate`` beside
    experts is their router."""
    ops, size, orientation = cut
    path = one_form(strip_prefixes(module_path(name)), dialect)
    candidates = (path, one_form(module_path(name), dialect), header.name)
    experts = f"{header.name.removesuffix('W_gate')}experts."
    routes = header.name.endswith("W_gate") and any(other.startswith(experts) for other in names)
    kind = "router" if routes else None
    return Draft(candidates, size, Dense(header.name, ops), kind, header.dtype, orientation)


def _matrices(
    header: TensorHeader,
    name: str,
    layers: _Layers,
    config: Mapping[str, Any],
    dialect: Dialect,
    stored: StoredName | None,
) -> list[Draft]:
    """The matrices of one tensor of two or more axes; [] when its layout is not known. `name`: the tensor's on disk."""
    long = one_form(module_path(name), dialect)
    path = one_form(strip_prefixes(module_path(name)), dialect)
    shape = header.shape
    leaf = path.rsplit(".", 1)[-1]
    last = name.replace("/", ".").rsplit(".", 1)[-1]

    def draft(tail: str, ops: tuple[Op, ...], size: tuple[int, int], orientation: str, kind: str | None) -> Draft:
        suffix = f".{tail}" if tail else ""
        names = (path + suffix, long + suffix, name + suffix)
        return Draft(names, size, Dense(header.name, ops), kind, header.dtype, orientation)

    alternating = stored is not None and stored.alternating
    cuts = expert_cuts(path, shape, layers.shapes, config, alternating) if is_stack(path, shape) else []
    if model_type_of(config) == "dbrx" and ".experts.mlp." in path and len(shape) == 2:
        cuts = dbrx_cuts(path, shape, config)
    if cuts:
        head = path.removesuffix(f".{leaf}").removesuffix(".experts.mlp").removesuffix(".experts")
        return [
            Draft(
                (f"{head}.experts.{tail}", f"{long}.{tail}", f"{name}.{tail}"),
                size,
                Dense(header.name, ops),
                None,
                header.dtype,
                orientation,
            )
            for tail, ops, size, orientation in cuts
        ]
    kind = kind_of(path)
    if kind in ("embedding", "unembedding", "linear") and _is_table(path, shape, kind, config):
        kind = "embedding"
    if kind == "embedding":
        rows, cols = (prod(shape[:-1]), shape[-1])
        flat: tuple[Op, ...] = () if len(shape) == 2 else (("reshape", rows, cols),)
        return [draft("", (*flat, *_TURN), (cols, rows), "in_out", "embedding")]
    if len(shape) > 2:
        return _spatial(path, last, shape, draft)
    turned = layers.told.get(header.name, last in ("kernel", "recurrent_kernel") or (layers.conv1d and leaf in _CONV1D))
    rows, cols = (shape[1], shape[0]) if turned else (shape[0], shape[1])
    turn = _TURN if turned else ()
    orientation = "in_out" if turned else "out_in"
    pieces = pieces_of(path, rows, cols, config, stored)
    if not pieces:
        vocabulary = integer(config_for(path, config), "vocab_size")
        if kind == "linear" and rows == vocabulary and rows != cols:
            kind = "unembedding"
        return [draft("", turn, (rows, cols), orientation, kind)]
    return [draft(p.suffix, (*turn, *p.ops), (p.rows, cols), orientation, p.kind) for p in pieces]


def _spatial(path: str, last: str, shape: tuple[int, ...], draft: Any) -> list[Draft]:
    """Kernels of three and more axes: convolutions, and attention projections kept by head."""
    flat = prod(shape[1:])
    leaf = path.rsplit(".", 1)[-1]
    kind = kind_of(path)
    by_head = len(shape) == 3 and kind.startswith("attention.")
    if by_head and (last == "kernel" or ".rel_attn." in f".{path}") and leaf in _BY_HEAD_IN:  # (in, heads, head_dim)
        ops: tuple[Op, ...] = (("reshape", shape[0], flat), *_TURN)
        return [draft("", ops, (flat, shape[0]), "in_out", kind)]
    if by_head and last == "kernel":  # Flax DenseGeneral's output: (heads, head_dim, out)
        size = (shape[2], shape[0] * shape[1])
        return [draft("", (("reshape", size[1], size[0]), *_TURN), size, "in_out", kind)]
    if ".rel_attn." in f".{path}" and len(shape) == 3:  # XLNet's o: (out, heads, head_dim)
        return [draft("", (("reshape", shape[0], flat),), (shape[0], flat), "out_in", "attention.output")]
    if last == "kernel":  # Flax and Keras: (*k, in, out)
        axes = (len(shape) - 1, len(shape) - 2, *range(len(shape) - 2))
        size = (shape[-1], prod(shape[:-1]))
        return [draft("", (("permute", *axes), ("reshape", *size)), size, "in_out", "conv")]
    if last == "weight":
        return [draft("", (("reshape", shape[0], flat),), (shape[0], flat), "out_in", "conv")]
    return []


_BY_HEAD_IN = words("q k v r query key value q_proj k_proj v_proj")


def _is_table(path: str, shape: tuple[int, ...], kind: str, config: Mapping[str, Any]) -> bool:
    """Whether a tensor is a table of vectors by other signs than its name's words."""
    if kind == "embedding":
        return True
    leaf = path.rsplit(".", 1)[-1]
    vocabulary = integer(config_for(path, config), "vocab_size")
    return (
        kind == "linear" and "embed" in leaf and len(shape) == 2 and shape[0] == vocabulary and shape[1] != vocabulary
    )


def _uses_conv1d(shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any]) -> bool:
    """Whether c_attn, c_proj, c_fc are transformers' Conv1D (in, out): by the model type, else by c_attn's shape."""
    if model_type := model_type_of(config):
        return model_type in _CONV1D_TYPES
    return any(
        len(shape) == 2 and shape[1] == 3 * shape[0] and shape[0] > 0
        for path, shape in shapes.items()
        if path.endswith("c_attn")
    )
