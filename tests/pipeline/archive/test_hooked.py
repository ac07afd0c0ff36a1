"""W_Q, W_in, W_E, …: whichever way round they are stored, the matrix applied to x gives the layer's output."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.archive.circuits import circuits
from tests.pipeline.archive.tiny import PROPERTY, assert_accounted, layout_of, matrices, matrix

Arrays = dict[str, np.ndarray]
SIZE = st.sampled_from([2, 3, 4, 6, 8, 12])


def transformer_lens(h: int, d: int, e: int, f: int, v: int) -> Arrays:
    """HookedTransformer: every input axis comes first, heads before it."""
    r = np.random.default_rng(0).normal
    state = {"embed.W_E": r(size=(v, d)), "pos_embed.W_pos": r(size=(5, d)), "unembed.W_U": r(size=(d, v))}
    state |= {"blocks.0.attn.W_O": r(size=(h, e, d)), "blocks.0.attn.b_O": r(size=d), "unembed.b_U": r(size=v)}
    state |= {"blocks.0.mlp.W_in": r(size=(d, f)), "blocks.0.mlp.W_out": r(size=(f, d))}
    state |= {"blocks.0.mlp.b_in": r(size=f), "blocks.0.mlp.b_out": r(size=d)}
    state |= {f"blocks.0.attn.W_{x}": r(size=(h, d, e)) for x in "QKV"}
    return state | {f"blocks.0.attn.b_{x}": r(size=(h, e)) for x in "QKV"}


def grokking(h: int, d: int, e: int, f: int, v: int) -> Arrays:
    """The first modular-addition code: every output axis comes first, W_O with joined heads, W_E (d, vocab)."""
    r = np.random.default_rng(0).normal
    state = {"embed.W_E": r(size=(d, v)), "pos_embed.W_pos": r(size=(5, d)), "unembed.W_U": r(size=(d, v))}
    state |= {"blocks.0.attn.W_O": r(size=(d, h * e)), "blocks.0.attn.mask": np.tril(np.ones((5, 5)))}
    state |= {"blocks.0.mlp.W_in": r(size=(f, d)), "blocks.0.mlp.W_out": r(size=(d, f))}
    state |= {"blocks.0.mlp.b_in": r(size=f), "blocks.0.mlp.b_out": r(size=d)}
    return state | {f"blocks.0.attn.W_{x}": r(size=(h, e, d)) for x in "QKV"}


def outputs_of_transformer_lens(s: Arrays, x: np.ndarray, z: np.ndarray, hidden: np.ndarray, token: int) -> Arrays:
    """What each layer makes of a residual vector x (d), of the heads' z (h, e), of hidden units (f), of a token."""
    heads = {f"blocks.0.attn.W_{p}": np.einsum("d,hde->he", x, s[f"blocks.0.attn.W_{p}"]).ravel() for p in "QKV"}
    return heads | {
        "blocks.0.attn.W_O": np.einsum("he,hed->d", z, s["blocks.0.attn.W_O"]),
        "blocks.0.mlp.W_in": x @ s["blocks.0.mlp.W_in"],
        "blocks.0.mlp.W_out": hidden @ s["blocks.0.mlp.W_out"],
        "unembed.W_U": x @ s["unembed.W_U"],
        "embed.W_E": s["embed.W_E"][token],
    }


def outputs_of_grokking(s: Arrays, x: np.ndarray, z: np.ndarray, hidden: np.ndarray, token: int) -> Arrays:
    heads = {f"blocks.0.attn.W_{p}": np.einsum("ied,d->ie", s[f"blocks.0.attn.W_{p}"], x).ravel() for p in "QKV"}
    return heads | {
        "blocks.0.attn.W_O": np.einsum("df,f->d", s["blocks.0.attn.W_O"], z.ravel()),
        "blocks.0.mlp.W_in": np.einsum("md,d->m", s["blocks.0.mlp.W_in"], x),
        "blocks.0.mlp.W_out": np.einsum("dm,m->d", s["blocks.0.mlp.W_out"], hidden),
        "unembed.W_U": x @ s["unembed.W_U"],
        "embed.W_E": s["embed.W_E"][:, token],
    }


