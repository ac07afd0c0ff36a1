"""Weights kept as (in, out) are told by their biases and are measured as (out, in)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.pipeline.archive.tiny import PROPERTY, State, layout_of, matrices


def orientations(state: State) -> dict[str, str]:
    return {spec.recipe.tensor: spec.orientation for spec in layout_of(state).matrices}


@pytest.mark.parametrize(("weight", "bias"), [("w", "b"), ("weight", "bias"), ("W", "b"), ("weights", "biases")])
@given(st.integers(2, 9), st.integers(2, 9), st.booleans())
@PROPERTY
def test_a_bias_tells_the_outputs(weight: str, bias: str, inputs: int, outputs: int, first: bool) -> None:
    shape = (inputs, outputs) if first else (outputs, inputs)
    state = {f"mlp/linear_0.{weight}": torch.randn(shape), f"mlp/linear_0.{bias}": torch.randn(outputs)}
    layout = layout_of(state)
    (spec,) = layout.matrices
    assert spec.shape == (outputs, inputs) or inputs == outputs
    (values,) = matrices(layout, state).values()
    if inputs != outputs:
        expected = state[f"mlp/linear_0.{weight}"].double().numpy()
        assert np.array_equal(values, expected.T if first else expected)
        assert spec.orientation == ("in_out" if first else "out_in")


def test_a_square_weight_stands_as_the_other_layers_do() -> None:
    haiku = {"l0.w": torch.randn(4, 6), "l0.b": torch.randn(6), "l1.w": torch.randn(6, 6), "l1.b": torch.randn(6)}
    assert set(orientations(haiku).values()) == {"in_out"}
    mixed = {**haiku, "l2.w": torch.randn(9, 6), "l2.b": torch.randn(9)}
    assert orientations(mixed) == {"l0.w": "in_out", "l1.w": "out_in", "l2.w": "out_in"}


def test_a_square_weight_follows_layers_of_its_own_name_first() -> None:
    state = {
        "h.0.attn.c_proj.weight": torch.randn(6, 6),
        "h.0.attn.c_proj.bias": torch.randn(6),
        "h.0.mlp.c_proj.weight": torch.randn(24, 6),
        "h.0.mlp.c_proj.bias": torch.randn(6),
        "vit.fc.weight": torch.randn(8, 6),
        "vit.fc.bias": torch.randn(8),
    }
    assert orientations(state)["h.0.attn.c_proj.weight"] == "in_out"
    assert orientations(state)["vit.fc.weight"] == "out_in"


def test_a_gain_of_one_row_says_nothing_of_the_layers() -> None:
    state = {"scale.weight": torch.randn(1, 6), "scale.bias": torch.randn(6), "fc.weight": torch.randn(6, 6)}
    state["fc.bias"] = torch.randn(6)
    assert orientations(state)["fc.weight"] == "out_in"
