"""The parts of quantised weights: codes, and the scales, zero points and tables that give them values.

None of them is a matrix of the model. Tools name them differently, so they are told by their neighbours: where a module
holds a table of integers (or of float8 values) in the place of its weight, and small float tables beside it, all of
these belong to one quantised weight. Known names only add the tool, and decide where shapes alone cannot.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from math import prod

from pipeline.archive.types import TensorHeader
from pipeline.archive.unmeasured import FLOATS

_WAY_OUT = "dequantise the checkpoint to measure it"
_BYTES = {"int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "int64": 8, "uint64": 8}
_NO_CODES = re.compile(
    r"mask|index|indices|idx|(?:^|_)ids?(?:$|_)|position|tril|triu|causal|bias|count|steps?$|shape|size|length|offsets?$|"
    r"relative|coords|(?:^|_)(?:rel|edge|vocab|token|parent|child|map)s?(?:$|_)",
    re.IGNORECASE,
)
_CODES = re.compile(
    r"^(?:qweight|q_weight|w_q|weight_packed|packed_weight|qidxs|codes|trellis|_?(?:weight_)?q?data)$", re.I
)
_PACKED = re.compile(r"^(?:qweight|q_weight|w_q|weight_packed|packed_weight|qidxs|trellis)$", re.I)
"""Names of codes that no module has beside a weight of its own."""
_TABLE = re.compile(
    r"scale|zero|shift|absmax|amax|quant_(?:map|state)|^tables?\d*$|lookup_table|(?:^|_)lut|codebook|centroid|offset|"
    r"norm_?factor|^s[uv]h?$",
    re.IGNORECASE,
)
_CODEBOOK = re.compile("codebook|centroid", re.IGNORECASE)
_SCALE_OF_FLOATS = re.compile(r"scale|zero_?point|absmax|amax", re.IGNORECASE)
_INSIDE = re.compile(
    r"^(?:weight|kernel|meta|quant_state|tensor_impl|_packed_params|(?:res_)?centroids|scales?|zeros?|zero_points?|codebooks?|\w+_quantizer|\w*fake_quant|"
    r"\w+_post_process)$"
)
_TOOLS = {
    "qweight": "GPTQ or AWQ", "W_q": "HQQ", "_data": "quanto", "_weight_qdata": "torchao",
    "qdata": "torchao",
    "weight_packed": "compressed-tensors", "absmax": "bitsandbytes", "SCB": "bitsandbytes", "Qidxs": "QuIP#",
    "codebooks": "AQLM", "tables": "FLUTE or HIGGS", "tables2": "FLUTE or HIGGS", "weight_scales": "EETQ",
    "centroids": "VPTQ", "trellis": "EXL3", "q_weight": "EXL2", "weight_scale_inv": "block-wise float8",
}  # fmt: skip


def quantised_parts(tensors: Sequence[TensorHeader]) -> dict[str, str]:
    """The tensors that are parts of quantised weights, each with the reason why it is not measured."""
    modules: dict[str, list[TensorHeader]] = defaultdict(list)
    for header in tensors:
        modules[_module(header.name)].append(header)
    listed: dict[str, str] = {}
    for module, members in modules.items():
        members = [t for t in members if not _leaf(t.name).endswith("bias")]
        if len(members) > 1 and (parts := _parts(module, members)):
            leaves = {_leaf(t.name) for t in members} | {t.name.split(".")[-2] for t in members if "." in t.name}
            tools = sorted({_TOOLS[leaf] for leaf in leaves & _TOOLS.keys()})
            of = f" ({', '.join(tools)})" if tools else ""
            for header in parts:
                what = f"{header.dtype} {header.shape}: part of a quantised weight{of}"
                listed[header.name] = f"{what}; {_WAY_OUT}"
    return listed


def _leaf(name: str) -> str:
    return re.split(r"[./]", name)[-1]


def _module(name: str) -> str:
    """The module a tensor belongs to: up to the parameter that tools keep a quantised weight's parts below."""
    parts = re.split(r"[./]", name)
    below = next((at for at, part in enumerate(parts[1:-1], 1) if _INSIDE.match(part)), len(parts) - 1)
    return ".".join(parts[:below])


