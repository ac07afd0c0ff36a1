"""Draws by the condensed problems: many bases at once, each draw as by the dense Gram, and nothing unproven kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzers.linalg import condensed_pairs, coordinate_null
from analyzers.linalg.coordinate_null import Null, coordinate_nulls, draw_updates
from analyzers.linalg.haar import null_similarities


def generators(count: int, seed: int = 5) -> list[np.random.Generator]:
    return [np.random.default_rng((seed, draw)) for draw in range(count)]


def null(power: float, tau: list[float], shape: tuple[int, int], draws: int = 4, unit: float = 1.0) -> Null:
    sigma = unit * np.arange(1, min(shape) + 1) ** -power
    return Null(sigma, unit * np.array(tau), shape, generators(draws))


def dense(of: Null, k: int) -> np.ndarray:
    drawn = generators(len(of.generators))
    return np.stack([null_similarities(of.sigma_base, of.strengths, of.shape, k, each) for each in drawn])


def test_nulls_of_several_bases_shapes_and_units_are_drawn_together_each_as_alone() -> None:
    def nulls() -> list[Null]:
        return [
            null(0.5, [0.5, 0.2], (150, 150)),
            null(0.2, [2.0, 1.0], (150, 400), unit=1e40),
            null(0.5, [0.5, 0.4, 0.3], (150, 150)),  # another rank
            null(1.0, [0.01, 0.001], (400, 150), 2, unit=1e-40),
            null(0.5, [0.5, 0.2], (160, 200)),
        ]

    for (scores, proven), each in zip(coordinate_nulls(nulls(), 5), nulls(), strict=True):
        assert proven.all()
        np.testing.assert_allclose(scores, dense(each, 5), atol=1e-5)


@pytest.mark.parametrize("rank", [20, 35])
def test_many_directions_above_the_base_take_more_steps_and_no_other_method(
    rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinate_null, "_by_iteration", None)  # it would fail
    strong = null(0.5, np.linspace(0.6, 0.3, rank).tolist(), (300, 300), 2)
    [(scores, proven)] = coordinate_nulls([strong], 6)
    assert proven.all()
    np.testing.assert_allclose(scores, dense(strong, 6), atol=1e-4)


def test_above_the_greatest_rank_the_iteration_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinate_null, "MOST", 1)
    thin = null(0.5, [0.5, 0.2], (150, 150), 2)
    [(scores, proven)] = coordinate_nulls([thin], 5)
    assert proven.all()
    np.testing.assert_allclose(scores, dense(thin, 5), atol=1e-5)


@pytest.mark.parametrize("kind", ["flat", "rank 3", "two values"])
def test_bases_without_gaps_have_no_wrong_proof(kind: str) -> None:
    p = 144
    sigma = np.ones(p)
    if kind == "rank 3":
        sigma[3:] = 0.0
    if kind == "two values":
        sigma[7:] = 0.5
    of = Null(sigma, np.array([0.9, 0.3]), (p, p), generators(3))
    updates = draw_updates([(of, draw) for draw in range(3)])
    scores, proven = condensed_pairs.condensed_scores(updates, 5, 1e-6)
    inside = updates.sigma[:, :, None] * updates.inside.mT
    short = (updates.strengths[:, :, None] * updates.own).mT
    mixed = inside + short / 2
    gram = mixed @ short.mT + short @ mixed.mT + torch.diag(torch.from_numpy(sigma**2))
    values, vectors = torch.linalg.eigh(gram)
    alone = (values[:, -5:] - values[:, -6:-1]).amin(dim=1) > 1e-3  # else a vector is not determined
    right = vectors[:, :, -5:].flip(2).abs().amax(dim=1)
    for draw in (proven & alone).nonzero().flatten().tolist():
        np.testing.assert_allclose(scores[draw, 1], right[draw], atol=1e-4)


@given(st.integers(0, 10_000), st.integers(1, 16), st.floats(-2, 1), st.floats(0.05, 1.5))
@settings(max_examples=15, deadline=None)
def test_a_proven_draw_is_that_of_the_dense_gram(seed: int, rank: int, log_size: float, power: float) -> None:
    draw = np.random.default_rng(seed)
    sigma = np.arange(1, 161) ** -power * np.exp(0.01 * draw.standard_normal(160)).cumprod()
    sigma = np.sort(sigma)[::-1].copy()
    tau = np.sort(10.0**log_size * draw.uniform(0.3, 1.0, rank))[::-1].copy()
    of = Null(sigma, tau, (160, 160), generators(2))
    updates = draw_updates([(of, 0), (of, 1)])
    scores, proven = condensed_pairs.condensed_scores(updates, 4, 1e-6)
    expected = dense(of, 4)[:, ::1]
    close = np.abs(scores.numpy() - expected) < 1e-4
    assert close[proven.numpy()].mean() > 0.97 if bool(proven.any()) else True  # a near tie may turn a pair of vectors


def test_a_leading_vector_that_was_not_found_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    strong = null(0.1, [5.0, 4.0], (150, 150), 2)
    updates = draw_updates([(strong, 0), (strong, 1)])
    refined = condensed_pairs._refined

    def blind(rows: condensed_pairs._Rows, now: condensed_pairs._State) -> condensed_pairs._State:
        """All but the first pair."""
        state = refined(rows, now)
        ritz = condensed_pairs._Ritz(state.ritz.values[:, 1:], state.ritz.seen[:, :, 1:], state.ritz.turn[:, :, 1:])
        return condensed_pairs._State(ritz, state.low, state.found[:, 1:], state.residual[:, 1:], state.anew[:, 1:])

    assert bool(condensed_pairs.condensed_scores(updates, 4, 1e-2)[1].all())
    monkeypatch.setattr(condensed_pairs, "_refined", blind)
    monkeypatch.setattr(condensed_pairs, "_STEPS", 1)
    assert not bool(condensed_pairs.condensed_scores(updates, 4, 1e-2)[1].any())
