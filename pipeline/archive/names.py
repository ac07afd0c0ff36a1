"""Canonical names: one name for one matrix, whatever wrapper, model class or expert form it was saved in.

`canonical("module.model.layers.0.mlp.up_proj.weight")` is ``layers.0.mlp.up_proj``. `unique_names` gives a whole
checkpoint its names: where stripping would make two matrices share one, those concerned keep the longer original.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


def words(text: str) -> frozenset[str]:
    """The set of words in a text: a table that can be read."""
    return frozenset(text.split())


WRAPPERS = words("module model network_module state_dict model_state_dict params base_model auto_model model_module")
"""Containers and wrappers (DataParallel, Lightning, PEFT, sentence-transformers, Flax) that stand before a name."""

ANYWHERE = words(
    "_orig_mod _forward_module _fsdp_wrapped_module _checkpoint_wrapped_module _dp_wrapped_module base_layer"
)
"""Wrappers that may stand in the middle of a name: torch.compile, FSDP, activation checkpointing, PEFT."""

_TORCH = ANYWHERE - {"base_layer"}

BASE_MODELS = words(
    """transformer backbone bert roberta distilbert electra albert camembert xlm_roberta deberta mpnet mobilebert
    squeezebert longformer funnel roformer rembert nezha ernie canine convbert data2vec_text ibert layoutlm layoutlmv2
    layoutlmv3 lilt luke markuplm megatron_bert mra nystromformer roberta_prelayernorm roc_bert splinter tapas
    visual_bert xlnet xmod yoso fnet esm biogpt gpt_neox gpt_neox_japanese rwkv decision_transformer nomic_bert gte
    vit deit beit vit_mae vit_msn vivit videomae data2vec_vision dinov2 dinov2_with_registers dinov3_vit swin swinv2
    convnext convnextv2 resnet regnet bit cvt levit mobilevit mobilevitv2 mobilenet_v1 mobilenet_v2 poolformer pvt
    segformer efficientnet focalnet hiera ijepa dinat wav2vec2 hubert wavlm unispeech unispeech_sat sew sew_d
    wav2vec2_bert wav2vec2_conformer data2vec_audio audio_spectrogram_transformer switch_transformers led reformer
    perceiver cpmant"""
)
"""`base_model_prefix` of transformers' classes: a `BertModel` lacks the prefix that a `BertForX` has."""

PARAMETERS = frozenset(("weight", "kernel"))
"""Last components that name the parameter, not the module: dropped."""

_BLOCK = re.compile(r"^(?:layer|layers|block|blocks|stage|h)_?(\d+)$")
_STACKED = re.compile(r"_l(\d+)(?:_reverse)?$")
_EXPERTS = frozenset(("expert", "experts", "local_experts"))
_EXPERT_PARTS = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}
_VIT = re.compile(r"^encoder\.layer\.(\d+)\.attention\.(?:attention\.(query|key|value)|([qkvo])_proj)$")
_VIT_MODEL_TYPES = words(
    "vit deit beit ijepa vit_mae vit_msn vivit audio-spectrogram-transformer data2vec-vision dinov2"
    " dinov2_with_registers"
)
_VIT_REST = {
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "attention.self.query": "attention.q_proj",
    "attention.self.key": "attention.k_proj",
    "attention.self.value": "attention.v_proj",
    "attention.self.relative_position_bias_table": "attention.relative_position_bias.relative_position_bias_table",
}
_SWIN = re.compile(r"^(.*\.blocks\.\d+)\.([^0-9]+)$")


@dataclass(frozen=True)
class Dialect:
    """What the names of a checkpoint mean where a name alone cannot tell: decided once per checkpoint."""

    model_type: str = ""
    vit: bool = False

    @staticmethod
    def of(names: Iterable[str], model_type: str = "") -> Dialect:
        """From a checkpoint's tensor names and its config's model_type ("" when there is none)."""
        vit = model_type in _VIT_MODEL_TYPES or (
            not model_type and any(".attention.attention.query" in name for name in names)
        )
        return Dialect(model_type, vit)


def module_path(name: str) -> str:
    """The module's path of a tensor's name, with its own prefixes: ``.weight`` and the like dropped, / as dot."""
    parts = name.replace("/", ".").split(".")
    if len(parts) > 1 and parts[-1] in PARAMETERS:
        parts = parts[:-1]
    last = parts[-1]
    if last == "in_proj_weight":  # torch.nn.MultiheadAttention holds its projections as bare parameters
        parts[-1] = "in_proj"
    elif last in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
        parts[-1] = last.removesuffix("_weight")
    return ".".join(parts)


def without_wrappers(names: Sequence[str]) -> tuple[str, ...]:
    """A checkpoint's tensor names without what torch.compile, FSDP and DataParallel put into them, if they stay
    distinct."""
    bare = [".".join(part for part in name.split(".") if part not in _TORCH) for name in names]
    while bare and all(name.startswith("module.") for name in bare):
        bare = [name.removeprefix("module.") for name in bare]
    return tuple(bare) if len(set(bare)) == len(names) and all(bare) else tuple(names)


