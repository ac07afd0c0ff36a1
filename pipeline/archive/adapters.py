"""PEFT adapters: each adapted module's Δ = scale · B A from its factors, under the module's canonical name.

Where the factors alone do not give Δ against the original base (DoRA, PiSSA, LoftQ, other adapter kinds) nothing is
guessed: the tensors are listed with the reason and the way out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

from pipeline.archive.fused import model_type_of, row_cuts
from pipeline.archive.guarded import short
from pipeline.archive.kinds import kind_of
from pipeline.archive.matrices import Draft, drafts_of, layout_of, names_on_disk
from pipeline.archive.module_patterns import names_module
from pipeline.archive.names import Dialect, one_form, strip_prefixes
from pipeline.archive.prefixes import UNCHANGED, Prefix
from pipeline.archive.recipes import Dense, LowRankProduct, Op
from pipeline.archive.types import Checkpoint, Layout, TensorHeader, Unmeasured
from pipeline.archive.unmeasured import FLOATS

_FACTOR = re.compile(r"^(.+)\.lora_([AB])(?:\.([^.]+))?\.(weight|bias)$")
_EMBEDDING_FACTOR = re.compile(r"^(.+)\.lora_embedding_([AB])(?:\.([^.]+))?$")
_MAGNITUDE = re.compile(r"^(.+)\.lora_magnitude_vector(?:\..+)?$")
_ATTENTION_MODULE = re.compile(r"^(?:self_attn|cross_attn|attn|mha|multihead_attn|self_attention|attention)$")

_LARGEST = 1e9

PLAIN_STARTS = frozenset(("gaussian", "eva", "orthogonal", "true", "false", "none"))
"""`init_lora_weights` that leave the base as it is: Δ is s·BA. (EVA starts from B = 0; orthogonal from BA = 0.)"""

CHANGED_BASES = {
    "pissa": "PiSSA takes U_r S_r V_rᵀ out of the base: save with `path_initial_model_for_weight_conversion`",
    "olora": "OLoRA takes sQ_rR_r out of the base: save with `path_initial_model_for_weight_conversion`",
    "corda": "CorDA changes the base: save with `path_initial_model_for_weight_conversion`",
    "lora_ga": "LoRA-GA changes the base: save with `path_initial_model_for_weight_conversion`",
    "loftq": "LoftQ quantises the base, and the adapter does not record that change",
}
"""`init_lora_weights` that change the base weights, and the way out."""

VARIANTS = {
    "use_qalora": "QA-LoRA pools the inputs of A",
    "use_bdlora": "BD-LoRA's factors are block-diagonal",
    "kasa_config": "KaSA adds diagonal factors",
    "monteclora_config": "MonteCLoRA samples its factors",
    "arrow_config": "Arrow routes between several adapters",
    "alora_invocation_tokens": "aLoRA acts only after its invocation tokens",
    "layer_replication": "layer_replication changes the layer map",
}
"""Settings under which s·BA is not the change of one base matrix."""


@dataclass
class _Pair:
    """The tensors of one adapted module under one adapter name."""

    module: str
    embedding: bool
    factors: dict[str, TensorHeader] = field(default_factory=dict)


def describe_adapter(checkpoint: Checkpoint, config: Mapping[str, Any], prefix: Prefix = UNCHANGED) -> Layout:
    """The Δ of every adapted module (role "delta"), and the tensors it replaces whole (`modules_to_save`, role
    "weight").

    `config` is the base model's: fused q/k/v and gate/up factors are cut as the base is, by the rows of B. An
    embedding's Δ, (BA)ᵀ in the file, is (d, vocab) here like every embedding: scale · B A. `prefix` tells how
    names begin in the base.
    """
    adapter = checkpoint.adapter
    tensors = checkpoint.tensors
    if adapter is None:
        reason = "adapter_config.json is missing, so the adapter's scale and kind are unknown"
        return Layout(tensors, (), tuple(Unmeasured(t.name, reason) for t in tensors))
    peft_type = str(adapter.get("peft_type", "LORA"))[:80].upper().removeprefix("PEFTTYPE.")
    if peft_type != "LORA":
        reason = f"adapters of peft_type {peft_type} are not supported yet; merge it into its base to measure it"
        return Layout(tensors, (), tuple(Unmeasured(t.name, reason) for t in tensors))
    pairs, rest, unmeasured = _sort(tensors)
    originals = _replaced(rest)
    modules = {pair.module: f"{_in_base(pair.module)}.weight" for pair in pairs}
    on_disk = names_on_disk([*modules.values(), *originals], config, prefix)
    dialect = Dialect.of(on_disk.values(), model_type_of(config))
    drafts: list[Draft] = []
    whole = _whole_reason(adapter)
    for pair in pairs:
        found = (
            whole
            or _pair_reason(pair, adapter, pairs)
            or _delta(pair, on_disk[modules[pair.module]].removesuffix(".weight"), adapter, config, dialect)
        )
        if isinstance(found, str):
            unmeasured.extend(Unmeasured(header.name, found) for header in pair.factors.values())
        else:
            drafts.extend(found)
    full, listed = drafts_of([replace(t, name=name) for name, t in originals.items()], config, on_disk)
    for draft in full:
        assert isinstance(draft.recipe, Dense)
        drafts.append(replace(draft, recipe=Dense(originals[draft.recipe.tensor].name, draft.recipe.ops)))
    unmeasured.extend(Unmeasured(originals[u.tensor].name, u.reason) for u in listed)
    return layout_of(tensors, drafts, unmeasured)


def adapted(tensors: Sequence[TensorHeader]) -> dict[str, tuple[int, ...]]:
    """The weights that an adapter changes or replaces, by their names in the base model, with the sizes of their axes
    in any order."""
    pairs, rest, _ = _sort(tensors)
    shapes = {
        f"{_in_base(pair.module)}.weight": (pair.factors["B"].shape[0], *pair.factors["A"].shape[1:])
        for pair in pairs
        if {"A", "B"} <= pair.factors.keys() and pair.factors["A"].shape and pair.factors["B"].shape
    }
    return shapes | {name: header.shape for name, header in _replaced(rest).items()}


def scale_of(module: str, adapter: Mapping[str, Any]) -> tuple[int, float] | str:
    """(rank, scale) of a module by PEFT's rules, or why they are not known.

    r and α from the first key of `rank_pattern` and `alpha_pattern` for which re.match(r"(.*\\.)?(KEY)$", module)
    holds, else `r` and `lora_alpha`; scale = α/r, with `use_rslora` α/√r.
    """
    try:
        rank = _pattern(module, adapter.get("rank_pattern"), adapter.get("r", 8))
        alpha = _pattern(module, adapter.get("alpha_pattern"), adapter.get("lora_alpha", 8))
    except ValueError as error:
        return f"adapter_config.json: {error}"
    if isinstance(rank, bool) or not isinstance(rank, int) or not 0 < rank <= _LARGEST:
        return f"adapter_config.json gives {module} the rank {short(rank)}"
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not abs(alpha) <= _LARGEST:
        return f"adapter_config.json gives {module} lora_alpha {short(alpha)}"
    return rank, alpha / math.sqrt(rank) if adapter.get("use_rslora") else alpha / rank


def _pattern(module: str, patterns: Any, default: Any) -> Any:
    """The value of the first pattern that names this module. ValueError: what is wrong with the patterns."""
    if not patterns:
        return default
    if not isinstance(patterns, Mapping):
        raise ValueError(f"a pattern table is expected, not {short(patterns)}")
    for key, value in patterns.items():
        try:
            if names_module(key, module):
                return value
        except ValueError as error:
            raise ValueError(f"the pattern {key[:80]!r} {error}") from error
    return default


def _sort(tensors: Sequence[TensorHeader]) -> tuple[list[_Pair], list[TensorHeader], list[Unmeasured]]:
    """Factors by module, tensors that replace the base's whole, and those that are neither."""
    pairs: dict[tuple[str, str | None, bool], _Pair] = {}
    rest: list[TensorHeader] = []
    unmeasured: list[Unmeasured] = []
    for header in tensors:
        name = header.name
        if found := _FACTOR.match(name):
            module, which, adapter_name, parameter = found.groups()
            if parameter == "bias":
                unmeasured.append(Unmeasured(name, f"a bias of lora_{which} (lora_bias), which is not part of Δ"))
                continue
            pair = pairs.setdefault((module, adapter_name, False), _Pair(module, False))
            pair.factors[which] = header
        elif found := _EMBEDDING_FACTOR.match(name):
            module, which, adapter_name = found.groups()
            pair = pairs.setdefault((module, adapter_name, True), _Pair(module, True))
            pair.factors[which] = header
        elif found := _MAGNITUDE.match(name):
            pair = pairs.setdefault((found.group(1), "", False), _Pair(found.group(1), False))
            pair.factors["magnitude"] = header
        elif ".base_layer." in name or ".original_module." in name:
            unmeasured.append(Unmeasured(name, "a copy of the base's tensor saved beside the adapter"))
        elif "lora_" in name.rsplit(".", 2)[-1] or "trainable_tokens" in name:
            unmeasured.append(Unmeasured(name, "this part of a PEFT adapter is not supported yet"))
        else:
            rest.append(header)
    return list(pairs.values()), rest, unmeasured


