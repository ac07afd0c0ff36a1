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
from hypothesis import given
from hypothesis import strategies as st

from pipeline.archive import describe, open_archive
from pipeline.archive.bases import match_base
from pipeline.archive.recipes import Dense, apply_ops
from pipeline.archive.renaming import disk_names, transformers_table
from pipeline.archive.types import Layout
from tests.pipeline.archive.tiny import PROPERTY

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


@pytest.mark.slow
def test_every_class_of_transformers_that_has_a_mapping() -> None:
    from tools.check_transformers_names import main

    assert main([]) == 0
