"""Pathways and their distances, done on paper for three experts and two layers, and what must hold for any."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzers.pathway_metrics.edit_distance import all_pairs
from analyzers.pathway_metrics.pathways import Pathways, normalised, pathways_of, routing_entropy

# Three samples, two layers, three experts. At .7:
#   a: layer 0: .5 + .3 reaches .8 → 0, 1;  layer 1: .8 → 2       → (0,0) (0,1) (1,2) → tokens 0 1 5
#   b: layer 0: .7 exactly          → 1;     layer 1: .4 .4 (tie: smaller id first) → 0, 1 → tokens 1 3 4
#   c: as a, but the experts of layer 1 exchanged: .8 → 0         → tokens 0 1 3
WEIGHT = np.array(
    [
        [[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]],
        [[0.2, 0.7, 0.1], [0.4, 0.4, 0.2]],
        [[0.5, 0.3, 0.2], [0.8, 0.1, 0.1]],
    ]
)


def lists(pathways: Pathways) -> list[list[int]]:
    return [row[:length].tolist() for row, length in zip(pathways.tokens, pathways.lengths, strict=True)]


def test_pathways_done_on_paper() -> None:
    assert lists(pathways_of(WEIGHT, 0.7)) == [[0, 1, 5], [1, 3, 4], [0, 1, 3]]
    assert lists(pathways_of(WEIGHT, 0.5)) == [[0, 5], [1, 3, 4], [0, 3]]
    assert lists(pathways_of(WEIGHT, 0.7, top_k=1)) == [[0, 5], [1, 3], [0, 3]]


def test_distances_done_on_paper() -> None:
    # a–b: delete 0, keep 1, 5 → 3, insert 4: three edits; a–c: one exchange; b–c: insert 0, keep 1 3, delete 4: two.
    expected = [[0, 3, 1], [3, 0, 2], [1, 2, 0]]
    assert all_pairs(pathways_of(WEIGHT, 0.7)).tolist() == expected


def test_the_same_expert_number_in_another_layer_is_another_expert() -> None:
    one = np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])  # experts 0, 1 and experts 1, 0
    assert all_pairs(pathways_of(one, 0.7))[0, 1] == 2


def test_weights_are_normalised_before_they_are_cut() -> None:
    """Applied weights of one layer need not sum to 1: DeepSeek scales them, OLMoE leaves them as they are."""
    assert lists(pathways_of(WEIGHT * 2.5, 0.7)) == lists(pathways_of(WEIGHT, 0.7))
    assert lists(pathways_of(WEIGHT * 0.3, 0.7)) == lists(pathways_of(WEIGHT, 0.7))


def test_entropy_is_one_for_uniform_routing_and_zero_for_one_expert() -> None:
    weight = np.array([[[0.25] * 4, [0.0, 1.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0], [0.0] * 4]])
    found = routing_entropy(weight, np.array([4, 4, 2, 4]))
    np.testing.assert_allclose(found[0, :3], [1, 0, 1])
    assert np.isnan(found[0, 3])  # nothing was routed


WEIGHTS = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).dirichlet([0.4] * 5, size=(7, 3)))


@given(WEIGHTS, st.integers(0, 2**32 - 1), st.sampled_from([0.5, 0.6, 0.7, 0.8]))
@settings(max_examples=40, deadline=None)
def test_permuting_the_experts_within_a_layer_changes_no_distance(weight: np.ndarray, seed: int, cut: float) -> None:
    draw = np.random.default_rng(seed)
    permuted = np.stack([weight[:, layer, draw.permutation(5)] for layer in range(3)], axis=1)
    np.testing.assert_array_equal(all_pairs(pathways_of(permuted, cut)), all_pairs(pathways_of(weight, cut)))


@given(WEIGHTS)
@settings(max_examples=20, deadline=None)
def test_a_duplicated_sample_has_distance_zero_to_its_twin_and_the_same_to_all_others(weight: np.ndarray) -> None:
    square = all_pairs(pathways_of(np.concatenate([weight, weight[:1]]), 0.7))
    assert square[0, -1] == 0
    np.testing.assert_array_equal(square[0, :-1], square[-1, :-1])
    np.testing.assert_array_equal(square, square.T)


@given(WEIGHTS, st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_a_higher_threshold_lengthens_each_pathway_and_keeps_what_was_in_it(weight: np.ndarray, seed: int) -> None:
    short, long = lists(pathways_of(weight, 0.5)), lists(pathways_of(weight, 0.8))
    assert all(set(a) <= set(b) for a, b in zip(short, long, strict=True))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_threshold_that_weights_reach_exactly_is_reached_in_either_precision(dtype: type) -> None:
    """.1 added seven times falls short of .7 in floating point, and the eighth expert does not belong."""
    weight = np.full((1, 1, 10), 0.1, dtype=dtype)
    assert pathways_of(weight, 0.7).lengths.tolist() == [7]
    assert np.allclose(normalised(weight).sum(-1), 1)
