"""Per-head circuits are the products that the attention formula holds, from slices that are never multiplied out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers as t

from pipeline.archive.circuits import attention_block, circuits
from pipeline.archive.recipes import LowRankProduct
from tests.pipeline.archive.tiny import layout_of, matrix

D, H, DH, F, VOCAB = 16, 4, 4, 24, 30
BASIC: dict[str, Any] = {
    "hidden_size": D, "num_hidden_layers": 1, "num_attention_heads": H, "intermediate_size": F, "vocab_size": VOCAB,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


def spied(model: Any, block: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q (heads, tokens, d), k and v (kv heads, …) that the model's own code hands to its attention function."""
    seen: list[torch.Tensor] = []

    def attention(module: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: Any, **__: Any) -> Any:
        seen.extend((q[0], k[0], v[0]))
        return torch.zeros(1, q.shape[2], q.shape[1], v.shape[3]), None

    t.AttentionInterface.register("spy", attention)
    model.set_attn_implementation("spy")
    with torch.no_grad():
        block(x)
    return seen[0], seen[1], seen[2]


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "vit"])
def test_a_head_s_qk_and_ov_are_the_bilinear_forms_of_the_model_s_own_heads(family: str) -> None:
    torch.manual_seed(0)
    models: dict[str, Any] = {
        "bert": lambda: t.BertModel(t.BertConfig(**BASIC)),
        "gpt2": lambda: t.GPT2Model(t.GPT2Config(n_embd=D, n_layer=1, n_head=H, vocab_size=VOCAB, n_positions=8)),
        "llama": lambda: t.LlamaModel(t.LlamaConfig(**BASIC, num_key_value_heads=2)),
        "vit": lambda: t.ViTModel(t.ViTConfig(**BASIC, image_size=16, patch_size=8)),
    }
    model = models[family]().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.zero_() if name.endswith("bias") else parameter.normal_()
    x = torch.randn(1, 1, D)  # one token at position 0: no rotation between q and k
    unrotated = (torch.ones(1, 1, DH), torch.zeros(1, 1, DH))
    call = {
        "bert": lambda v: model.encoder.layer[0].attention.self(v),
        "gpt2": lambda v: model.h[0].attn(v),
        "vit": lambda v: model.layers[0].attention(v),
        "llama": lambda v: model.layers[0].self_attn(v, position_embeddings=unrotated, attention_mask=None),
    }[family]
    q, k, v = spied(model, call, x)
    config = model.config.to_dict()
    found = {spec.name: spec for spec in circuits(layout_of(model.state_dict(), config), config)}
    block = {
        "bert": "encoder.layer.0.attention",
        "gpt2": "h.0.attn",
        "vit": "layers.0.attention",
        "llama": "layers.0.self_attn",
    }[family]
    assert set(found) == {f"{block}.{circuit}.head{head}" for circuit in ("qk", "ov") for head in range(H)}
    w_o = next(
        p
        for n, p in model.named_parameters()
        if n.endswith(("o_proj.weight", "c_proj.weight", "attention.output.dense.weight"))
    )
    w_o = (w_o.T if family == "gpt2" else w_o).double().detach()
    row = x.reshape(-1).double().numpy()
    for head in range(H):
        group = head // (H // k.shape[0])
        qk = matrix(found[f"{block}.qk.head{head}"].recipe, model.state_dict())
        np.testing.assert_allclose(row @ qk @ row, float(q[head, 0] @ k[group, 0]), rtol=1e-4)
        ov = matrix(found[f"{block}.ov.head{head}"].recipe, model.state_dict())
        expected = w_o[:, head * DH : (head + 1) * DH] @ v[group, 0].double()
        np.testing.assert_allclose(ov @ row, expected.numpy(), rtol=1e-4, atol=1e-4)


def test_circuits_are_thin_products_with_their_own_roles() -> None:
    model = t.BertModel(t.BertConfig(**BASIC))
    config = model.config.to_dict()
    found = circuits(layout_of(model.state_dict(), config), config)
    assert {spec.role for spec in found} == {"circuit_qk", "circuit_ov"}
    for spec in found:
        assert isinstance(spec.recipe, LowRankProduct)
        b = matrix(spec.recipe.b, model.state_dict())
        assert b.shape == (spec.shape[0], DH)
        assert (spec.layer, spec.shape) == (0, (D, D))


def test_no_heads_in_the_config_no_circuits() -> None:
    model = t.BertModel(t.BertConfig(**BASIC))
    assert circuits(layout_of(model.state_dict()), {}) == ()


def test_heads_that_do_not_agree_with_the_shapes_give_none() -> None:
    model = t.BertModel(t.BertConfig(**BASIC))
    layout = layout_of(model.state_dict())
    assert circuits(layout, {"num_attention_heads": 5}) == ()
    assert circuits(layout, {"num_attention_heads": 4, "head_dim": 8}) == ()
    assert circuits(layout, {"num_attention_heads": 4, "num_key_value_heads": 2}) == ()


def test_encoder_and_cross_attention_are_blocks_of_their_own() -> None:
    model = t.T5Model(t.T5Config(d_model=D, d_kv=DH, d_ff=F, num_layers=1, num_heads=H, vocab_size=VOCAB))
    config = model.config.to_dict()
    found = circuits(layout_of(model.state_dict(), config), config)
    assert len(found) == 3 * 2 * H  # encoder self, decoder self, decoder cross
    assert "decoder.block.0.layer.1.EncDecAttention.ov.head0" in {spec.name for spec in found}


def test_latent_attention_has_no_plain_circuits() -> None:
    state = {
        f"layers.0.self_attn.{name}.weight": torch.zeros(shape)
        for name, shape in {"q_a_proj": (6, 16), "q_b_proj": (32, 6), "kv_b_proj": (32, 8), "o_proj": (16, 16)}.items()
    }
    config = {"num_attention_heads": 4, "qk_nope_head_dim": 4, "v_head_dim": 4}
    assert circuits(layout_of(state, config), config) == ()


def test_the_block_is_named_up_to_the_word_for_attention() -> None:
    assert attention_block("encoder.layer.0.attention.self.query") == "encoder.layer.0.attention"
    assert attention_block("h.0.attn.c_attn.q") == "h.0.attn"
    assert attention_block("h.0.mlp.c_fc") is None