def _whole_reason(adapter: Mapping[str, Any]) -> str | None:
    """Why no factor of this adapter gives a Δ, whatever the module."""
    if adapter.get("use_dora"):
        return "DoRA rescales the rows of W + s·BA: Δ needs the base's rows; merge it (merge_and_unload) to measure it"
    start = str(adapter.get("init_lora_weights", True))[:80].lower()
    for changed, way_out in CHANGED_BASES.items():
        if start.startswith(changed):
            return f"init_lora_weights={start!r}: s·BA is not Δ relative to the original base. {way_out}"
    if start not in PLAIN_STARTS:
        return f"init_lora_weights={start!r} is unknown to varve, so s·BA may not be Δ relative to the original base"
    for setting, why in VARIANTS.items():
        if adapter.get(setting):
            return f"{why} ({setting}): not supported yet; merge it into its base to measure it"
    return None


def _pair_reason(pair: _Pair, adapter: Mapping[str, Any], pairs: Sequence[_Pair]) -> str | None:
    """Why this module's factors give no Δ."""
    if any(p.module == pair.module and "magnitude" in p.factors for p in pairs):
        return "DoRA rescales the rows of W + s·BA: Δ needs the base's rows; merge it (merge_and_unload) to measure it"
    names = {which: f"lora_{'embedding_' if pair.embedding else ''}{which}" for which in "AB"}
    for which in "AB":
        if which not in pair.factors:
            return f"{pair.module} has no {names[which]}: the update is incomplete"
    a, b = pair.factors["A"], pair.factors["B"]
    for header in (a, b):
        if header.dtype not in FLOATS:
            return f"{header.name} is {header.dtype}: a factor must be floating point"
        if len(header.shape) < 2 or 0 in header.shape:
            return f"{header.name} has shape {header.shape}: a factor needs a positive rank and size"
    if len(b.shape) > 2 and a.shape[0] > b.shape[1] and a.shape[0] % b.shape[1] == 0:
        return f"{b.name} is {b.shape}, {a.name} is {a.shape}: LoRA on a grouped convolution is not supported yet"
    if pair.module.endswith(".base_layer.out_proj"):
        return (
            "out_proj of torch.nn.MultiheadAttention: PEFT 0.21 applies this update twice (forward and merge), so "
            "the files do not show which Δ the model was trained with"
        )
    if len(b.shape) > 2 and prod(b.shape[2:]) != 1:
        return f"{b.name} has shape {b.shape}: a convolution's B must be 1 × 1"
    if a.shape[0] != b.shape[1]:
        return f"ranks differ: {a.name} is {a.shape}, {b.name} is {b.shape}"
    module = _in_base(pair.module)
    targets = adapter.get("target_parameters")
    for target in targets if isinstance(targets, list) else ():
        owner = str(target).rpartition(".")[0]
        if owner and re.match(rf"(.*\.)?{re.escape(owner)}(\.base_layer)*$", module):
            return f"LoRA on the bare parameters of {module} (target_parameters) is not supported yet"
    known = scale_of(module, adapter)
    if isinstance(known, str):
        return known
    if known[0] != a.shape[0]:
        return f"{a.name} is {a.shape}: rank {a.shape[0]} in the file, {known[0]} by adapter_config.json"
    return None


