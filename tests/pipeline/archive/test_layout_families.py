"""Tiny random models of real families: every tensor accounted for, and every cut means what the model's code means."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as t
from safetensors.torch import load_file

from pipeline.archive.circuits import circuits
from pipeline.archive.types import Layout
from tests.pipeline.archive.tiny import State, assert_accounted, layout_of, matrices

D, H, DH, F, VOCAB = 16, 4, 4, 24, 30
BASIC: dict[str, Any] = {
    "hidden_size": D, "num_hidden_layers": 2, "num_attention_heads": H, "intermediate_size": F, "vocab_size": VOCAB,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
GROUPED = BASIC | {"num_key_value_heads": 2}
GPT: dict[str, Any] = {
    "n_embd": D, "n_layer": 2, "n_head": H, "vocab_size": VOCAB, "n_positions": 8, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
DEEPSEEK: dict[str, Any] = BASIC | {
    "num_key_value_heads": H, "q_lora_rank": 6, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 6,
    "v_head_dim": 5, "n_routed_experts": 4, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1,
    "moe_intermediate_size": 8, "num_experts_per_tok": 2,
}  # fmt: skip
T5: dict[str, Any] = {"d_model": D, "d_kv": DH, "d_ff": F, "num_layers": 2, "num_heads": H, "vocab_size": VOCAB}
OPT: dict[str, Any] = {"hidden_size": D, "num_hidden_layers": 2, "num_attention_heads": H, "ffn_dim": F}
IMAGES: dict[str, Any] = {
    "hidden_size": D, "num_hidden_layers": 2, "num_attention_heads": H, "intermediate_size": F, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip
SPEECH: dict[str, Any] = BASIC | {
    "num_hidden_layers": 1, "conv_dim": (8,), "conv_stride": (2,), "conv_kernel": (3,), "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
SWIN: dict[str, Any] = {
    "image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2,
}  # fmt: skip


def falcon(**switches: Any) -> Any:
    return t.FalconForCausalLM(t.FalconConfig(**BASIC, **switches))


FAMILIES: dict[str, Callable[[], Any]] = {
    "bert": lambda: t.BertForMaskedLM(t.BertConfig(**BASIC)),
    "gpt2": lambda: t.GPT2LMHeadModel(t.GPT2Config(**GPT, add_cross_attention=True)),
    "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**GROUPED)),
    "gpt_neox": lambda: t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**BASIC)),
    "mixtral": lambda: t.MixtralForCausalLM(t.MixtralConfig(**GROUPED, num_local_experts=3)),
    "olmoe": lambda: t.OlmoeForCausalLM(t.OlmoeConfig(**GROUPED, num_experts=3, num_experts_per_tok=2)),
    "phimoe": lambda: t.PhimoeForCausalLM(t.PhimoeConfig(**GROUPED, num_local_experts=3)),
    "granitemoe": lambda: t.GraniteMoeForCausalLM(t.GraniteMoeConfig(**GROUPED, num_local_experts=3)),
    "gpt_oss": lambda: t.GptOssForCausalLM(
        t.GptOssConfig(**GROUPED, num_local_experts=3, head_dim=DH, num_experts_per_tok=2)
    ),
    "deepseek_v3": lambda: t.DeepseekV3ForCausalLM(t.DeepseekV3Config(**DEEPSEEK)),
    "t5": lambda: t.T5ForConditionalGeneration(t.T5Config(**T5, feed_forward_proj="gated-gelu")),
    "vit": lambda: t.ViTForImageClassification(t.ViTConfig(**IMAGES)),
    "opt": lambda: t.OPTForCausalLM(t.OPTConfig(**OPT, vocab_size=VOCAB, word_embed_proj_dim=D)),
    "phi3": lambda: t.Phi3ForCausalLM(t.Phi3Config(**GROUPED)),
    "falcon_new": lambda: falcon(new_decoder_architecture=True, num_kv_heads=2),
    "falcon_mqa": lambda: falcon(new_decoder_architecture=False, multi_query=True),
    "falcon_plain": lambda: falcon(new_decoder_architecture=False, multi_query=False),
    "bloom": lambda: t.BloomForCausalLM(t.BloomConfig(hidden_size=D, n_layer=2, n_head=H, vocab_size=VOCAB)),
    "modernbert": lambda: t.ModernBertForMaskedLM(t.ModernBertConfig(**BASIC)),
    "gpt_bigcode_mqa": lambda: t.GPTBigCodeForCausalLM(t.GPTBigCodeConfig(**GPT, multi_query=True)),
    "gpt_bigcode": lambda: t.GPTBigCodeForCausalLM(t.GPTBigCodeConfig(**GPT, multi_query=False)),
    "codegen": lambda: t.CodeGenForCausalLM(t.CodeGenConfig(**GPT, rotary_dim=2)),
    "distilbert": lambda: t.DistilBertForSequenceClassification(
        t.DistilBertConfig(dim=D, n_layers=2, n_heads=H, hidden_dim=F, vocab_size=VOCAB)
    ),
    "xlnet": lambda: t.XLNetLMHeadModel(t.XLNetConfig(d_model=D, n_layer=2, n_head=H, d_inner=F, vocab_size=VOCAB)),
    "mamba": lambda: t.MambaForCausalLM(t.MambaConfig(hidden_size=D, num_hidden_layers=2, vocab_size=VOCAB)),
    "swin": lambda: t.SwinForImageClassification(t.SwinConfig(**SWIN)),
    "resnet": lambda: t.ResNetForImageClassification(
        t.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic")
    ),
    "wav2vec2": lambda: t.Wav2Vec2Model(t.Wav2Vec2Config(**SPEECH)),
}  # fmt: skip


def tiny(family: str) -> Any:
    torch.manual_seed(0)
    model = FAMILIES[family]().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif parameter.ndim > 1:
                parameter.normal_()
    return model


def described(model: Any) -> tuple[Layout, dict[str, np.ndarray]]:
    layout = layout_of(model.state_dict(), model.config.to_dict())
    return layout, matrices(layout, model.state_dict())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_of_a_family_is_measured_or_listed(family: str) -> None:
    layout, found = described(tiny(family))
    assert_accounted(layout)
    assert found
    small = ("bias", "gain", "vector", "buffer", "counter")
    wide = [u for u in layout.unmeasured if not any(word in u.reason for word in small)]
    expected = {"wav2vec2": 1}  # v of the positional convolution's weight norm; its g is a vector
    assert len(wide) == expected.get(family, 0), wide


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"mamba", "resnet"}))
def test_every_block_has_its_attention_recognised(family: str) -> None:
    layout, _ = described(tiny(family))
    kinds = {spec.kind for spec in layout.matrices}
    assert {"attention.query", "attention.output"} <= kinds
    assert "attention.qkv" not in kinds, "a fused projection of a known model is cut"


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"resnet", "wav2vec2"}))
def test_what_save_pretrained_writes_has_the_names_and_values_of_the_model_in_memory(
    family: str, tmp_path: Path
) -> None:
    """transformers 5 renames and unfuses on the way to disk (experts, ViT blocks): the matrices stay the same."""
    model = tiny(family)
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    layout = layout_of(state, model.config.to_dict())
    assert_accounted(layout)
    on_disk, (_, in_memory) = matrices(layout, state), described(model)
    tied = {"lm_head", "encoder.embed_tokens", "decoder.embed_tokens", "cls.predictions.decoder", "decoder", "lm_loss"}
    assert set(on_disk) <= set(in_memory)
    assert set(in_memory) - set(on_disk) <= tied
    for name, values in on_disk.items():
        np.testing.assert_array_equal(values, in_memory[name], err_msg=name)


def spied(model: Any, **inputs: Any) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """q, k, v (heads, head_dim) of one token at position 0 (no rotation there), as each block's attention gets them."""
    seen: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def attention(module: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: Any, **__: Any) -> Any:
        seen.append(tuple(x[0, :, 0].double().numpy() for x in (q, k, v)))  # type: ignore[arg-type]
        groups = q.shape[1] // v.shape[1]
        return v.repeat_interleave(groups, dim=1).transpose(1, 2).contiguous(), None

    t.AttentionInterface.register("spy", attention)
    model.set_attn_implementation("spy")
    with torch.no_grad():
        model(torch.tensor([[5]]), **inputs)
    return seen


