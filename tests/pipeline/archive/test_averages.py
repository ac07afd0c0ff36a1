"""Moving averages beside the weights are a second copy and are listed; averages alone are the model."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.pipeline.archive.tiny import PROPERTY, State, assert_accounted, layout_of

MODEL: State = {
    "model.net.0.weight": torch.randn(6, 4),
    "model.net.0.bias": torch.randn(6),
    "model.out.weight": torch.randn(3, 6),
}


def names(state: State) -> set[str]:
    layout = layout_of(state)
    assert_accounted(layout)
    return {spec.recipe.tensor for spec in layout.matrices}


@pytest.mark.parametrize("prefix", ["model_ema.", "ema.", "ema_model.", "module.model_ema.", "averaged_model."])
@pytest.mark.parametrize("dots", [True, False])
def test_averages_beside_their_weights_are_listed(prefix: str, dots: bool) -> None:
    shadow = {k.removeprefix("model."): 0.9 * t for k, t in MODEL.items()}
    averages = {prefix + (k if dots else k.replace(".", "")): t for k, t in shadow.items()}
    state = {**MODEL, **averages, f"{prefix}decay": torch.tensor(0.9)}
    assert names(state) == {"model.net.0.weight", "model.out.weight"}
    reasons = {u.tensor: u.reason for u in layout_of(state).unmeasured}
    assert all("moving average of model." in reasons[name] for name in averages)


def test_a_generator_and_its_average_are_one_network() -> None:
    state = {"G.fc.weight": torch.randn(6, 4), "D.fc.weight": torch.randn(6, 4), "G_ema.fc.weight": torch.randn(6, 4)}
    assert names(state) == {"G.fc.weight", "D.fc.weight"}


def test_averages_alone_are_the_model() -> None:
    state = {f"ema_{name}": t for name, t in MODEL.items()}
    assert names(state) == {"ema_model.net.0.weight", "ema_model.out.weight"}


@given(st.sampled_from(["schema", "lemma", "memory", "emae", "target", "cinema_net"]))
@PROPERTY
def test_a_second_network_of_another_name_is_measured(name: str) -> None:
    state = {**MODEL, **{k.replace("model.", f"{name}."): t for k, t in MODEL.items()}}
    assert len(names(state)) == 4


def test_an_average_of_other_shapes_is_a_network_of_its_own() -> None:
    state = {**MODEL, "ema.net.0.weight": torch.randn(7, 4), "ema.out.weight": torch.randn(3, 6)}
    assert len(names(state)) == 4