def strip_prefixes(path: str) -> str:
    """Wrappers and base-model prefixes removed, as often as they come; the last component always stays."""
    parts = [part for part in path.split(".") if part not in ANYWHERE] or path.split(".")[-1:]
    start = 0
    while start < len(parts) - 1:
        part = parts[start]
        if part in WRAPPERS or part in BASE_MODELS:
            start += 1
        elif part.isdecimal() and parts[start + 1] == "auto_model" and start + 2 < len(parts):
            start += 2
        else:
            break
    return ".".join(parts[start:])


def one_form(path: str, dialect: Dialect = Dialect()) -> str:
    """Names that transformers' versions use for the same matrix brought to one: experts, routers, ViT blocks."""
    path = path.replace("block_sparse_moe.input_linear", "mlp.experts.gate_up_proj")
    path = path.replace("block_sparse_moe.output_linear", "mlp.experts.down_proj")
    path = path.replace("block_sparse_moe.router.layer", "mlp.router").replace("block_sparse_moe.", "mlp.")
    path = path.replace("language_model.model.", "language_model.")
    if dialect.model_type == "phimoe" and path.endswith(".mlp.gate"):
        path = path.removesuffix("gate") + "router"
    parts = path.split(".")
    for i, part in enumerate(parts[:-1]):
        if part in _EXPERTS and parts[i + 1].startswith("expert_"):  # Switch, NLLB: experts.expert_3.wi
            parts[i + 1] = parts[i + 1].removeprefix("expert_")
        if part in _EXPERTS and i + 2 < len(parts) and parts[i + 1].isdecimal():
            parts[i + 2] = _EXPERT_PARTS.get(parts[i + 2], parts[i + 2])
    path = ".".join(parts)
    return "lm_head" if path == "embed_out" else _vit(path, dialect)  # GPT-NeoX, in files and in memory


def _vit(path: str, dialect: Dialect) -> str:
    """transformers 5 names ViT blocks ``layers.0.attention.q_proj`` in memory and keeps the old names in files."""
    if (block := _SWIN.match(path)) and block.group(2) in _VIT_REST:
        return f"{block.group(1)}.{_VIT_REST[block.group(2)]}"
    if found := _VIT.match(path):
        number, old, new = found.groups()
        return f"layers.{number}.attention.{old[0] if old else new}_proj"
    if dialect.vit and path.startswith("encoder.layer."):
        head, _, rest = path.removeprefix("encoder.layer.").partition(".")
        return f"layers.{head}.{_VIT_REST.get(rest, rest)}"
    return path


def canonical(name: str, dialect: Dialect = Dialect()) -> str:
    """The canonical name of a tensor taken alone (`unique_names` for a whole checkpoint).

    ``bert.encoder.layer.0.output.dense.weight`` → ``encoder.layer.0.output.dense``.
    """
    return one_form(strip_prefixes(module_path(name)), dialect)


def layer_of(name: str) -> int | None:
    """The block a canonical name belongs to: its first integer component that is not an expert's index.

    ``layers.3.mlp.experts.7.up_proj`` → 3; ``layer1.0.conv1`` → 1 (a stage); ``lstm.weight_hh_l3`` → 3; ``fc1`` → None.
    """
    parts = name.split(".")
    for i, part in enumerate(parts):
        if part.isdecimal() and len(part) <= 9 and not (i and parts[i - 1] in _EXPERTS):
            return int(part)
        if found := _BLOCK.match(part):
            return int(found.group(1))
    stacked = _STACKED.search(parts[-1])  # torch's RNNs: weight_ih_l0_reverse
    return int(stacked.group(1)) if stacked else None


def unique_names(candidates: Sequence[Sequence[str]]) -> list[str]:
    """One name for each matrix from its candidates, shortest first, so that no two are equal.

    A name wanted by several makes all of them take their next candidate; when the candidates are used up, all but the
    first get ``~2``, ``~3`` … .
    """
    level = [0] * len(candidates)
    while True:
        wanted: dict[str, list[int]] = defaultdict(list)
        for i, choices in enumerate(candidates):
            wanted[choices[level[i]]].append(i)
        movable = [i for group in wanted.values() if len(group) > 1 for i in group if level[i] + 1 < len(candidates[i])]
        if not movable:
            break
        for i in movable:
            level[i] += 1
    names = [choices[at] for choices, at in zip(candidates, level, strict=True)]
    taken = set(names)
    seen: set[str] = set()
    for i, name in enumerate(names):
        if name in seen:
            number = 2
            while f"{name}~{number}" in taken:
                number += 1
            names[i] = f"{name}~{number}"
            taken.add(names[i])
        seen.add(names[i])
    return names