FUSED_MODULES = {
    "gpt2": "transformer.h.{}.attn.c_attn",
    "gpt_neox": "gpt_neox.layers.{}.attention.query_key_value",
    "phi3": "model.layers.{}.self_attn.qkv_proj",
    "modernbert": "model.layers.{}.attn.Wqkv",
    "gpt_bigcode_mqa": "transformer.h.{}.attn.c_attn",
    "gpt_bigcode": "transformer.h.{}.attn.c_attn",
}
CANONICAL = {family: path.split(".", 1)[1] for family, path in FUSED_MODULES.items()}


@pytest.mark.parametrize("family", FUSED_MODULES)
def test_q_k_v_are_what_the_model_s_own_forward_pass_makes_of_the_fused_projection(family: str) -> None:
    model = tiny(family)
    inputs: dict[int, np.ndarray] = {}
    for layer in range(2):
        module = model.get_submodule(FUSED_MODULES[family].format(layer))
        module.register_forward_pre_hook(
            lambda _, args, layer=layer: inputs.__setitem__(layer, args[0].reshape(-1).double().numpy())
        )
    seen = spied(model)
    _, found = described(model)
    for layer in range(2):
        for part, values in zip("qkv", seen[layer], strict=True):
            ours = found[f"{CANONICAL[family].format(layer)}.{part}"] @ inputs[layer]
            np.testing.assert_allclose(ours, values.reshape(-1), rtol=1e-4, atol=1e-4)  # the model runs in float32


