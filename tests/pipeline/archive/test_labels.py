"""A matrix whose name is a number gets a label from its position and shape; its name stays what it was."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.archive.labels import labelled, labels
from tests.pipeline.archive.tiny import PROPERTY, layout_of


def test_layers_of_a_sequential_are_counted_by_what_they_are() -> None:
    conv, linear = torch.nn.Conv2d, torch.nn.Linear
    layers = [conv(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), conv(4, 4, 3), torch.nn.Flatten()]
    net = torch.nn.Sequential(*layers, linear(16, 8), torch.nn.ReLU(), torch.nn.Dropout(), linear(8, 2))
    layout = layout_of(net.state_dict())
    assert [spec.name for spec in layout.matrices] == ["0", "3", "5", "8"]
    assert labels(layout.matrices) == {"0": "conv 1", "3": "conv 2", "5": "linear 1", "8": "linear 2"}


def test_numbers_are_ordered_as_numbers_and_lists_counted_apart() -> None:
    kernels = {f"features.{at}.weight": torch.zeros(4, 3, 3, 3) for at in (0, 10, 2)}
    state = kernels | {"classifier.1.weight": torch.zeros(4, 4), "net.0.fc1.weight": torch.zeros(4, 4)}
    assert labels(layout_of(state).matrices) == {
        "features.0": "features conv 1",
        "features.2": "features conv 2",
        "features.10": "features conv 3",
        "classifier.1": "classifier linear 1",
    }


@PROPERTY
@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), unique_by=lambda layer: layer[0], min_size=1))
def test_labels_are_unique_and_follow_the_order_of_the_layers(layers: list[tuple[int, bool]]) -> None:
    state = {f"{at}.weight": torch.zeros(4, 3, 3, 3) if is_conv else torch.zeros(4, 3) for at, is_conv in layers}
    named = labels(layout_of(state).matrices)
    convolutions = [named[str(at)] for at, is_conv in sorted(layers) if is_conv]
    assert convolutions == [f"conv {position}" for position in range(1, len(convolutions) + 1)]
    assert len(set(named.values())) == len(layers)


def test_a_name_without_a_label_stays_as_it_is() -> None:
    assert labelled("12", "linear 2") == "12 (linear 2)"
    assert labelled("lm_head", None) == "lm_head"
