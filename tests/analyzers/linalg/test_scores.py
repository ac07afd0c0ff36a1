"""Scores, their bounds and their chance, against plain SVDs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from analyzers.linalg.lowrank_update import leading_triplets, spectrum_gap, top_eigenvectors
from analyzers.linalg.scores import ScoredSide, chance_similarity, scores_together, side_scores
from analyzers.linalg.subspaces import base_vectors


def random(m: int, n: int, seed: int) -> torch.Tensor:
    return torch.randn(m, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(40, 40), (70, 30), (30, 70), (1, 9), (9, 1), (1, 1)])
def test_leading_triplets_are_those_of_the_svd(shape: tuple[int, int]) -> None:
    w = random(*shape, seed=1)
    top = leading_triplets(w, 5)
    u, sigma, vh = torch.linalg.svd(w, full_matrices=False)
    k = min(5, *shape)
    torch.testing.assert_close(top.sigma, sigma[:k], rtol=1e-13, atol=0)
    for ours, theirs in ((top.left, u[:, :k]), (top.right, vh[:k].T)):
        torch.testing.assert_close(
            (ours * theirs).sum(dim=0).abs(), torch.ones(k, dtype=torch.float64), atol=1e-12, rtol=0
        )
    assert (top.following is None) == (k == min(shape))
    if top.following is not None:
        assert top.following == pytest.approx(float(sigma[k]), rel=1e-10)
    assert float(top.residual.max()) < 1e-12


def test_a_spectrum_too_steep_for_the_gram_falls_back_to_the_svd() -> None:
    u, v = (torch.linalg.qr(random(50, 50, seed)).Q for seed in (1, 2))
    sigma = torch.logspace(0, -13, 50, dtype=torch.float64)
    w = u * sigma @ v.T
    top = leading_triplets(w, 40)
    # √ε σ1 = 1.5e-8 is where a Gram loses σ altogether: the 30th is 2e-8, the 40th 4e-11
    torch.testing.assert_close(top.sigma, sigma[:40], rtol=1e-3, atol=1e-15)
    assert float((top.left.T @ u[:, :40]).abs().diagonal()[:38].min()) > 0.999


def test_vectors_that_the_gram_blurs_without_disordering_them_are_found_blurred_and_taken_from_the_svd() -> None:
    u, v = (torch.linalg.qr(random(50, 50, seed)).Q for seed in (1, 2))
    sigma = torch.logspace(0, -12, 50, dtype=torch.float64)
    top = leading_triplets(u * sigma @ v.T, 25)
    # σ_25 = 1e-6 σ1: eigenvalues are 1e-12 λ1, so the Gram's vectors are good to 1e-4, an SVD's to ε σ1/gap = 5e-10
    assert float((top.left.T @ u[:, :25]).abs().diagonal().min()) > 1 - 1e-15 * 50
    assert float((top.left - u[:, :25] * (top.left * u[:, :25]).sum(dim=0).sign()).norm(dim=0).max()) < 1e-8


def test_top_eigenvectors_are_the_last_ones_in_descending_order() -> None:
    symmetric = random(30, 30, 3)
    symmetric = symmetric + symmetric.T
    values, vectors = torch.linalg.eigh(symmetric)
    top_values, top_vectors = top_eigenvectors(symmetric.clone(), 4)
    torch.testing.assert_close(top_values, values.flip(0)[:4])
    assert float((top_vectors.T @ vectors.flip(1)[:, :4]).abs().diagonal().min()) > 1 - 1e-12


def test_the_gap_sees_both_neighbours_and_zero_where_the_matrix_is_not_square() -> None:
    sigma = torch.tensor([5.0, 4.0, 1.0], dtype=torch.float64)
    assert spectrum_gap(sigma, (3, 3)).tolist() == [1.0, 1.0, 2.0]
    assert spectrum_gap(sigma, (3, 4)).tolist() == [1.0, 1.0, 1.0]
    assert spectrum_gap(sigma, (9, 9), following=0.9).tolist() == [1.0, 1.0, pytest.approx(0.1)]
    assert spectrum_gap(sigma[:1], (1, 1)).tolist() == [10.0]


@pytest.mark.parametrize("shape", [(40, 40), (70, 30), (30, 70)])
def test_the_error_bound_covers_an_svd_in_single_precision(shape: tuple[int, int]) -> None:
    # A float32 SVD is wrong by ~1e-6: the measured residual must turn into a bound above what it moves the scores by.
    w0, w = random(*shape, seed=4), random(*shape, seed=5)
    base = base_vectors(w0, torch.float64)
    exact = leading_triplets(w, 6)
    u, sigma, vh = (part.double() for part in torch.linalg.svd(w.float(), full_matrices=False))
    left, right, sigma = u[:, :6] / u[:, :6].norm(dim=0), vh[:6].T / vh[:6].T.norm(dim=0), sigma[:6]
    residual = torch.hypot((w @ right - left * sigma).norm(dim=0), (w.T @ left - right * sigma).norm(dim=0))
    rough = type(exact)(left, sigma, right, exact.following, residual)
    for side in range(2):
        moved = (side_scores(base, rough, side).similarity - side_scores(base, exact, side).similarity).abs()
        bound = side_scores(base, rough, side).error
        assert bool((moved <= bound).all())
        assert float(bound.max()) < 1e-3  # and is of use
        assert float(side_scores(base, exact, side).error.max()) < 1e-10


def test_the_window_gathers_a_cluster_that_single_cosines_miss() -> None:
    # σ⁰ = 1.000, 1.0001, … : single base vectors are arbitrary there, and a rotation inside them is no intruder.
    d = 12
    sigma = torch.ones(d, dtype=torch.float64)
    sigma[:4] = torch.tensor([5.0, 4.998, 4.996, 4.994])
    base = base_vectors(torch.diag(sigma), torch.float64)
    rotation = torch.eye(d, dtype=torch.float64)
    rotation[:4, :4] = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
    tuned = rotation @ torch.diag(sigma + torch.tensor([0.4, 0.3, 0.2, 0.1] + [0.0] * 8))
    scores = side_scores(base, leading_triplets(tuned, 4), 0)
    torch.testing.assert_close(scores.similarity, torch.full((4,), 0.5, dtype=torch.float64))
    torch.testing.assert_close(scores.window, torch.ones(4, dtype=torch.float64))
    assert scores.window_size.tolist() == [4, 4, 4, 4]


def test_vectors_of_the_null_space_of_the_base_leave_a_score_undetermined() -> None:
    # W0 has rank 5 of 20. u_1 of W lies in its null space, where the SVD's basis is arbitrary: any score up to 1.
    u, v = (torch.linalg.qr(random(20, 20, seed)).Q for seed in (6, 7))
    w0 = u[:, :5] * torch.arange(5, 0, -1, dtype=torch.float64) @ v[:, :5].T
    direction = u[:, 10:14].sum(dim=1) / 2
    tuned = w0 + 50 * direction[:, None] * v[:, 0]
    scores = side_scores(base_vectors(w0, torch.float64), leading_triplets(tuned, 2), 0)
    assert float(scores.similarity[0] - scores.error[0]) < 0.2
    assert float(scores.similarity[0] + scores.error[0]) > 0.99


@pytest.mark.parametrize(
    ("shape", "side", "anchor"),
    [((384, 384), 0, 0.163), ((1536, 384), 0, 0.081), ((4096, 4096), 0, 0.059), ((11008, 4096), 0, 0.036)],
)
def test_chance_similarity_meets_the_published_anchors(shape: tuple[int, int], side: int, anchor: float) -> None:
    # the anchors are means of simulations, given to two or three digits
    assert chance_similarity(shape[side], min(shape)) == pytest.approx(anchor, rel=0.015)


@pytest.mark.parametrize(("dimension", "count"), [(384, 384), (60, 20), (5, 5), (3, 1)])
def test_chance_similarity_is_the_mean_of_random_vectors(dimension: int, count: int) -> None:
    vectors = np.random.default_rng(0).standard_normal((20000, dimension))
    scores = np.abs(vectors[:, :count]).max(axis=1) / np.linalg.norm(vectors, axis=1)
    error = scores.std() / np.sqrt(scores.size)
    assert chance_similarity(dimension, count) == pytest.approx(scores.mean(), abs=4 * error)


def test_chance_similarity_of_one_dimension_is_one_and_of_none_an_error() -> None:
    assert chance_similarity(1, 1) == pytest.approx(1.0, abs=1e-9)
    with pytest.raises(ValueError, match="count=3, dimension=2"):
        chance_similarity(2, 3)


def test_a_cluster_does_not_lose_eigenvectors_that_were_asked_for() -> None:
    # 1, 1, … and two above: of several of these LAPACK's subset driver returns none to three of the five asked for
    for seed in (0, 4, 6, 13, 22):
        draw = torch.Generator().manual_seed(seed)
        x = torch.linalg.qr(torch.randn(150, 2, dtype=torch.float64, generator=draw))[0]
        symmetric = torch.eye(150, dtype=torch.float64) + x @ torch.diag(torch.tensor([0.8, 1.2]).double()) @ x.T
        symmetric = (symmetric + symmetric.T) / 2
        values, vectors = top_eigenvectors(symmetric.clone(), 5)
        assert values.shape == (5,) and vectors.shape == (150, 5)
        assert float((symmetric @ vectors - vectors * values).norm()) < 1e-12


@pytest.mark.parametrize("shape", [(48, 32), (32, 48), (30, 30)])
@pytest.mark.parametrize("side", [0, 1])
def test_sides_scored_together_have_the_bits_that_each_has_alone(shape: tuple[int, int], side: int) -> None:
    sides = []
    for seed in range(7):
        w0 = random(*shape, seed).float()
        if seed == 3:  # a cluster of equal σ, whose vectors are taken together
            w0 = torch.linalg.qr(w0 if shape[0] >= shape[1] else w0.T).Q.reshape(shape)
        base = base_vectors(w0)
        top = leading_triplets(w0.double() + 0.05 * random(*shape, 100 + seed), 10)
        sides.append(ScoredSide(base, top, side, 1e-5 * seed, 1e-6))
    assert len({one.alike for one in sides}) == 1
    for one, scores in zip(sides, scores_together(sides), strict=True):
        alone = side_scores(one.base, one.top, side, one.rounding, one.base_rounding)
        for field in alone.__dataclass_fields__:
            assert torch.equal(getattr(scores, field), getattr(alone, field)), field