CODES: dict[str, tuple[Callable[..., Arrays], Callable[..., Arrays]]] = {
    "TransformerLens": (transformer_lens, outputs_of_transformer_lens),
    "older grokking code": (grokking, outputs_of_grokking),
}


@pytest.mark.parametrize("code", CODES)
@PROPERTY
@given(h=st.sampled_from([1, 2, 4]), d=SIZE, e=SIZE, f=SIZE, v=SIZE)
def test_each_matrix_applied_to_the_input_gives_the_layer_s_output(
    code: str, h: int, d: int, e: int, f: int, v: int
) -> None:
    make, forward = CODES[code]
    state = make(h, d, e, f, v)
    draw = np.random.default_rng(1).normal
    x, z, hidden, token = draw(size=d), draw(size=(h, e)), draw(size=f), v - 1
    layout = layout_of({name: torch.from_numpy(values) for name, values in state.items()})
    assert_accounted(layout)
    ours = matrices(layout, {name: torch.from_numpy(values) for name, values in state.items()})
    inputs = {"W_O": z.ravel(), "W_out": hidden, "W_E": np.eye(v)[token]}
    for name, expected in forward(state, x, z, hidden, token).items():
        given_input = inputs.get(name.rpartition(".")[2], x)
        np.testing.assert_allclose(ours[name] @ given_input, expected, err_msg=name, atol=1e-12)
    np.testing.assert_array_equal(ours["pos_embed.W_pos"], state["pos_embed.W_pos"].T)
    assert set(ours) == {name for name in state if ".W_" in name}, "biases and masks are no matrices"


def test_kinds_orientations_and_biases_are_told() -> None:
    state = transformer_lens(4, 32, 8, 128, 50)
    layout = layout_of({name: torch.from_numpy(values) for name, values in state.items()})
    told = {spec.name: (spec.kind, spec.shape, spec.orientation) for spec in layout.matrices}
    assert told == {
        "embed.W_E": ("embedding", (32, 50), "in_out"),
        "pos_embed.W_pos": ("embedding", (32, 5), "in_out"),
        "unembed.W_U": ("unembedding", (50, 32), "in_out"),
        "blocks.0.attn.W_O": ("attention.output", (32, 32), "in_out"),
        "blocks.0.mlp.W_in": ("mlp.up", (128, 32), "in_out"),
        "blocks.0.mlp.W_out": ("mlp.down", (32, 128), "in_out"),
        "blocks.0.attn.W_Q": ("attention.query", (32, 32), "in_out"),
        "blocks.0.attn.W_K": ("attention.key", (32, 32), "in_out"),
        "blocks.0.attn.W_V": ("attention.value", (32, 32), "in_out"),
    }
    assert all("a bias" in listed.reason for listed in layout.unmeasured)
    old = grokking(4, 32, 8, 128, 50)
    layout = layout_of({name: torch.from_numpy(values) for name, values in old.items()})
    turned = {spec.name for spec in layout.matrices if spec.orientation == "in_out"}
    assert turned == {"unembed.W_U", "pos_embed.W_pos"}


@given(f=SIZE, v=SIZE, h=st.sampled_from([2, 4]))
@PROPERTY
def test_a_checkpoint_of_equal_sizes_follows_the_tensors_that_tell(f: int, v: int, h: int) -> None:
    """d_head = d and vocab = d say nothing; W_in (d, f) does, for all."""
    d = 8
    assume(f != d)
    for make, forward in CODES.values():
        state = make(h, d, d, f, d)
        tensors = {name: torch.from_numpy(values) for name, values in state.items()}
        ours = matrices(layout_of(tensors), tensors)
        x = np.random.default_rng(2).normal(size=d)
        expected = forward(state, x, np.zeros((h, d)), np.zeros(f), 0)
        for name in ("blocks.0.attn.W_Q", "blocks.0.attn.W_V", "unembed.W_U"):
            np.testing.assert_allclose(ours[name] @ x, expected[name], err_msg=name)
        np.testing.assert_array_equal(ours["embed.W_E"][:, 0], expected["embed.W_E"])


