"""Draws of the null in the base's coordinates: the same draws as the dense ones, score for score."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzers.linalg.certified_pairs import certified_pairs
from analyzers.linalg.coordinate_null import Null, as_columns, coordinate_null, draw_updates, worthwhile
from analyzers.linalg.haar import null_similarities

SHAPES = [(150, 150), (400, 150), (150, 400), (151, 150)]


def generators(count: int, seed: int = 3) -> list[np.random.Generator]:
    return [np.random.default_rng((seed, draw)) for draw in range(count)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("strength", [1e-3, 0.3, 20.0])
def test_a_proven_draw_scores_as_the_dense_gram_of_the_same_draw(shape: tuple[int, int], strength: float) -> None:
    sigma = np.arange(1, min(shape) + 1) ** -0.5
    tau = strength * np.array([1.0, 0.7, 0.69, 0.1])
    scores, proven = coordinate_null(sigma, tau, shape, 6, generators(8))
    assert proven.all()
    dense = np.stack([null_similarities(sigma, tau, shape, 6, g) for g in generators(8)])
    # Residuals of 1e-7 σ1 over gaps of some 1e-2 σ1; both sides in their places
    np.testing.assert_allclose(scores, dense, atol=1e-5)


@given(st.integers(0, 10_000), st.integers(1, 12), st.floats(-3, 1.5), st.sampled_from(SHAPES))
@settings(max_examples=25, deadline=None)
def test_what_is_proven_is_right_on_clustered_bases_too(
    seed: int, rank: int, power: float, shape: tuple[int, int]
) -> None:
    draw = np.random.default_rng(seed)
    p = min(shape)
    sigma = np.sort(np.repeat(draw.random(p // 2 + 1), 2)[:p])[::-1].copy()  # every value twice
    tau = np.sort(10.0**power * draw.random(rank))[::-1] + 1e-6
    _, proven = coordinate_null(sigma, tau, shape, 4, generators(3, seed))
    null = Null(sigma, tau, shape, generators(3, seed))
    update = as_columns(draw_updates([(null, draw) for draw in range(3)]), slice(0, 3))
    eye = torch.eye(p, dtype=torch.float64).expand(3, p, p)
    exact = torch.linalg.eigvalsh(update.gram(eye, update.mixed())).flip(1)
    found = certified_pairs(update, 4, 1e-7)
    error = (found.values - exact[:, :4]).abs() / exact[:, :1]
    assert float(error[found.proven].max() if bool(found.proven.any()) else 0.0) < 1e-7
    np.testing.assert_array_equal(proven, found.proven.numpy())


def test_more_draws_begin_with_the_fewer_to_the_iterations_tolerance_and_in_parts_as_in_one_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sigma, tau = np.linspace(2.0, 0.1, 200), np.array([0.9, 0.4])
    many, _ = coordinate_null(sigma, tau, (200, 200), 5, generators(7))
    few, _ = coordinate_null(sigma, tau, (200, 200), 5, generators(3))
    np.testing.assert_allclose(few, many[:3], atol=1e-5)
    monkeypatch.setattr("analyzers.linalg.coordinate_null._NUMBERS_AT_ONCE", 400)
    parts, proven = coordinate_null(sigma, tau, (200, 200), 5, generators(7))
    assert proven.all()
    np.testing.assert_allclose(parts, many, atol=1e-5)


def test_it_is_for_thin_updates_of_matrices_that_are_not_small() -> None:
    assert worthwhile(384, 8, 10) and worthwhile(4096, 64, 10)
    for p, rank in ((64, 2), (384, 64), (384, 0)):
        assert not worthwhile(p, rank, 10)
