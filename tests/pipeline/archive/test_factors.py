"""Factors of adapters are listed under whatever names a tool gives them; real low-rank layers stay matrices."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.pipeline.archive.tiny import PROPERTY, State, assert_accounted, layout_of

A, B, W = torch.randn(4, 64), torch.randn(48, 4), torch.randn(48, 64)
ALPHA = torch.tensor(4.0)

TOOLS: dict[str, State] = {
    "kohya": {
        "lora_unet_x_to_q.lora_down.weight": A,
        "lora_unet_x_to_q.lora_up.weight": B,
        "lora_unet_x_to_q.alpha": ALPHA,
    },
    "kohya convolution": {
        "lora_unet_c.lora_down.weight": torch.randn(4, 8, 3, 3),
        "lora_unet_c.lora_up.weight": torch.randn(8, 4, 1, 1),
    },
    "diffusers": {"unet.attn1.to_q.lora.down.weight": A, "unet.attn1.to_q.lora.up.weight": B},
    "diffusers 0.1": {"unet.attn1.processor.to_q_lora.down.weight": A, "unet.attn1.processor.to_q_lora.up.weight": B},
    "diffusers text encoder": {
        "te.q_proj.lora_linear_layer.down.weight": A,
        "te.q_proj.lora_linear_layer.up.weight": B,
    },
    "MLX": {"model.layers.0.self_attn.q_proj.lora_a": A.T, "model.layers.0.self_attn.q_proj.lora_b": B.T},
    "loralib": {"layers.0.q.lora_A": A, "layers.0.q.lora_B": B},
    "torchtune": {"layers.0.q.lora_a.weight": A, "layers.0.q.lora_b.weight": B, "layers.0.q.magnitude": torch.ones(48)},
    "PEFT": {"x.lora_A.default.weight": A, "x.lora_B.default.weight": B, "x.lora_embedding_A.default": A},
    "LyCORIS lokr": {
        "lycoris_x.lokr_w1": torch.randn(8, 8),
        "lycoris_x.lokr_w2_a": A,
        "lycoris_x.lokr_w2_b": B,
        "lycoris_x.alpha": ALPHA,
    },
    "LyCORIS loha": {
        "lycoris_x.hada_w1_a": B,
        "lycoris_x.hada_w1_b": A,
        "lycoris_x.hada_w2_a": B,
        "lycoris_x.hada_w2_b": A,
    },
    "LLaMA-Adapter": {
        "layers.0.attention.lora_wq_l1.weight": A,
        "layers.0.attention.lora_wq_l2.weight": B,
        "adapter_query.weight": W,
    },
    "LitGPT adapter": {
        "transformer.h.0.attn.adapter_wte.weight": W,
        "transformer.h.0.attn.gating_factor": torch.ones(1, 1, 4, 1),
    },
    "an unseen name with lora": {
        "blocks.0.qkv.lora_q_in.weight": A,
        "blocks.0.qkv.lora_q_out.weight": B,
        "x.LoRA_A": A,
        "x.LoRA_B": B,
    },
    "unseen names alone": {
        "h.0.q_proj.factor_in": A,
        "h.0.q_proj.factor_out": B,
        "h.1.q_proj.factor_in": A,
        "h.1.q_proj.factor_out": B,
    },
    "AdaLoRA": {"x.lora_A.default": A, "x.lora_B.default": B, "x.lora_E.default": torch.ones(4, 1)},
    "NeMo": {"qkv.lora_kqv_adapter.linear_in.weight": A, "qkv.lora_kqv_adapter.linear_out.weight": B},
    "XLabs": {"double_blocks.0.proj_lora1.down.weight": A, "double_blocks.0.proj_lora1.up.weight": B},
    "LyCORIS full difference": {"lora_unet_x.diff": W, "lora_unet_x.diff_b": torch.ones(48)},
    "SAM": {"w_a_000": A, "w_b_000": B, "w_a_001": A, "w_b_001": B},
}


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_s_factors_are_listed(tool: str) -> None:
    layout = layout_of(TOOLS[tool])
    assert_accounted(layout)
    assert not layout.matrices
    assert all(word in u.reason for u in layout.unmeasured for word in ("LoRA",) if "prompt" not in u.reason)


@pytest.mark.parametrize(
    ("tool", "state"), [(tool, TOOLS[tool]) for tool in ("kohya", "diffusers", "MLX", "torchtune")]
)
def test_the_reason_names_the_tool(tool: str, state: State) -> None:
    assert any(f"LoRA factor ({tool})" in u.reason for u in layout_of(state).unmeasured)


NAME = st.text("abcdefghijklmnopqrstuvwxyz", min_size=3, max_size=8)


@PROPERTY
@given(names=st.tuples(NAME, NAME), rank=st.integers(1, 16), size=st.tuples(st.integers(33, 60), st.integers(33, 60)))
def test_factors_of_any_names_are_told_by_the_weight_beside_them(
    names: tuple[str, str], rank: int, size: tuple[int, int]
) -> None:
    assume(names[0] != names[1] and not {"weight", "kernel"} & set(names))
    out, into = size
    state = {
        "layers.0.fc1.weight": torch.zeros(out, into),
        f"layers.0.fc1.{names[0]}": torch.zeros(rank, into),
        f"layers.0.fc1.{names[1]}": torch.zeros(out, rank),
    }
    assert [spec.name for spec in layout_of(state).matrices] == ["layers.0.fc1"]


def test_a_wrapped_layer_s_factors_are_told_by_its_weight() -> None:
    bridge = {"qkv.to_wrap.weight": W, "qkv.adapter.linear_in.weight": A, "qkv.adapter.linear_out.weight": B}
    assert [spec.name for spec in layout_of(bridge).matrices] == ["qkv.to_wrap"]
    state = {"q.linear.weight": W, "q.delta_a.weight": A, "q.delta_b.weight": B, "q.linear.bias": torch.zeros(48)}
    assert [spec.name for spec in layout_of(state).matrices] == ["q.linear"]


REAL: dict[str, State] = {
    "latent attention": {"self_attn.q_a_proj.weight": A, "self_attn.q_b_proj.weight": B, "self_attn.o_proj.weight": W},
    "latent attention alone": {
        "self_attn.kv_a_proj.weight": A,
        "self_attn.kv_b_proj.weight": B,
        "self_attn.norm.weight": torch.ones(4),
    },
    "factorised embedding": {
        "embeddings.word_embeddings.weight": torch.randn(300, 8),
        "encoder.embedding_hidden_mapping_in.weight": torch.randn(64, 8),
    },
    "bottleneck adapter": {
        "layer.0.output.dense.weight": W,
        "layer.0.output.adapter.down.weight": A,
        "layer.0.output.adapter.up.weight": B,
    },
    "bottleneck beside a linear": {"block.linear.weight": W, "block.down.weight": A, "block.up.weight": B},
    "RWKV": {
        "attn.w_lora.lora.0.weight": A,
        "attn.w_lora.lora.2.weight": B,
        "attn.a_lora.lora.0.weight": A,
        "attn.a_lora.lora.2.weight": B,
    },
    "depthwise-separable convolution": {
        "conv.depthwise.weight": torch.randn(8, 1, 3, 3),
        "conv.pointwise.weight": torch.randn(16, 8, 1, 1),
    },
    "linear autoencoder": {"encoder.weight": A, "decoder.weight": torch.randn(64, 4)},
    "autoencoder": {
        "net.encoder.weight": A,
        "net.decoder.weight": torch.randn(64, 4),
        "net.encoder.bias": torch.zeros(4),
    },
    "decomposed layers of a whole model": {
        "q.A.weight": A,
        "q.B.weight": B,
        "norm.weight": torch.ones(64),
        "lm_head.weight": torch.randn(99, 64),
    },
    "perceptron": {"fc1.weight": torch.randn(4, 64), "fc2.weight": torch.randn(64, 4)},
    "gated unit": {"mlp.down.weight": torch.randn(64, 256), "mlp.up.weight": torch.randn(256, 64)},
}


@pytest.mark.parametrize("layers", REAL)
def test_real_low_rank_layers_stay_matrices(layers: str) -> None:
    measured = {spec.recipe.tensor for spec in layout_of(REAL[layers]).matrices}  # type: ignore[union-attr]
    assert measured == {name for name, tensor in REAL[layers].items() if tensor.ndim > 1}
