"""Certificates hold on the spectra where single vectors mean least: clusters, null spaces, steep and flat ones.

Where W0 has equal σ⁰ its SVD is not unique. A score's error must then reach every valid one, so the oracle here is not
one factorization but any: the exact vectors turned inside each cluster.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from analyzers.linalg.blocks import dense64
from analyzers.linalg.haar import null_similarities
from analyzers.linalg.haar_iteration import iterated_scores, start_width
from analyzers.linalg.lowrank_update import TopVectors, leading_triplets, top_vectors
from analyzers.linalg.scores import side_scores
from analyzers.linalg.spectra import singular_values
from analyzers.linalg.subspaces import BaseVectors, base_vectors
from tests.analyzers.linalg.adapters import Case, cases

K = 5
SHAPES = st.sampled_from([(24, 24), (40, 22), (22, 40)])


def random(m: int, n: int, seed: int) -> torch.Tensor:
    return torch.randn(m, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def frame(d: int, p: int, seed: int) -> torch.Tensor:
    return torch.linalg.qr(random(d, p, seed)).Q


def clustered(p: int, decades: int, width: int, zeros: int) -> torch.Tensor:
    """σ⁰ (p,) descending: groups of `width` exactly equal values over `decades`, then `zeros` zeros."""
    groups = -(-p // width)
    sigma = torch.logspace(0, -decades, groups, dtype=torch.float64).repeat_interleave(width)[:p].clone()
    sigma[p - zeros :] = 0.0
    return sigma


def turned(base: BaseVectors, seed: int) -> BaseVectors:
    """Another SVD of the same matrix: equal σ⁰ turned together, each side of the null space for itself."""
    left, right = base.left.clone(), base.right.clone()
    for value in base.sigma.unique():
        inside = base.sigma == value
        count = int(inside.sum())
        turn = frame(count, count, seed)
        if value > 0:
            left[:, inside], right[:, inside] = left[:, inside] @ turn, right[:, inside] @ turn
        else:  # any orthonormal vectors beside the others, on a longer side in all of the room there is
            for side, vectors in enumerate((left, right)):
                drawn, others = random(len(vectors), count, seed + side), vectors[:, ~inside]
                vectors[:, inside] = torch.linalg.qr(drawn - others @ (others.T @ drawn)).Q
    return BaseVectors(left, base.sigma, right)


@given(
    SHAPES, st.integers(0, 14), st.sampled_from([1, 2, 4, 30]), st.sampled_from([0, 1, 6]),
    st.sampled_from([1e-3, 0.3, 5.0]), st.integers(0, 10_000),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_no_valid_svd_of_the_base_scores_outside_the_certificate(
    shape: tuple[int, int], decades: int, width: int, zeros: int, size: float, seed: int
) -> None:
    m, n = shape
    p = min(shape)
    exact = BaseVectors(frame(m, p, seed), clustered(p, decades, width, zeros), frame(n, p, seed + 1))
    w = (exact.left * exact.sigma) @ exact.right.T + size * random(m, 2, seed + 2) @ random(2, n, seed + 3) / (m * n)
    top = leading_triplets(w, K)
    for side in range(2):
        given_scores = side_scores(exact, top, side)
        for turn in range(2):
            other = side_scores(turned(exact, 10 * turn + seed), top, side)
            # the same u_j on both sides: only the base's vectors differ, so only their part of the error may be used
            moved = (other.similarity - given_scores.similarity).abs()
            assert bool((moved <= given_scores.error + 1e-9).all())
            settled = given_scores.window_size == (exact.sigma[:, None] == given_scores.sigma_match).sum(dim=0)
            same = other.sigma_match == given_scores.sigma_match
            # a window that is a cluster does not depend on the basis inside it (σ⁰ = 0 has no window: .02 σ⁰ is 0)
            chosen = settled & same & (given_scores.sigma_match > 0)
            assert float((other.window - given_scores.window)[chosen].abs().max() if chosen.any() else 0.0) < 1e-9


def test_a_cluster_that_does_not_win_still_makes_the_score_uncertain() -> None:
    # cosines .5 with a lone vector, .45 with each of a pair: in another basis of the pair .64 with one of them
    base = BaseVectors(torch.eye(6).double(), torch.tensor([4.0, 2, 2, 1, 0.5, 0.25]).double(), torch.eye(6).double())
    u = torch.tensor([0.5, 0.45, 0.45, 0.4, 0.3, 0.0], dtype=torch.float64)
    u /= u.norm()
    top = leading_triplets(torch.outer(u, u) * 100.0 + 1e-9 * random(6, 6, 1), 1)
    scores = side_scores(base, top, 0)
    pair = float((u[1:3] ** 2).sum().sqrt())
    assert float(scores.similarity[0]) == pytest.approx(float(u[0]), abs=1e-6)
    assert float(scores.similarity[0] + scores.error[0]) >= pair - 1e-9
    assert float(scores.error[0]) < pair - float(u[0]) + 1e-6  # and no more than that


def test_a_separated_score_of_a_partly_clustered_base_stays_decided() -> None:
    sigma = torch.cat([torch.tensor([9.0, 7.0, 5.0]), torch.full((27,), 0.5)]).double()
    base = BaseVectors(frame(30, 30, 1), sigma, frame(30, 30, 2))
    w = (base.left * sigma) @ base.right.T + 1e-2 * random(30, 30, 3)
    scores = side_scores(base, leading_triplets(w, 3), 0)
    assert float(scores.similarity.min()) > 0.99 and float(scores.error.max()) < 1e-11


@pytest.mark.parametrize("shape", [(30, 20), (20, 30), (20, 20)])
def test_what_lies_in_the_determined_part_of_a_deficient_base_stays_decided(shape: tuple[int, int]) -> None:
    m, n = shape
    sigma = torch.cat([torch.tensor([5.0, 4.0, 3.0]), torch.zeros(17)]).double()
    base = BaseVectors(frame(m, 20, 1), sigma, frame(n, 20, 2))
    block = torch.tensor([[5.0, 1.0], [1.0, 4.0]], dtype=torch.float64)
    w = base.left[:, :2] @ block @ base.right[:, :2].T
    for side in range(2):
        scores = side_scores(base, leading_triplets(w, 2), side)
        assert float(scores.similarity.max()) < 0.95 and float(scores.error.max()) < 1e-6


@example(Case((20, 20), 1, "clustered", "random", 0, 0), torch.float64)  # a near neighbour below, a far one above
@given(cases(least=20, most=40), st.sampled_from([torch.float64, torch.float32]))
@settings(max_examples=60, deadline=None)
def test_dense_scores_are_within_their_certificate_of_a_full_svd(case: Case, dtype: torch.dtype) -> None:
    w0, _, delta = case.build()
    stored, reference = dense64(w0 + delta.dense()).to(dtype), w0.to(dtype)
    base = base_vectors(reference)
    if float(base.sigma[0]) == 0.0 or not bool(stored.any()):
        return
    top = top_vectors(stored, reference, base, K)
    sides = np.linalg.svd(stored.double().numpy(), full_matrices=False)
    plain = np.linalg.svd(reference.double().numpy(), full_matrices=False)
    np.testing.assert_allclose(top.sigma.numpy(), sides[1][:K], rtol=0, atol=1e-11 * sides[1][0])
    for side, (before, after) in enumerate(((plain[0], sides[0]), (plain[2].T, sides[2].T))):
        scores = side_scores(base, top, side)
        expected = np.abs(before.T @ after[:, :K]).max(axis=0)
        # 2e-7: the null space of a float32 base's vectors, √(1 − Σ cos²) of cosines that are rounded to 6e-8
        assert (np.abs(scores.similarity.numpy() - expected) <= scores.error.numpy() + 2e-7).all()


@given(cases(least=17, most=60), st.sampled_from([torch.float64, torch.float32, torch.bfloat16]))
@settings(max_examples=60, deadline=None)
def test_sigma_are_those_of_a_float64_svd_whatever_the_spectrum(case: Case, dtype: torch.dtype) -> None:
    w0, _, delta = case.build()
    stored = (w0 + delta.dense()).to(dtype)
    wanted = np.linalg.svd(stored.double().numpy(), compute_uv=False)
    np.testing.assert_allclose(singular_values(stored).sigma.numpy(), wanted, rtol=0, atol=1e-10 * wanted[0] + 1e-300)
    of_factors = singular_values(delta).sigma.numpy()
    expanded = np.linalg.svd(delta.dense().numpy(), compute_uv=False)
    # an expanded product is itself rounded: r ε of what its terms had, which cancelling columns do not have any more
    terms = abs(delta.scale) * float(delta.b.norm() * delta.a.norm())
    np.testing.assert_allclose(of_factors, expanded[: of_factors.size], rtol=0, atol=1e-13 * terms)


@given(
    st.sampled_from(["steep", "clustered", "deficient", "power"]), st.sampled_from([0.01, 0.1, 0.6]),
    st.sampled_from([1e-12, 1.0, 1e12]), st.integers(0, 10_000),
)  # fmt: skip
@settings(max_examples=12, deadline=None)
def test_a_draw_that_an_iteration_proves_is_the_draw_itself(kind: str, size: float, scale: float, seed: int) -> None:
    p = 60
    sigma = scale * Case((p, p), 1, kind, "random", 6, seed)._sigma(p, np.random.default_rng(seed))
    strengths = scale * size * np.linspace(1.0, 0.2, p)
    scores, proved = iterated_scores(sigma, strengths, 90, 3, 16, np.random.default_rng(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("analyzers.linalg.haar_iteration._proved", lambda *_: False)
        whole, enough = iterated_scores(sigma, strengths, 90, 3, 16, np.random.default_rng(seed))
    assert not enough
    if proved:  # the same answers to the same questions; where leading values meet, vectors turn by residual over gap
        np.testing.assert_allclose(scores, whole, atol=1e-5)


def test_nulls_do_not_depend_on_the_units_of_the_weights() -> None:
    sigma, tau = np.arange(1, 41) ** -0.5, np.array([0.8, 0.3])
    one = null_similarities(sigma, tau, (60, 40), 4, np.random.default_rng(3))
    for power in (-40, 40):  # powers of two: exactly
        scaled = null_similarities(2.0**power * sigma, 2.0**power * tau, (60, 40), 4, np.random.default_rng(3))
        np.testing.assert_allclose(scaled, one, rtol=1e-12)
        assert start_width(2.0**power * np.geomspace(1, 1e-3, 600), 2.0**power * 1e-3, 4) == start_width(
            np.geomspace(1, 1e-3, 600), 1e-3, 4
        )


@pytest.mark.parametrize("angle", [1e-6, 1e-3])
def test_the_bound_of_a_turned_vector_is_within_twice_its_truth(angle: float) -> None:
    # u and v turned together towards their neighbour: ‖r‖ = √2 θ (σ1 − σ2), so the bound says 2 θ, and θ is the truth
    sigma = torch.tensor([1.0, 0.9, 0.3, 0.1], dtype=torch.float64)
    w = torch.diag(sigma)
    u = torch.tensor([[np.cos(angle)], [np.sin(angle)], [0.0], [0.0]], dtype=torch.float64)
    value = (u.T @ w @ u).squeeze()[None]
    residual = 2**0.5 * (w @ u - value * u).norm(dim=0)
    top = TopVectors(u, value, u, 0.9, residual)
    # against base vectors at 60° in the plane of the turn: |cos| moves by sin(60°) of the angle
    turn = torch.eye(4, dtype=torch.float64)
    turn[:2, :2] = torch.tensor([[0.5, -(0.75**0.5)], [0.75**0.5, 0.5]], dtype=torch.float64)
    base = BaseVectors(turn, torch.tensor([4.0, 3.0, 2.0, 1.0]).double(), turn)
    scores = side_scores(base, top, 0)
    moved = abs(float(scores.similarity[0]) - 0.75**0.5)
    assert 0.2 * float(scores.error[0]) <= moved <= float(scores.error[0])
    assert float(scores.error[0]) == pytest.approx(2 * angle, rel=0.01)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_a_window_is_two_percent_of_the_matched_sigma_in_any_units(scale: float) -> None:
    sigma = scale * torch.tensor([5.0, 4.95, 4.85, 1.0, 0.5, 0.1], dtype=torch.float64)
    base = BaseVectors(torch.eye(6).double(), sigma, torch.eye(6).double())
    u = torch.tensor([0.6, 0.5, 0.4, 0.2, 0.0, 0.0], dtype=torch.float64)
    u /= u.norm()
    scores = side_scores(base, leading_triplets(9 * scale * torch.outer(u, u) + scale * 1e-9 * random(6, 6, 1), 1), 0)
    assert scores.window_size.tolist() == [2]  # 4.85 is 3 % below
    assert float(scores.window[0]) == pytest.approx(float(u[:2].norm()), abs=1e-7)