def _delta(
    pair: _Pair, module: str, adapter: Mapping[str, Any], config: Mapping[str, Any], dialect: Dialect
) -> list[Draft] | str:
    """The Δ of one module, cut as the base's fused matrix is. `module`: its name in the base's files."""
    a, b = pair.factors["A"], pair.factors["B"]
    known = scale_of(_in_base(pair.module), adapter)
    if isinstance(known, str):
        return known
    rank, scale = known
    long = one_form(module, dialect)
    path = one_form(strip_prefixes(module), dialect)
    rows, cols = b.shape[0], prod(a.shape[1:])
    if _ATTENTION_MODULE.match(path.rsplit(".", 1)[-1]) and rows == 3 * cols:  # torch's MultiheadAttention itself
        path, long = f"{path}.in_proj", f"{long}.in_proj"
    flat_a: tuple[Op, ...] = () if len(a.shape) == 2 else (("reshape", rank, cols),)
    flat_b: tuple[Op, ...] = () if len(b.shape) == 2 else (("reshape", rows, rank),)
    right = Dense(a.name, flat_a)
    kind = "embedding" if pair.embedding else "conv" if len(a.shape) > 2 else kind_of(path)
    turned = pair.embedding or bool(adapter.get("fan_in_fan_out"))
    orientation = "in_out" if turned else "out_in"
    parts = row_cuts(path, rows, cols, config) if len(a.shape) == 2 and not pair.embedding else ()
    if not parts:
        recipe = LowRankProduct(Dense(b.name, flat_b), right, scale)
        return [Draft((path, long, pair.module), (rows, cols), recipe, kind, b.dtype, orientation, "delta")]
    return [
        Draft(
            (f"{path}.{p.suffix}", f"{long}.{p.suffix}", f"{pair.module}.{p.suffix}"),
            (p.rows, cols),
            LowRankProduct(Dense(b.name, p.ops(rank)), right, scale),
            p.kind,
            b.dtype,
            orientation,
            "delta",
        )
        for p in parts
    ]


def _in_base(module: str) -> str:
    """The module's (or tensor's) name in the base model, as PEFT's patterns see it."""
    return module.removeprefix("base_model.model.")


def _replaced(tensors: Sequence[TensorHeader]) -> dict[str, TensorHeader]:
    """Tensors of `modules_to_save` by the name of what they replace; the wrapper stays where that name is taken."""
    found: dict[str, TensorHeader] = {}
    for header in sorted(tensors, key=lambda t: ".modules_to_save." in t.name):
        name = _in_base(re.sub(r"\.modules_to_save\.[^.]+\.", ".", header.name))
        found[header.name if name in found else name] = header
    return found
