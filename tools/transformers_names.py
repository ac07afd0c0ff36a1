"""Writes pipeline/archive/transformers_names.json from transformers' own conversion mapping.

Run it after a new transformers: `python tools/transformers_names.py`. varve reads only the file, so a matrix has the
same name whether transformers is installed or not. Four tables are written: `rules` (by class or model type, how
names on disk become names in memory and back), `classes` (which submodels of a class have rules of their own, and
which part of the config describes each), `bodies` (model type → the class of its body) and `tied` (the model types
whose output head is their input embedding by default).
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import conversion_mapping as mapping
from transformers.core_model_loading import GroupWeightRename, PrefixChange, WeightConverter, WeightTransform
from transformers.modeling_utils import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

TARGET = Path(__file__).parent.parent / "pipeline" / "archive" / "transformers_names.json"
DEPTHS = frozenset(
    [
        "num_hidden_layers",
        "num_layers",
        "n_layer",
        "n_layers",
        "encoder_layers",
        "decoder_layers",
        "depth",
        "num_encoder_layers",
        "num_decoder_layers",
    ]
)


def rule_of(transform: WeightTransform) -> dict[str, Any]:
    """One transform as data: its patterns from disk to memory, and back, as transformers compiled them."""
    rule: dict[str, Any] = {
        "to_memory": [transform.compiled_sources.pattern, list(transform.target_patterns)],
    }
    if isinstance(transform, PrefixChange):
        rule["kind"] = "prefix"  # a file may have the prefix or not: never put back when a model is saved
        return rule
    back = transform.reverse_transform()
    rule["to_disk"] = [back.compiled_sources.pattern, list(back.target_patterns)]
    if isinstance(transform, WeightConverter):
        rule["kind"] = "convert"
        rule["operations"] = [type(operation).__name__ for operation in transform.operations]
        rule["dims"] = [getattr(operation, "dim", None) for operation in transform.operations]
        if rotary := [part for o in transform.operations for part in getattr(o, "permute_layer_names", None) or ()]:
            rule["rotary"] = rotary
    elif isinstance(transform, GroupWeightRename):
        rule["kind"] = "group"
    elif hasattr(transform, "offset"):
        rule["kind"] = "offset"
        rule["offset"] = transform.offset
    else:
        rule["kind"] = "rename"
    return rule


def rules() -> dict[str, Any]:
    """Every conversion list; one equal to an earlier one is that one's name."""
    found: dict[str, Any] = {}
    first: dict[str, str] = {}
    keys = sorted(
        mapping._build_checkpoint_conversion_mapping(), key=lambda k: k in mapping._MODEL_TO_CONVERSION_PATTERN
    )
    for key in keys:
        if key == "legacy":
            continue
        own = [rule_of(transform) for transform in mapping.get_checkpoint_conversion_mapping(key)]
        text = json.dumps(own)
        found[key] = first.get(text, own)
        first.setdefault(text, key)
    return found


def model_classes() -> Iterator[type[PreTrainedModel]]:
    """Every class of transformers that is a whole model."""
    for folder in pkgutil.iter_modules(importlib.import_module("transformers.models").__path__):
        package = importlib.import_module(f"transformers.models.{folder.name}")
        for file in pkgutil.iter_modules(getattr(package, "__path__", ())):
            if not file.name.startswith("modeling_"):
                continue
            try:
                module = importlib.import_module(f"{package.__name__}.{file.name}")
            except ImportError as error:
                print(f"{file.name}: {error}", file=sys.stderr)
                continue
            for name, value in vars(module).items():
                if (
                    (
                        inspect.isclass(value)
                        and issubclass(value, PreTrainedModel)
                        and value.__module__ == module.__name__
                    )
                    and getattr(value, "config_class", None) is not None
                    and not name.endswith("PreTrainedModel")
                ):
                    yield value


def shallow(config: Any, seen: frozenset[int] = frozenset()) -> Any:
    """The config with two layers wherever it has more: only names matter here."""
    for name, value in list(vars(config).items()):
        if name in DEPTHS and isinstance(value, int) and value > 2:
            setattr(config, name, 2)
        elif hasattr(value, "to_dict") and id(value) not in seen:
            shallow(value, seen | {id(config)})
    return config


def on_meta(cls: type[PreTrainedModel]) -> PreTrainedModel | None:
    """The model without memory, from the first of some configs that it accepts."""
    resnet = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}
    attempts: list[tuple[dict[str, Any], bool]] = [
        ({}, True),
        ({}, False),
        ({**resnet, "backbone_config": transformers.ResNetConfig(out_features=["stage4"])}, False),
        ({"prediction_length": 1}, False),
        ({"out_indices": [3, 5, 7, 11]}, False),
        ({"out_indices": [1, 2]}, False),
        ({"vision_config": {"model_type": "siglip_vision_model"}}, False),
    ]
    for settings, shorten in attempts:
        try:
            config = cls.config_class(**settings)
            with torch.device("meta"):
                return cls(shallow(config) if shorten else config)
        except Exception as error:  # any config may be refused for any reason: the next is tried
            reason = error
    print(f"{cls.__name__}: {type(reason).__name__}: {str(reason).strip()[:100]}", file=sys.stderr)
    return None


