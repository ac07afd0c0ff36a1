"""Adapters in their base's coordinates against a float64 SVD of the sum: scores, certificates, what is not proven."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from analyzers.contract import LowRank, Sum
from analyzers.linalg import certified_pairs, methods
from analyzers.linalg.adapter_vectors import adapter_vectors
from analyzers.linalg.base_coordinates import adapter_coordinates, compact
from analyzers.linalg.davidson import start_block
from analyzers.linalg.lowrank_update import top_vectors
from analyzers.linalg.scores import side_scores
from analyzers.linalg.subspaces import BaseVectors, base_vectors, nested_angles
from tests.analyzers.linalg.adapters import Case, cases

K = 4


def exact(w0: torch.Tensor, delta: LowRank) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    u, sigma, vh = np.linalg.svd((w0 + delta.dense()).numpy(), full_matrices=False)
    return u, sigma, vh.T


@given(cases(least=128, most=136, ranks=20))
@settings(max_examples=40, deadline=None)
def test_every_score_is_within_its_certificate_of_a_full_svd(case: Case) -> None:
    w0, base, delta = case.build()
    kept = base_vectors(w0)  # in float32, as it is cached
    if float(kept.sigma[0]) == 0:
        return
    top = top_vectors(Sum(w0, delta), w0, kept, K)
    _, sigma, _ = tuned = exact(w0, delta)
    np.testing.assert_allclose(top.sigma.numpy(), sigma[:K], atol=2e-6 * sigma[0])
    plain = np.linalg.svd(w0.numpy(), full_matrices=False)
    for side in range(2):
        scores = side_scores(kept, top, side)
        reference = plain[0] if side == 0 else plain[2].T
        expected = np.abs(reference.T @ tuned[2 * side][:, :K]).max(axis=0)
        assert (np.abs(scores.similarity.numpy() - expected) <= scores.error.numpy() + 1e-12).all()
    if top.method == methods.ADAPTER:
        error = np.sqrt(2) * top.residual.numpy()
        assert (error <= 1e-4 * top.gap.numpy()).all()
        # of the same float64 base nothing is lost to storage, and the vectors are those of the SVD to 1e-9/gap
        fine = adapter_vectors(delta, base, K)
        assert fine is not None
        for side, vectors in ((0, tuned[0]), (1, tuned[2])):
            cosine = np.abs((base.side(side).numpy().T @ vectors[:, :K] * fine.inside[side].numpy()).sum(axis=0))
            total = cosine + np.abs((fine.outside[side] ** 2).sum(dim=0).numpy())
            np.testing.assert_allclose(total, 1.0, atol=1e-5)


@given(cases(least=30, most=60))
@settings(max_examples=60, deadline=None)
def test_what_is_called_proven_are_the_leading_values_and_none_is_missed(case: Case) -> None:
    w0, base, delta = case.build()
    update = adapter_coordinates(delta, base).update
    if not update.rank:
        return
    sigma = exact(w0, delta)[1]
    found = certified_pairs.certified_pairs(update, K)
    if bool(found.proven):
        ours = found.values[0].sqrt().numpy()
        # Where factors cancel, their product rounds by ε‖B‖‖A‖, in the oracle as here.
        lost = 1e-15 * abs(delta.scale) * float(torch.linalg.norm(delta.b) * torch.linalg.norm(delta.a))
        np.testing.assert_allclose(ours, sigma[:K], atol=1e-9 * sigma[0] + lost)
        # an upper bound up to the rounding of the oracle
        assert float(found.following.sqrt()) >= sigma[K] - 1e-13 * sigma[0] - lost


@pytest.mark.parametrize("shape", [(140, 140), (300, 140), (140, 300)])
def test_ordinary_adapters_take_the_kernel_and_agree_to_the_precision_of_the_base(shape: tuple[int, int]) -> None:
    w0, base, delta = Case(shape, 6, "power", "random", 0, 1).build()
    fine, coarse = adapter_vectors(delta, base, 10), adapter_vectors(delta, base_vectors(w0), 10)
    assert fine is not None and coarse is not None
    u, sigma, v = exact(w0, delta)
    for side, vectors in ((0, u), (1, v)):
        expected = np.abs(base.side(side).numpy().T @ vectors[:, :10])
        for found, limit in ((fine, 1e-6), (coarse, 2e-5)):
            np.testing.assert_allclose(found.inside[side].abs().numpy(), expected, atol=limit)
            norm = (found.inside[side] ** 2).sum(dim=0) + (found.outside[side] ** 2).sum(dim=0)
            np.testing.assert_allclose(norm.numpy(), 1.0, atol=1e-6)
        ours = nested_angles(*fine.subspaces(base, side, 10), 10)
        theirs = nested_angles(base.side(side)[:, :10], torch.from_numpy(vectors[:, :10].copy()), 10)
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-6)
    np.testing.assert_allclose(fine.sigma.numpy(), sigma[:10], atol=1e-9)
    assert sigma[10] - 1e-12 <= fine.following <= sigma[9]


def test_a_vector_that_the_start_misses_is_caught_by_the_count_and_then_found(monkeypatch: pytest.MonkeyPatch) -> None:
    # Everything is diagonal: the iteration never leaves the span of its start, and every residual is zero.
    _, base, _ = Case((160, 160), 1, "power", "random", 0, 2).build()
    lifted = LowRank(base.left[:, 90:91].clone(), base.right[:, 90:91].T.clone(), 0.8)
    update = adapter_coordinates(lifted, base).update
    blind = start_block(update, K + 3).clone()
    blind[:, 90] = 0.0
    blind = blind[:, :, :-1]
    once = certified_pairs._attempt(update, K, 1e-9, blind)
    assert float(once.residual.max()) < 1e-9 and not bool(once.proven)
    again = certified_pairs.certified_pairs(update, K, start=blind)
    assert bool(again.proven)
    np.testing.assert_allclose(again.values[0, 1].sqrt(), 0.8 + float(base.sigma[90]), atol=1e-9)
    monkeypatch.setattr(certified_pairs, "_every_candidate", lambda update, k: blind)
    assert not bool(certified_pairs.certified_pairs(update, K, start=blind).proven)


def test_what_is_not_proven_is_factorized_and_says_so() -> None:
    w0, base, delta = Case((150, 150), 3, "flat", "random", 0, 5).build()
    top = top_vectors(Sum(w0, delta), w0, base, 10)  # ten of a cluster of 147: there is no gap to count in
    assert top.method in (methods.SVD, methods.GRAM)
    other = w0.clone()
    assert top_vectors(Sum(other, delta), w0, base, 3).method in (methods.SVD, methods.GRAM)  # not this base's sum
    for rank in (40, 150):  # above a quarter of the side
        wide = Case((150, 150), rank, "power", "random", 0, 5).build()
        assert top_vectors(Sum(wide[0], wide[2]), wide[0], wide[1], 3).method != methods.ADAPTER


@pytest.mark.parametrize("side", [0, 1])
def test_the_precision_of_the_kept_base_counts_as_often_as_the_gap_magnifies_it(side: int) -> None:
    # In the base's coordinates W begins with [[1, g], [g, 1]]: its vectors (1, ±1)/√2 turn by the error of an entry
    # over the gap, and their scores with them. The kept vectors are off by 1e-6 where it hurts most, and say so.
    off, g = 1e-6, 0.02
    w0, base, _ = Case((160, 160), 1, "power", "random", 0, 8).build()
    block = torch.tensor([[1.0, g], [g, 1.0]], dtype=torch.float64) - torch.diag(base.sigma[:2])
    delta = LowRank(base.left[:, :2] @ block, base.right[:, :2].T.contiguous(), 1.0)
    sides = [base.left.clone(), base.right.clone()]
    sides[side][:, 1] += off * sides[side][:, 1]
    kept = BaseVectors(sides[0], base.sigma, sides[1], torch.tensor([off, off, 0.0], dtype=torch.float64))
    found = adapter_vectors(delta, kept, 2)
    assert found is not None
    scores = side_scores(kept, found, 0)
    u = exact(w0, delta)[0]
    moved = np.abs(scores.similarity.numpy() - np.abs(base.left.numpy().T @ u[:, :2]).max(axis=0))
    assert (moved <= scores.error.numpy()).all()
    assert moved.max() > 1.5 * off  # more than the vectors themselves are off by


@pytest.mark.parametrize("scale", [0.0, -0.5])
def test_a_zero_and_a_negative_scale(scale: float) -> None:
    w0, base, delta = Case((140, 140), 4, "power", "random", 0, 6).build()
    scaled = LowRank(delta.b, delta.a, scale)
    top = top_vectors(Sum(w0, scaled), w0, base, K)
    assert (top.method == methods.ADAPTER) == (scale != 0)
    np.testing.assert_allclose(top.sigma.numpy(), exact(w0, scaled)[1][:K], atol=1e-9)


def test_the_compact_form_keeps_the_update_and_drops_what_is_no_rank() -> None:
    draw = torch.Generator().manual_seed(1)
    b, a = (torch.randn(s, dtype=torch.float64, generator=draw) for s in ((20, 3), (3, 30)))
    for delta in (LowRank(b, a, -2.0), LowRank(torch.cat([b, b], 1), torch.cat([a, a]), 0.3), LowRank(b.float(), a, 1)):
        x, tau, y = compact(delta)
        assert tau.shape == (3,) and bool((tau[1:] <= tau[:-1]).all())
        np.testing.assert_allclose((x * tau) @ y.T, delta.dense(), atol=1e-12)
    assert compact(LowRank(b, a, 0.0))[1].numel() == 0
    assert compact(LowRank(torch.randn(5, 9), torch.randn(9, 4), 1.0))[0].shape[1] <= 4
