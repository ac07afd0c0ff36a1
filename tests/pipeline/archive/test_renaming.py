"""Names in memory and names in files are one: by transformers' conversion mapping, with transformers or without it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers as t
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.archive import describe, open_archive
from pipeline.archive.bases import match_base
from pipeline.archive.recipes import Dense, apply_ops
from pipeline.archive.renaming import StoredName, disk_names, own_rules, transformers_table
from pipeline.archive.stored import pieces_of
from pipeline.archive.types import Layout
from tests.pipeline.archive.tiny import PROPERTY
from tools.transformers_names import small

TEXT = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
ROPE = {"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}
SIDE = {"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14}


def inkling() -> t.PreTrainedModel:
    """A small one with experts in both layers; its config lists the types of all 48 layers of the large one."""
    model = small(t.Inkling2ForCausalLM)
    model.config.layer_types = model.config.layer_types[: model.config.num_hidden_layers]
    return model


MODELS = {
    "qwen2_vl": lambda: t.Qwen2VLForConditionalGeneration(
        t.Qwen2VLConfig(text_config={**TEXT, **ROPE}, vision_config=SIDE)
    ),
    "segformer": lambda: t.SegformerForSemanticSegmentation(
        t.SegformerConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], decoder_hidden_size=8)
    ),
    "vit_mae": lambda: t.ViTMAEForPreTraining(
        t.ViTMAEConfig(**VISION, decoder_hidden_size=16, decoder_num_hidden_layers=1, decoder_num_attention_heads=2)
    ),
    "llava, siglip and qwen2": lambda: t.LlavaForConditionalGeneration(
        t.LlavaConfig(
            text_config={"model_type": "qwen2", **TEXT}, vision_config={"model_type": "siglip_vision_model", **VISION}
        )
    ),
    "detr": lambda: t.DetrForObjectDetection(
        t.DetrConfig(
            use_timm_backbone=False,
            use_pretrained_backbone=False,
            backbone=None,
            backbone_config=t.ResNetConfig(
                embedding_size=8, hidden_sizes=[8, 8, 8, 16], depths=[1, 1, 1, 1], out_features=["stage4"]
            ),
            d_model=16,
            encoder_layers=1,
            decoder_layers=1,
            encoder_ffn_dim=24,
            decoder_ffn_dim=24,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
        )
    ),
    "vit": lambda: t.ViTForImageClassification(t.ViTConfig(**VISION)),
    "mixtral": lambda: t.MixtralForCausalLM(t.MixtralConfig(**TEXT, num_local_experts=2, head_dim=8)),
    "inkling 2: rows of gate and up alternate in the file": inkling,
    "gte: gate and up are one tensor of an unusual name": lambda: small(t.GteModel),
    "step 3.7: rows of q and k are in pairs for the rotary embedding": lambda: small(t.Step3p7Model),
}


def described(root: Path) -> Layout:
    (run,) = open_archive(root).runs
    return describe(run.checkpoints[0])


def values(spec: Any, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    assert isinstance(spec.recipe, Dense)
    return torch.from_numpy(apply_ops(tensors[spec.recipe.tensor].numpy(), spec.recipe.ops).copy())


@pytest.mark.parametrize("name", MODELS)
def test_every_matrix_in_memory_and_of_an_adapter_finds_its_own_in_the_file(name: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    torch.manual_seed(0)
    model = MODELS[name]()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "disk")
    (tmp_path / "memory").mkdir()
    in_memory = {key: value.clone() for key, value in model.state_dict().items()}
    torch.save(in_memory, tmp_path / "memory" / "pytorch_model.bin")
    model.config.save_pretrained(tmp_path / "memory")
    base, memory = described(tmp_path / "disk"), described(tmp_path / "memory")
    found = match_base(memory, base)
    assert not found.unmatched
    on_disk = load_file(tmp_path / "disk" / "model.safetensors")
    for mine, its in found.pairs:
        assert torch.equal(values(mine, in_memory), values(its, on_disk)), mine.name

    tuned = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear"))
    tuned.save_pretrained(tmp_path / "lora", save_embedding_layers=False)
    (run,) = open_archive(tmp_path / "lora").runs
    deltas = describe(run.checkpoints[0], model.config.to_dict())
    assert deltas.matrices
    assert not match_base(deltas, base).unmatched


def test_a_config_that_names_no_class_is_read_by_its_model_type() -> None:
    names = ("segformer.stages.0.blocks.0.mlp.fc1.weight", "model.language_model.layers.0.mlp.up_proj.weight")
    assert disk_names(names[1:], {"model_type": "qwen2_vl"}) == ("model.layers.0.mlp.up_proj.weight",)
    assert disk_names(names, {}) == names
    assert disk_names(names, {"model_type": ["odd"], "architectures": [3, None]}) == names


def test_names_that_are_on_disk_already_stay() -> None:
    config = {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"]}
    on_disk = (
        "language_model.model.layers.0.self_attn.q_proj.weight",
        "language_model.lm_head.weight",
        "multi_modal_projector.linear_1.weight",
        "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight",
    )
    assert disk_names(on_disk, config) == on_disk


NAME = st.lists(
    st.sampled_from(
        [
            "model",
            "language_model",
            "layers",
            "encoder",
            "layer",
            "0",
            "11",
            "attention",
            "self_attn",
            "q_proj",
            "weight",
            "bias",
        ]
    )
    | st.text("ab0._-\\[(*", max_size=6),
    min_size=1,
    max_size=6,
).map(".".join)


@PROPERTY
@given(names=st.lists(NAME, max_size=6, unique=True), model_type=st.sampled_from(sorted(transformers_table()["rules"])))
def test_any_names_give_as_many_distinct_names(names: list[str], model_type: str) -> None:
    once = disk_names(names, {"model_type": model_type, "architectures": [model_type]})
    assert len(set(once)) == len(names)


def test_no_name_depends_on_whether_transformers_is_installed() -> None:
    code = "import sys; import pipeline.archive.renaming as r; r.disk_names(['a.weight'], {'model_type': 'vit'}); "
    code += "assert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_operation_of_the_mapping_is_either_replayed_or_known_to_change_the_name() -> None:
    """An operation that changes values under one name would pair other matrices: a new one must be looked at."""
    moves_whole_tensors = {"MergeModulelist", "Concatenate", "Chunk", "Split"}
    changes_the_name = {
        ("ernie4_5_vl_moe", "ErnieFuseAndSplitTextVisionExperts"),
        ("ernie4_5_vl_moe", "Transpose"),
        ("nemo_speechlm", "Transpose"),
        ("inkling_mm_model", "Interleave Chunk"),  # along axis 1: `shared_w13_weight`
    }
    told_by_shapes = {("qwen3_vl_moe", "Transpose")}
    unknown = set()
    for key in transformers_table()["rules"]:
        for rule in own_rules(key) or ():
            if rule.kind == "convert" and not rule.is_supported and not set(rule.operations) <= moves_whole_tensors:
                unknown.add((key, " ".join(rule.operations)))
    aliases = {key for key, rules in transformers_table()["rules"].items() if isinstance(rules, str)}
    assert {pair for pair in unknown if pair[0] not in aliases} == changes_the_name | told_by_shapes


@settings(PROPERTY, max_examples=50)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.booleans(), st.randoms(use_true_random=False))
def test_rows_in_pairs_come_back_in_halves_as_transformers_permutes_them(
    heads: int, half: int, cols: int, fused: bool, random: Any
) -> None:
    """Against transformers' own operation, from random values on disk."""
    from transformers.core_model_loading import PermuteForRope

    rows = 2 * heads * half
    stored = torch.tensor([[random.random() for _ in range(cols)] for _ in range(rows * (3 if fused else 1))])
    rule = StoredName(("q", "k", "v"), rotary=(True, True, False)) if fused else StoredName(rotary=(True,))
    pieces = pieces_of("blocks.0.attn.some_qkv", len(stored), cols, {"num_attention_heads": heads}, rule)
    permute = PermuteForRope()
    whole = stored.chunk(3) if fused else (stored,)
    assert len(pieces) == len(whole)
    for piece, part, rotary in zip(pieces, whole, rule.rotary, strict=True):
        wanted = permute._permute_for_rope(part, t.PreTrainedConfig(num_attention_heads=heads)) if rotary else part
        cut = apply_ops(stored.numpy(), piece.ops)
        assert torch.equal(torch.from_numpy(cut.copy()), wanted), piece.suffix


def test_rows_whose_order_the_config_does_not_tell_have_no_counterpart() -> None:
    (piece,) = pieces_of("layers.0.attention.wq", 8, 4, {}, StoredName(rotary=(True,)))
    assert piece.suffix == "as_stored" and piece.ops == ()


@pytest.mark.slow
def test_every_class_of_transformers_that_has_a_mapping() -> None:
    from tools.check_transformers_names import main

    assert main([]) == 0