SIZES = {
    "hidden_size": 32, "d_model": 32, "n_embd": 32, "dim": 32, "embed_dim": 32, "encoder_hidden_size": 32,
    "intermediate_size": 48, "ffn_dim": 48, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "d_ff": 48,
    "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24, "decoder_intermediate_size": 48,
    "decoder_hidden_size": 32, "num_attention_heads": 4, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "num_heads": 4, "n_head": 4, "decoder_num_attention_heads": 4, "decoder_num_hidden_layers": 1,
    "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 160, "num_local_experts": 4, "num_experts": 4,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "image_size": 32, "patch_size": 16, "projection_dim": 32,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "image_token_id": 3, "audio_token_id": 4,
    "max_position_embeddings": 64, "n_group": 1, "topk_group": 1, "q_lora_rank": 16, "kv_lora_rank": 16,
    "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "linear_num_value_heads": 4,
    "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip
"""Small sizes for the settings that most configs have."""

SETS = [
    SIZES,
    {k: v for k, v in SIZES.items() if k not in ("image_size", "patch_size")},
    {k: v for k, v in SIZES.items() if "head" not in k},
    {"vocab_size": 160, "num_local_experts": 4, "num_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2},
]


def reduced(config: Any, sizes: Mapping[str, int], seen: frozenset[int] = frozenset()) -> Any:
    """The config with these sizes wherever it has such settings as whole numbers."""
    for name, value in list(vars(config).items()):
        if name in sizes and isinstance(value, int) and not isinstance(value, bool) and value > sizes[name]:
            setattr(config, name, sizes[name])
        elif hasattr(value, "to_dict") and id(value) not in seen:
            reduced(value, sizes, seen | {id(config)})
    return config


def small(cls: type[PreTrainedModel], most: int = 20_000_000) -> PreTrainedModel | None:
    """A real model of this class with at most `most` parameters; None when no small config is accepted."""
    for sizes in SETS:
        try:
            config = shallow(reduced(cls.config_class(), sizes))
            with torch.device("meta"):
                if sum(p.numel() for p in cls(config).parameters()) > most:
                    continue
            torch.manual_seed(0)
            model = cls(config)
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter)
            return model
        except Exception:  # refused, for whatever reason: the next sizes
            continue
    return None


def place_in(config: Any, part: Any) -> str | None:
    """The setting of a config that holds this part; "" for itself, None when no setting does."""
    if part is config:
        return ""
    return next((name for name, value in vars(config).items() if value is part), None)


def submodels(model: PreTrainedModel) -> list[list[str | None]]:
    """(path, class, setting of the config, model type) of each submodel that lies in no other submodel."""
    found: list[list[str | None]] = []
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{other}.") for other, *_ in found)
        if path and not inside and isinstance(module, PreTrainedModel):
            where = place_in(model.config, module.config)
            found.append([path, type(module).__name__, where, module.config.model_type])
    return found


def classes(known: dict[str, Any]) -> dict[str, Any]:
    """The classes under which some rule applies: (model type, base_model_prefix, submodels)."""
    every: dict[str, list[Any]] = {}
    for cls in model_classes():
        model = on_meta(cls)
        if model is not None:
            every[cls.__name__] = [model.config.model_type or "", model.base_model_prefix, submodels(model)]
    kept: set[str] = set()
    while True:
        more = {
            name
            for name, (model_type, _, parts) in every.items()
            if name in known
            or model_type in known
            or any(part[1] in kept or (part[2] and part[3] != model_type) for part in parts)
        }
        if more == kept:
            return {name: every[name] for name in sorted(kept)}
        kept = more


def tied() -> list[str]:
    """The model types whose output head is their input embedding unless a config says otherwise."""
    found = []
    for model_type, cls in transformers.CONFIG_MAPPING.items():
        try:
            config = cls()
        except Exception as error:  # a config without defaults says nothing
            print(f"{model_type}: {type(error).__name__}: {error}", file=sys.stderr)
            continue
        parts = (config, getattr(config, "text_config", None), getattr(config, "decoder", None))
        if any(getattr(part, "tie_word_embeddings", False) is True for part in parts):
            found.append(model_type)
    return sorted(found)


def main() -> None:
    """Writes the file."""
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    known = rules()
    bodies = {key: value if isinstance(value, str) else value[0] for key, value in MODEL_MAPPING_NAMES.items()}
    table = {"transformers": transformers.__version__, "rules": known, "classes": classes(known), "bodies": bodies}
    lines = [f'"transformers": {json.dumps(table["transformers"])}', f'"tied": {json.dumps(tied())}']
    for name in ("rules", "classes", "bodies"):
        entries = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in sorted(table[name].items()))
        lines.append(f'"{name}": {{\n{entries}\n}}')
    TARGET.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print(f"{TARGET}: {len(known)} lists of rules, {len(table['classes'])} classes, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
