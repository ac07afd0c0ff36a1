"""Why a tensor is no matrix: biases, gains, counters, buffers, quantised values. Each reason is a true sentence."""

from __future__ import annotations

import re
from collections.abc import Collection
from math import prod

from pipeline.archive.names import module_path, words
from pipeline.archive.types import TensorHeader

FLOATS = words("float64 float32 float16 bfloat16 float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz")
"""Storage dtypes that hold a weight's values as they are."""

LONGEST_NAME = 1000
"""Characters; real names stay below 200."""

_NORM = re.compile(r"(?:^|_)(?:\w*norm|ln|bn)\w*$|layernorm|rmsnorm", re.IGNORECASE)
_NORM_WORD = re.compile(r"[a-z]*norm\d*|ln[a-z]?\d*|bn\d*|normali[sz]ation", re.IGNORECASE)
_NO_NORM = {
    "head", "proj", "projection", "linear", "fc", "dense", "embed", "embedding", "embeddings", "conv", "mlp", "net",
    "predictor", "router", "gate", "lora",
}  # fmt: skip
"""Words of a module that has matrices, whatever stands beside them: norm_head, bn_linear."""
_BUFFER = re.compile(
    r"^(?:inv_freq|\w*cos_cached|\w*sin_cached|rotary_(?:cos|sin)|cos_sin_cache|freqs_cis|\w*_mask|mask|causal_mask|tril|"
    r"triu|position_ids|\w*running_(?:mean|var|std|count)|num_batches_tracked|\w*_buffer|relative_position_index|"
    r"relative_coords_table|masked_bias|mel_filters|mel_basis|fb|anchor_grid|cell_anchors|noise_const|resample_filter|"
    r"pe|(?:\w+_)?(?:sin|cos)|(?:\w+_)?freqs(?:_\w+)?)$"
)
_BUFFER_PATH = re.compile(r"(?:^|[./])(?:cell_anchors[./]\d+|(?:blur|upsample|downsample)[./]kernel)$")
"""Tables of fixed numbers: rotary and sinusoidal positions, filters, anchors."""
_OPTIMIZER = re.compile(
    r"^(?:optim(?:izer)?s?|opt)(?:_states?)?[./]|(?:^|[./])(?:(?:max_)?exp_avg(?:_sq(?:_row|_col)?|_slow|_diff)?|exp_inf|"
    r"momentum_buffer|square_avg|grad_avg|acc_delta|master_params?)(?:$|[./])"
)
_BIAS = re.compile(r"bias$|^beta$|^bias_(?:ih|hh)(?:_l\d+(?:_reverse)?)?$")
_AVERAGE = re.compile(r"^_?ema_\w+$|^embed\w*_(?:avg|sum)$|^_?(?:ema_)?cluster_(?:size|usage)$")
_CLUSTERS = ("cluster_size", "_ema_cluster_size", "ema_cluster_size", "cluster_usage")
"""How often each entry of a codebook was used: beside these stand the averages of what was mapped to it."""
_NAMED_AS_MATRIX = re.compile(r"(?:weight|kernel|embedding|table)s?$|^_?[wW](?:_|\d|$)")


def is_parameter(header: TensorHeader) -> bool:
    """Whether a tensor is one that training moves: no counter, index, mask or buffer."""
    leaf = re.split(r"[./]", header.name)[-1]
    fixed = _BUFFER.match(leaf) or _BUFFER_PATH.search(header.name) or _OPTIMIZER.search(header.name)
    return header.dtype in FLOATS and 0 not in header.shape and not fixed


def why_not(header: TensorHeader, names: Collection[str]) -> str | None:
    """The reason this tensor yields no matrix, or None when it is one. `names` are all of the checkpoint's."""
    shape, name = header.shape, header.name
    if len(name) > LONGEST_NAME:
        return f"a name of {len(name)} characters is too long for a parameter"
    leaf = re.split(r"[./]", name)[-1]
    owner = name[: -len(leaf)]
    size = f"{len(shape)}-D {shape}"
    if header.dtype not in FLOATS:
        return _not_float(header, leaf, owner, names)
    if len(shape) == 0:
        return "a scalar"
    if _OPTIMIZER.search(name):
        return f"{size}: an optimizer's state, not a weight"
    if (leaf != "weight_mask" and _BUFFER.match(leaf)) or _BUFFER_PATH.search(name) or f"{name}_ptr" in names:
        return f"{size}: a buffer, not a weight"
    gain = _NORM.search(module_path(name).rsplit(".", 1)[-1]) or leaf in ("gamma", "g")
    if len(shape) == 1:
        if _is_bias(leaf, owner, names):
            return f"{size}: a bias"
        if gain or (leaf == "w" and _NORM.search(re.split(r"[./]", owner)[-2:][0])):
            return f"{size}: a normalisation's gain"
        return f"{size}: a vector"
    if 0 in shape:
        return f"has no entries (shape {shape})"
    if max(shape) == prod(shape) and (len(shape) > 2 or not _NAMED_AS_MATRIX.search(leaf)):
        return f"{size}: a vector stored with extra axes"
    if _is_bias(leaf, owner, names):
        return f"{size}: a bias"
    if leaf in ("weight", "gamma", "scale") and (leaf == "gamma" or _is_norm(re.split(r"[./]", owner)[-2:][0])):
        return f"{size}: a normalisation's gain"
    return _reparametrised(leaf, owner, names)


def _is_norm(module: str) -> bool:
    """Whether a module is called a normalisation word by word: input_layernorm, ln_f, norm2; not normal_head."""
    words = module.lower().split("_")
    return any(_NORM_WORD.fullmatch(word) for word in words) and not _NO_NORM.intersection(words)


def _is_bias(leaf: str, owner: str, names: Collection[str]) -> bool:
    """``bias``, an RNN's ``bias_hh_l0``, and ``b_Q`` beside ``W_Q`` (TransformerLens)."""
    if _BIAS.search(leaf):
        return True
    short = leaf.removeprefix("_").removeprefix("b_")
    return short != leaf and any(f"{owner}{w}" in names for w in (f"W_{short}", f"_W_{short}"))


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


def _reparametrised(leaf: str, owner: str, names: Collection[str]) -> str | None:
    """torch's parametrisations, weight norm, spectral norm and pruning save ingredients, not the weight."""
    if ".parametrizations." in f".{owner}":
        if leaf == "original":
            return "the unparametrised weight; call remove_parametrizations before saving to measure it"
        return "a part of a parametrised weight; call remove_parametrizations before saving to measure it"
    if leaf in ("original0", "original1"):
        return "a factor of a parametrised weight; call remove_parametrizations before saving to measure it"
    stem, _, part = leaf.rpartition("_")
    if stem and part in ("u", "v") and (f"{owner}{stem}_orig" in names or f"{owner}{stem}_bar" in names):
        return "a vector of spectral_norm's power iteration"
    if stem and part in ("g", "v") and all(f"{owner}{stem}_{one}" in names for one in "gv"):
        return "a factor of a weight-normalised weight (g·v/‖v‖); call remove_weight_norm before saving to measure it"
    if stem and part in ("orig", "bar") and any(f"{owner}{stem}_{other}" in names for other in ("mask", "u", "v")):
        return "the weight before pruning or spectral_norm; call prune.remove or remove_spectral_norm to measure it"
    if leaf == "weight_mask":
        return "a pruning mask"
    if _AVERAGE.search(leaf) and any(f"{owner}{clusters}" in names for clusters in _CLUSTERS):
        return "the running average of a codebook, not a weight"
    return None