def _parts(module: str, members: Sequence[TensorHeader]) -> list[TensorHeader]:
    """Those of a module's tensors that make up a quantised weight; [] when it has none."""
    indexed = any(_CODEBOOK.search(t.name.removeprefix(module)) for t in members)
    codes = [t for t in members if _is_codes(t, indexed)]
    tables = [t for t in members if t not in codes and any(_is_table(t, code, module) for code in codes)]
    named = any(_CODES.match(_leaf(t.name)) for t in codes)
    certain = any(_PACKED.match(_leaf(t.name)) for t in codes)
    if codes and (tables or named):
        largest = max(_weight_count(t) for t in codes)
        whole = [t for t in members if t.dtype in FLOATS and t not in tables and prod(t.shape) > largest // 8]
        if certain:
            return list(members)
        if named or not whole:
            return [t for t in members if t not in whole]
    return _scaled_floats(members)


def _is_codes(header: TensorHeader, indexed: bool) -> bool:
    """Whether a tensor may be a weight's codes: integers in two and more axes, not a buffer by its name.

    `indexed`: a codebook stands beside it, so that it may well be called indices.
    """
    leaf = _leaf(header.name)
    if header.dtype in FLOATS or header.dtype.startswith(("bool", "complex")) or not prod(header.shape):
        return False
    if _CODES.match(leaf) or (leaf == "weight" and header.shape):
        return True
    long = header.dtype in ("int64", "uint64")  # what counters and indices are made of
    other = (_NO_CODES.search(leaf) and not indexed) or _TABLE.search(leaf)
    return len(header.shape) > 1 and prod(header.shape) > 1 and not long and not other


def _weight_count(codes: TensorHeader) -> int:
    """How many weights these codes hold at four bits each."""
    return 2 * prod(codes.shape) * _BYTES.get(codes.dtype, 1)


def _is_table(header: TensorHeader, codes: TensorHeader, module: str) -> bool:
    """Whether a tensor gives values to these codes: a table by its name, or small and of a fitting shape."""
    if header.dtype.startswith(("bool", "complex")) or not prod(header.shape):
        return False
    if _TABLE.search(_leaf(header.name)) or _TABLE.search(header.name.rpartition(".")[0].rpartition(".")[2]):
        return True
    fits = any(big % small == 0 or small % big == 0 for small in header.shape for big in codes.shape if small > 1)
    return header.dtype in FLOATS and bool(module) and fits and 4 * prod(header.shape) <= _weight_count(codes)


def _scaled_floats(members: Sequence[TensorHeader]) -> list[TensorHeader]:
    """float8 values with their scales, and the scales that training for quantisation keeps beside a float weight."""
    leaves = {_leaf(t.name): t for t in members}
    scales = [t for t in members if _SCALE_OF_FLOATS.search(_leaf(t.name)) and not t.dtype.startswith("float8_e4m3")]
    values = [t for t in members if t.dtype.startswith("float8") and len(t.shape) > 1 and t not in scales]
    smaller = [s for s in scales if any(2 * prod(s.shape) <= prod(v.shape) for v in values)]
    if smaller:
        return [*values, *smaller]
    found = []
    for scale in scales:
        stem = re.split(r"_(?:scales?(?:_inv)?|zero_?point|absmax|amax)$", _leaf(scale.name))
        weight = leaves.get(stem[0]) if len(stem) > 1 else None
        weight = weight or (leaves.get("weight") if "_quantizer." in scale.name else None)
        if weight is not None and scale.shape and 2 * prod(scale.shape) <= prod(weight.shape):
            found.append(scale)
    return found