def test_grouped_keys_flattened_projections_and_einsum_layouts() -> None:
    r = np.random.default_rng(3).normal
    x = r(size=8)
    grouped = {"blocks.0.attn.W_Q": r(size=(4, 8, 3)), "blocks.0.attn._W_K": r(size=(2, 8, 3))}
    flat = {
        "blocks.0.attn.W_Q": r(size=(8, 12)),
        "blocks.0.attn.W_K": r(size=(8, 12)),
        "blocks.0.attn.W_O": r(size=(12, 8)),
    }
    einsum = {
        "layers.0.attn.W_Q": r(size=(8, 4, 3)),
        "layers.0.attn.W_K": r(size=(8, 2, 3)),
        "layers.0.attn.W_O": r(size=(4, 3, 8)),
    }
    for state, name, expected, kind in (
        (grouped, "blocks.0.attn._W_K", np.einsum("d,hde->he", x, grouped["blocks.0.attn._W_K"]), "attention.key"),
        (flat, "blocks.0.attn.W_Q", x @ flat["blocks.0.attn.W_Q"], "attention.query"),
        (einsum, "layers.0.attn.W_Q", np.einsum("d,dhe->he", x, einsum["layers.0.attn.W_Q"]), "attention.query"),
    ):
        state = state | {"embed.W_E": r(size=(50, 8)), "unembed.W_U": r(size=(8, 50))}
        tensors = {tensor: torch.from_numpy(values) for tensor, values in state.items()}
        layout = layout_of(tensors)
        np.testing.assert_allclose(matrices(layout, tensors)[name] @ x, expected.ravel())
        assert {spec.kind for spec in layout.matrices if spec.name == name} == {kind}


def test_a_bias_tells_which_axis_of_a_bare_parameter_is_the_output() -> None:
    """A sparse autoencoder: x @ W_enc + b_enc; and a hand-written net with W_in (out, in)."""
    state = {
        "W_enc": torch.randn(8, 32),
        "b_enc": torch.randn(32),
        "W_dec": torch.randn(32, 8),
        "b_dec": torch.randn(8),
    }
    told = {spec.name: (spec.shape, spec.orientation) for spec in layout_of(state).matrices}
    assert told == {"W_enc": ((32, 8), "in_out"), "W_dec": ((8, 32), "in_out")}
    plain = {"W_in": torch.randn(32, 8), "b_in": torch.randn(32), "W_rec": torch.randn(32, 32)}
    assert {spec.orientation for spec in layout_of(plain).matrices} == {"out_in"}


@pytest.mark.parametrize("code", CODES)
def test_circuits_of_heads_are_told_by_the_projections_shape(code: str) -> None:
    state = CODES[code][0](2, 8, 3, 16, 20)
    tensors = {name: torch.from_numpy(values) for name, values in state.items()}
    layout = layout_of(tensors)
    found = {spec.name: spec for spec in circuits(layout, {})}
    assert len(found) == 4
    w_v, w_o = state["blocks.0.attn.W_V"], state["blocks.0.attn.W_O"]
    expected = (w_v[1] @ w_o[1]).T if code == "TransformerLens" else w_o[:, 3:] @ w_v[1]
    np.testing.assert_allclose(matrix(found["blocks.0.attn.ov.head1"].recipe, tensors), expected)


def test_the_router_of_hooked_experts_is_no_gate() -> None:
    state = {"blocks.0.mlp.W_gate": torch.randn(8, 4), "embed.W_E": torch.randn(50, 8)}
    state |= {f"blocks.0.mlp.experts.{e}.{w}.weight": torch.randn(6, 8) for e in range(4) for w in ("W_in", "W_gate")}
    kinds = {spec.name: spec.kind for spec in layout_of(state).matrices}
    assert kinds["blocks.0.mlp.W_gate"] == "router"
    assert kinds["blocks.0.mlp.experts.2.W_in"] == "expert.up"
