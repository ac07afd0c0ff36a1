"""Hand-made checkpoints: every tensor is measured or listed, whatever it is, and what is cut is cut right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.utils.prune
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.archive.layout import describe
from pipeline.archive.names import words
from pipeline.archive.types import TensorHeader
from tests.pipeline.archive.tiny import PROPERTY, State, assert_accounted, checkpoint, layout_of, matrices

PARTS = st.sampled_from(
    sorted(
        words(
            "model layers 0 1 3 self_attn c_attn qkv_proj query_key_value Wqkv in_proj_weight mlp experts gate_up_proj"
            " down_proj w1 w2 weight kernel bias embed_tokens lm_head norm running_mean position_embeddings conv gate"
            " router kv_b_proj weight_scale weight_g weight_v original1 lora_A attn rel_attn q o moe expert_3"
        )
    )
)
NAMES = st.lists(PARTS, min_size=1, max_size=6).map(".".join)
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 4, 6, 8, 12, 24]), max_size=5).map(tuple)
DTYPES = st.sampled_from(
    ["float32", "bfloat16", "float8_e4m3fn", "int64", "uint8", "bool", "complex64", "float8_e8m0fnu"]
)
CONFIGS: list[dict[str, Any]] = [
    {},
    {"model_type": "gpt2", "n_head": 2},
    {"model_type": "gpt_neox", "num_attention_heads": 2},
    {"model_type": "falcon", "num_attention_heads": 4, "num_kv_heads": 2, "new_decoder_architecture": True},
    {"model_type": "gpt_oss", "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 2},
    {"model_type": "dbrx", "ffn_config": {"moe_num_experts": 2}, "attn_config": {"kv_n_heads": 1}, "n_heads": 2},
    {"num_attention_heads": 2, "qk_nope_head_dim": 2, "v_head_dim": 1},
    {"num_attention_heads": "many", "vocab_size": None, "text_config": [], "vision_config": {"num_attention_heads": 0}},
]


@settings(PROPERTY, max_examples=300)
@given(
    tensors=st.dictionaries(NAMES, st.tuples(SHAPES, DTYPES), max_size=12),
    config=st.sampled_from(CONFIGS),
)
def test_every_tensor_of_any_checkpoint_is_measured_or_listed_under_one_name(
    tensors: dict[str, tuple[tuple[int, ...], str]], config: dict[str, Any]
) -> None:
    found = tuple(TensorHeader(name, dtype, shape, 0) for name, (shape, dtype) in tensors.items())
    layout = describe(checkpoint(found, config))
    assert_accounted(layout)
    assert all(min(spec.shape) > 0 for spec in layout.matrices)
    state = {h.name: torch.arange(float(np.prod(h.shape, dtype=int))).reshape(h.shape) for h in found}
    values = matrices(layout, state)  # every recipe replays, to the shape that was promised
    for name in {h.name for h in found} - {u.tensor for u in layout.unmeasured}:
        parts = [values[s.name].ravel() for s in layout.matrices if s.recipe.tensor == name]  # type: ignore[union-attr]
        np.testing.assert_array_equal(np.sort(np.concatenate(parts)), state[name].ravel().numpy(), err_msg=name)


def only(state: State, config: dict[str, Any] | None = None) -> tuple[str, np.ndarray]:
    ((name, values),) = matrices(layout_of(state, config), state).items()
    return name, values


def test_a_convolution_is_flattened_to_out_by_the_rest() -> None:
    w = torch.randn(8, 3, 5, 5)
    layout = layout_of({"features.conv.weight": w})
    (spec,) = layout.matrices
    assert (spec.shape, spec.kind) == ((8, 75), "conv")
    np.testing.assert_array_equal(only({"features.conv.weight": w})[1], w.reshape(8, 75).double())


def test_a_flax_kernel_is_turned() -> None:
    w = torch.randn(4, 6)
    name, values = only({"params/Dense_0/kernel": w})
    assert name == "Dense_0"
    np.testing.assert_array_equal(values, w.T.double())
    k = torch.randn(3, 3, 4, 6)  # Flax: (height, width, in, out)
    np.testing.assert_array_equal(only({"Conv_0.kernel": k})[1], k.permute(3, 2, 0, 1).reshape(6, 36).double())


def test_torch_s_multihead_attention_is_cut_in_thirds() -> None:
    attention = torch.nn.MultiheadAttention(6, 2)
    state = {f"layers.0.self_attn.{name}": tensor for name, tensor in attention.state_dict().items()}
    found = matrices(layout_of(state), state)
    q, k, v = attention.in_proj_weight.double().detach().chunk(3)
    for part, expected in (("q", q), ("k", k), ("v", v)):
        np.testing.assert_array_equal(found[f"layers.0.self_attn.in_proj.{part}"], expected)
    assert "layers.0.self_attn.out_proj" in found


def test_a_c_attn_tells_by_its_shape_whether_it_is_transposed() -> None:
    w = torch.randn(4, 12)
    hf = {"h.0.attn.c_attn.weight": w, "h.0.attn.c_proj.weight": torch.randn(4, 4)}
    nano = {"h.0.attn.c_attn.weight": w.T.contiguous(), "h.0.attn.c_proj.weight": hf["h.0.attn.c_proj.weight"]}
    ours, theirs = matrices(layout_of(hf), hf), matrices(layout_of(nano), nano)
    np.testing.assert_array_equal(ours["h.0.attn.c_attn.k"], theirs["h.0.attn.c_attn.k"])
    np.testing.assert_array_equal(ours["h.0.attn.c_proj"], theirs["h.0.attn.c_proj"].T)


@pytest.mark.parametrize("name", ["attn.query_key_value.weight", "attn.qkv_proj.weight"])
def test_a_fused_projection_of_an_unknown_model_stays_whole(name: str) -> None:
    rows = 12 if "query" in name else 10
    layout = layout_of({f"layers.0.{name}": torch.zeros(rows, 4)})
    assert [spec.kind for spec in layout.matrices] == ["attention.qkv"]


def test_a_three_dimensional_stack_of_experts_is_never_skipped() -> None:
    state = {
        "layers.2.mlp.experts.w1": torch.randn(3, 6, 4),
        "layers.2.moe.experts.weight_in": torch.randn(3, 6, 4),
    }
    layout = layout_of(state)
    assert len(layout.matrices) == 6
    assert {spec.layer for spec in layout.matrices} == {2}
    found = matrices(layout, state)
    np.testing.assert_array_equal(
        found["layers.2.mlp.experts.1.gate_proj"], state["layers.2.mlp.experts.w1"][1].double()
    )


def test_an_unknown_three_dimensional_parameter_is_listed_with_its_shape() -> None:
    layout = layout_of({"mixer.tensor": torch.zeros(2, 3, 4)})
    (listed,) = layout.unmeasured
    assert "(2, 3, 4)" in listed.reason


@pytest.mark.parametrize(
    ("name", "tensor", "word"),
    [
        ("fc.bias", torch.zeros(4), "bias"),
        ("norm.weight", torch.zeros(4), "gain"),
        ("q_norm.weight", torch.zeros(2, 4), "gain"),
        ("bn.num_batches_tracked", torch.zeros((), dtype=torch.int64), "counter"),
        ("embeddings.position_ids", torch.zeros(1, 512, dtype=torch.int64), "index"),
        ("attn.rotary_emb.inv_freq", torch.zeros(8), "buffer"),
        ("attn.bias", torch.zeros(1, 1, 4, 4), "bias"),
        ("experts.gate_up_proj_bias", torch.zeros(3, 8), "bias"),
        ("cls_token", torch.zeros(1, 1, 8), "vector"),
        ("temperature", torch.zeros(()), "scalar"),
        ("fc.weight", torch.zeros(0, 5), "no entries"),
        ("fc.weight", torch.zeros(3, 5, dtype=torch.complex64), "complex64"),
        ("fc.weight", torch.zeros(3, 5, dtype=torch.int8), "quantised"),
        ("fc.qweight", torch.zeros(3, 5, dtype=torch.int32), "quantised"),
        ("fc.weight_mask", torch.zeros(3, 5), "mask"),
        ("fc.lora_A.default.weight", torch.zeros(3, 5), "adapter_config"),
        ("lstm.bias_hh_l3", torch.zeros(4), "bias"),
        ("gru.bias_ih_l0_reverse", torch.zeros(4), "bias"),
        ("blocks.0.ln1.w", torch.zeros(4), "gain"),
        ("head.tril", torch.zeros(8, 8), "buffer"),
        ("attn.rotary_sin", torch.zeros(8, 4), "buffer"),
        ("norm.running_var", torch.zeros(2, 4), "buffer"),
        ("mel_spectrogram.mel_scale.fb", torch.zeros(9, 4), "buffer"),
        ("rotary.cached_freqs", torch.zeros(8, 4), "buffer"),
        ("rope.freqs", torch.zeros(8, 4), "buffer"),
        ("model.sin", torch.zeros(8, 4), "buffer"),
        ("encoder.pe", torch.zeros(8, 4), "buffer"),
        ("synthesis.b4.noise_const", torch.zeros(4, 4), "buffer"),
        ("synthesis.b4.resample_filter", torch.zeros(4, 4), "buffer"),
        ("convs.0.conv.blur.kernel", torch.zeros(4, 4), "buffer"),
        ("rpn.anchor_generator.cell_anchors.0", torch.zeros(3, 4), "buffer"),
        ("dino.center", torch.zeros(1, 64), "vector"),
        ("optimizer.state.fc.weight.exp_avg", torch.zeros(3, 5), "optimizer"),
        ("fc.weight.exp_avg_sq", torch.zeros(3, 5), "optimizer"),
        ("exp_avg.fc.weight", torch.zeros(3, 5), "optimizer"),
        ("opt_state.0.mu.fc.kernel", torch.zeros(3, 5), "optimizer"),
        ("prompt_encoder.default.embedding.weight", torch.zeros(8, 5), "prompt"),
        ("prompt_embeddings", torch.zeros(8, 5), "prompt"),
        ("prompt_learner.ctx", torch.zeros(8, 5), "prompt"),
    ],
)  # fmt: skip
def test_what_is_no_matrix_says_why(name: str, tensor: torch.Tensor, word: str) -> None:
    (listed,) = layout_of({name: tensor}).unmeasured
    assert word in listed.reason


@pytest.mark.parametrize(
    "module",
    ["normal_head", "norm_head", "lnet", "decoder.normalizer", "normalized_embedding", "bn_linear", "lm.norm_proj"],
)
def test_a_name_that_begins_like_a_normalisation_is_a_matrix(module: str) -> None:
    assert [spec.shape for spec in layout_of({f"{module}.weight": torch.zeros(3, 8)}).matrices] == [(3, 8)]


@pytest.mark.parametrize("module", ["ln_f", "final_norm2", "input_layernorm", "blocks.LayerNorm_0", "norm_final"])
def test_a_normalisation_of_two_axes_is_a_gain(module: str) -> None:
    (listed,) = layout_of({f"{module}.weight": torch.zeros(3, 8)}).unmeasured
    assert "gain" in listed.reason


def test_a_name_without_end_and_a_stack_of_millions_are_listed() -> None:
    headers = (
        TensorHeader("_" * 100_000, "float32", (2, 2), 16),
        TensorHeader("mlp.experts.up_proj", "float32", (10**8, 1, 2), 8 * 10**8),
    )
    layout = describe(checkpoint(headers))
    assert not layout.matrices
    assert "100000 characters" in layout.unmeasured[0].reason


def test_fp8_weights_with_a_scale_are_listed_and_without_one_measured() -> None:
    weight = torch.zeros(4, 4).to(torch.float8_e4m3fn)
    assert layout_of({"fc.weight": weight}).matrices
    scaled = layout_of({"fc.weight": weight, "fc.weight_scale_inv": torch.ones(2, 2)})
    assert not scaled.matrices
    assert all("dequantise" in u.reason for u in scaled.unmeasured)


def test_weight_norm_and_pruning_save_no_weight() -> None:
    linear = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(4, 3))
    assert not layout_of(linear.state_dict()).matrices
    pruned = torch.nn.Linear(4, 3)
    torch.nn.utils.prune.random_unstructured(pruned, "weight", 0.5)
    assert not layout_of(pruned.state_dict()).matrices


@pytest.mark.parametrize("parametrise", ["weight_norm", "spectral_norm", "orthogonal"])
def test_a_parametrised_weight_s_parts_are_listed(parametrise: str) -> None:
    linear = getattr(torch.nn.utils.parametrizations, parametrise)(torch.nn.Linear(6, 6))
    layout = layout_of({f"net.{name}": tensor for name, tensor in linear.state_dict().items()})
    assert_accounted(layout)
    assert not layout.matrices


def test_parametrised_weights_of_other_names_are_told_by_their_partners() -> None:
    recurrent = torch.nn.utils.weight_norm(torch.nn.LSTM(4, 3), "weight_hh_l0")
    assert [spec.name for spec in layout_of(recurrent.state_dict()).matrices] == ["weight_ih_l0"]
    spectral = {"conv.weight_bar": torch.zeros(4, 3), "conv.weight_u": torch.zeros(4), "conv.weight_v": torch.zeros(3)}
    assert not layout_of(spectral).matrices
    alone = {"one.weight_v": torch.zeros(4, 3), "two.weight_orig": torch.zeros(4, 3)}  # no partner: no parts
    assert len(layout_of(alone).matrices) == 2


def test_the_running_average_of_a_codebook_is_no_weight() -> None:
    state = {"vq.embed": torch.zeros(64, 8), "vq.embed_avg": torch.zeros(64, 8), "vq.cluster_size": torch.zeros(64)}
    assert [spec.name for spec in layout_of(state).matrices] == ["vq.embed"]


def test_averages_and_counts_of_a_codebook_are_listed_under_the_names_of_several_tools() -> None:
    state = {
        "vq._embedding.weight": torch.zeros(9, 4),
        "vq._ema_w": torch.zeros(9, 4),
        "vq._ema_cluster_size": torch.zeros(9),
        "rvq._codebook.embedding_sum": torch.zeros(9, 4),
        "rvq._codebook.cluster_usage": torch.zeros(9),
        "lucid._codebook.embed_avg": torch.zeros(1, 9, 4),
        "lucid._codebook.cluster_size": torch.zeros(1, 9),
    }
    (spec,) = layout_of(state).matrices
    assert (spec.name, spec.kind, spec.shape) == ("vq._embedding", "embedding", (4, 9))


def test_a_queue_beside_its_pointer_is_a_buffer() -> None:
    pointer = torch.zeros(1, dtype=torch.int64)
    state = {"queue": torch.zeros(8, 64), "queue_ptr": pointer, "fc.weight": torch.zeros(4, 8)}
    assert [spec.name for spec in layout_of(state).matrices] == ["fc"]


def test_a_file_with_a_single_tensor_called_weight_is_measured() -> None:
    assert [spec.shape for spec in layout_of({"weight": torch.zeros(4, 8)}).matrices] == [(4, 8)]


def test_recurrent_weights_have_their_kind_and_layer() -> None:
    layout = layout_of(torch.nn.LSTM(5, 3, num_layers=4, bidirectional=True, proj_size=2).state_dict())
    assert {spec.kind for spec in layout.matrices} == {"recurrent"}
    assert {spec.name: spec.layer for spec in layout.matrices}["weight_hr_l3_reverse"] == 3
    assert all("a bias" in listed.reason for listed in layout.unmeasured)
    keras = layout_of({"cell.kernel": torch.zeros(5, 12), "cell.recurrent_kernel": torch.zeros(3, 12)})
    assert {spec.name: spec.shape for spec in keras.matrices} == {"cell": (12, 5), "cell.recurrent_kernel": (12, 3)}


def test_two_models_in_one_file_keep_both_under_longer_names() -> None:
    layout = layout_of(
        {"bert.fc.weight": torch.zeros(2, 3), "vit.fc.weight": torch.zeros(2, 3), "bert.out.weight": torch.zeros(2, 3)}
    )
    assert [spec.name for spec in layout.matrices] == ["bert.fc", "vit.fc", "out"]


def test_a_dense_gate_up_is_gate_then_up() -> None:
    w = torch.randn(6, 4)
    state = {"model.layers.0.mlp.gate_up_proj.weight": w}
    found = matrices(layout_of(state), state)
    np.testing.assert_array_equal(found["layers.0.mlp.gate_up_proj.gate"], w[:3].double())
    np.testing.assert_array_equal(found["layers.0.mlp.gate_up_proj.up"], w[3:].double())


def test_dbrx_experts_are_cut_from_their_two_dimensional_stacks() -> None:
    w1, w2 = torch.randn(6, 4), torch.randn(6, 4)
    prefix = "transformer.blocks.0.ffn.experts.mlp"
    state = {f"{prefix}.w1": w1, f"{prefix}.w2": w2}
    found = matrices(layout_of(state, {"model_type": "dbrx", "ffn_config": {"moe_num_experts": 2}}), state)
    np.testing.assert_array_equal(found["blocks.0.ffn.experts.1.gate_proj"], w1[3:].double())
    np.testing.assert_array_equal(found["blocks.0.ffn.experts.0.down_proj"], w2[:3].T.double())
