"""Why a tensor is no matrix: biases, gains, counters, buffers, quantised values. Each reason is a true sentence."""

from __future__ import annotations

import re
from collections.abc import Collection

from pipeline.archive.names import module_path, words
from pipeline.archive.types import TensorHeader

FLOATS = words("float64 float32 float16 bfloat16 float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz")
"""Storage dtypes that hold a weight's values as they are."""

LONGEST_NAME = 1000
"""Characters; real names stay below 200."""

_NORM = re.compile(r"(?:^|_)(?:\w*norm|ln|bn)\w*$|layernorm|rmsnorm", re.IGNORECASE)
_BUFFER = re.compile(
    r"^(?:inv_freq|\w*cos_cached|\w*sin_cached|freqs_cis|\w*_mask|mask|causal_mask|position_ids|running_mean|running_var|"
    r"num_batches_tracked|\w*_buffer|relative_position_index|attn_mask|masked_bias)$"
)
_SCALE = re.compile(r"^(?:weight_scale(?:_inv)?|scales?|scale_inv|absmax|quant_map|qzeros|SCB|\w+_scales?)$")
_SCALES_OF_WEIGHT = ("weight_scale_inv", "weight_scale", "scale", "weight.absmax", "weight_absmax", "SCB")


def why_not(header: TensorHeader, names: Collection[str]) -> str | None:
    """The reason this tensor yields no matrix, or None when it is one. `names` are all of the checkpoint's."""
    shape, name = header.shape, header.name
    if len(name) > LONGEST_NAME:
        return f"a name of {len(name)} characters is no parameter's"
    leaf = re.split(r"[./]", name)[-1]
    owner = name[: -len(leaf)]
    size = f"{len(shape)}-D {shape}"
    if header.dtype not in FLOATS:
        return _not_float(header, leaf, owner, names)
    if len(shape) == 0:
        return "a scalar"
    if leaf != "weight_mask" and _BUFFER.match(leaf):
        return f"{size}: a buffer, not a weight"
    if len(shape) == 1:
        if leaf.endswith("bias") or leaf == "beta":
            return f"{size}: a bias"
        if _NORM.search(module_path(name).rsplit(".", 1)[-1]) or leaf in ("gamma", "g"):
            return f"{size}: a normalisation's gain"
        return f"{size}: a vector"
    if 0 in shape:
        return f"has no entries: shape {shape}"
    if len(shape) > 2 and max(shape) == _count(shape):
        return f"{size}: a vector held with extra axes"
    if leaf.endswith("bias"):
        return f"{size}: a bias"
    if _NORM.search(module_path(name).rsplit(".", 1)[-1]) and leaf in ("weight", "gamma", "scale"):
        return f"{size}: a normalisation's gain"
    if reason := _reparametrised(leaf, owner, names):
        return reason
    if _SCALE.match(leaf) and any(f"{owner}{other}" in names for other in _values(leaf)):
        return f"{size}: scales of quantised weights; dequantise the checkpoint to measure it"
    if header.dtype.startswith("float8") and any(f"{owner}{scale}" in names for scale in _SCALES_OF_WEIGHT):
        return (
            f"{header.dtype} values that have meaning only times their scale; dequantise the checkpoint to measure it"
        )
    return None


def _not_float(header: TensorHeader, leaf: str, owner: str, names: Collection[str]) -> str:
    if header.dtype.startswith("complex"):
        return f"{header.dtype}: the measures are defined for real matrices"
    if leaf in ("qweight", "qzeros", "g_idx") or leaf.endswith(("_blocks", "_scales")):
        return f"{header.dtype}: quantised values; dequantise the checkpoint to measure it"
    if leaf == "weight" and len(header.shape) >= 1 and header.dtype in ("int8", "uint8", "int32"):
        return f"{header.dtype}: quantised values; dequantise the checkpoint to measure it"
    if header.dtype.startswith("float"):
        return f"{header.dtype}: packed or scale-only values; dequantise the checkpoint to measure it"
    return f"{header.dtype}: a counter, index or mask, not weights"


def _values(scale: str) -> tuple[str, ...]:
    stem = scale.removesuffix("_inv").removesuffix("_scale").removesuffix("_scales")
    return (stem, "weight", "qweight", f"{stem}_blocks")


def _reparametrised(leaf: str, owner: str, names: Collection[str]) -> str | None:
    """torch's weight norm, spectral norm and pruning save ingredients, not the weight."""
    if leaf in ("weight_v", "original1") or (leaf == "weight_g" and f"{owner}weight_v" in names):
        if leaf == "weight_v" and f"{owner}weight_orig" in names:
            return "a vector of spectral_norm's power iteration"
        return "a factor of a weight-normalised weight (g·v/‖v‖); call remove_weight_norm before saving to measure it"
    if leaf == "original0":
        return "a factor of a parametrised weight; call remove_parametrizations before saving to measure it"
    if leaf == "original" and ".parametrizations." in f".{owner}":
        return "the unparametrised weight; call remove_parametrizations before saving to measure it"
    if leaf == "weight_orig":
        return "the weight before pruning or spectral_norm; call prune.remove or remove_spectral_norm to measure it"
    if leaf == "weight_mask":
        return "a pruning mask"
    return None


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