@pytest.mark.parametrize("family", ["falcon_new", "falcon_mqa", "falcon_plain", "bloom"])
def test_q_k_v_are_what_the_model_s_own_code_splits(family: str) -> None:
    model = tiny(family)
    attention = model.transformer.h[0].self_attention
    x = torch.randn(1, 1, D)
    split = attention._split_heads if family.startswith("falcon") else attention._reshape
    q, k, v = (part.reshape(-1, DH).double() for part in split(attention.query_key_value(x).detach()))
    _, found = described(model)
    for name, values in (("q", q), ("k", k), ("v", v)):
        ours = (found[f"h.0.self_attention.query_key_value.{name}"] @ x.reshape(-1).double().numpy()).reshape(-1, DH)
        repeat = values.shape[0] // ours.shape[0]  # Falcon broadcasts the grouped keys and values over their queries
        np.testing.assert_allclose(np.repeat(ours, repeat, 0), values.numpy(), rtol=1e-4, atol=1e-4)


def test_codegen_s_four_blocks_of_q_v_k(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("codegen")
    attention = model.transformer.h[0].attn
    seen: list[torch.Tensor] = []

    def record(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: Any) -> Any:
        seen.extend((q, k, v))
        return torch.zeros_like(v), None

    monkeypatch.setattr(attention, "_attn", record)
    x = torch.randn(1, 1, D)
    with torch.no_grad():
        attention(x, position_ids=torch.zeros(1, 1, dtype=torch.long))
    _, found = described(model)
    for name, values in zip("qkv", seen, strict=True):
        ours = found[f"h.0.attn.qkv_proj.{name}"] @ x.reshape(-1).double().numpy()
        np.testing.assert_allclose(ours, values[0, :, 0].reshape(-1).double().numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "granitemoe", "deepseek_v3"])
def test_an_expert_s_matrices_are_what_its_forward_pass_multiplies_by(family: str) -> None:
    model = tiny(family)
    _, found = described(model)
    prefix = next(n for n in found if ".experts.1.gate_proj" in n).removesuffix(".1.gate_proj")
    layer = int(prefix.split(".")[1])
    block = model.model.layers[layer]
    experts = getattr(block, "mlp", None) or block.block_sparse_moe
    x = torch.randn(1, D)
    with torch.no_grad():
        ours = experts.experts(x, torch.tensor([[1]]), torch.tensor([[1.0]])).reshape(-1).double().numpy()
    v = x.reshape(-1).double().numpy()
    gate, up = found[f"{prefix}.1.gate_proj"] @ v, found[f"{prefix}.1.up_proj"] @ v
    if family == "gpt_oss":
        gate, up = np.minimum(gate, 7.0), np.clip(up, -7.0, 7.0)
        hidden = (up + 1) * gate / (1 + np.exp(-1.702 * gate))
    else:
        hidden = up * gate / (1 + np.exp(-gate))
    np.testing.assert_allclose(found[f"{prefix}.1.down_proj"] @ hidden, ours, rtol=1e-3, atol=1e-3)


def test_deepseek_s_latent_keys_and_values_are_cut_per_head() -> None:
    model = tiny("deepseek_v3")
    attention = model.model.layers[0].self_attn
    latent = torch.randn(8)
    split = attention.kv_b_proj(latent).detach().view(H, 6 + 5).double().numpy()
    _, found = described(model)
    ours = {part: found[f"layers.0.self_attn.kv_b_proj.{part}"] @ latent.double().numpy() for part in "kv"}
    np.testing.assert_allclose(ours["k"], split[:, :6].reshape(-1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours["v"], split[:, 6:].reshape(-1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["gpt_oss", "mixtral"])
def test_experts_orientation_is_told_by_shapes_when_there_is_no_config(family: str) -> None:
    model = tiny(family)
    state: State = model.state_dict()
    _, with_config = described(model)
    without = matrices(layout_of(state), state)
    for name in (n for n in with_config if ".experts." in n):
        np.testing.assert_array_equal(without[name], with_config[name], err_msg=name)


def test_embeddings_are_d_by_vocabulary_and_the_head_is_vocabulary_by_d() -> None:
    layout, _ = described(tiny("llama"))
    specs = {spec.name: spec for spec in layout.matrices}
    assert (specs["embed_tokens"].shape, specs["embed_tokens"].orientation) == ((D, VOCAB), "in_out")
    assert (specs["lm_head"].shape, specs["lm_head"].orientation) == ((VOCAB, D), "out_in")


@pytest.mark.parametrize("family", ["gpt2", "gpt_bigcode", "codegen"])
def test_only_models_with_conv1d_hold_their_weights_transposed(family: str) -> None:
    layout, _ = described(tiny(family))
    turned = {spec.name.rsplit(".", 1)[-1] for spec in layout.matrices if spec.orientation == "in_out"}
    conv1d = {"q", "k", "v", "c_proj", "c_fc", "q_attn"} if family == "gpt2" else set()
    assert turned == conv1d | ({"wte", "wpe"} if family != "codegen" else {"wte"})


def test_circuits_of_a_layout_are_those_of_a_real_model() -> None:
    model = tiny("llama")
    layout, _ = described(model)
    assert len(circuits(layout, model.config.to_dict())) == 2 * H * 2
