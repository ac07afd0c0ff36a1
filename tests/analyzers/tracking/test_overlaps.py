"""What is stored of a step: inner products of leading vectors, whoever found them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzers.contract import Content, Context, LowRank, Matrix, Observation, Sum, Unit
from analyzers.errors import Unmeasurable
from analyzers.tracking.overlaps import VectorOverlap, joint_overlap, overlaps
from analyzers.tracking.vectors import LeadingVectors, leading_vectors
from tests.analyzers.tracking.planted import frames, series, stored


class Plain(VectorOverlap):
    name, version, against = "test_overlap", 1, "previous"


def unit(now: Matrix, before: Matrix) -> Unit:
    return Unit((Observation("r", 1, now.info, now, before),))


def of(now: Content, before: Content, k: int = 4, role: str = "weight") -> np.ndarray:
    matrices = Matrix.of(now, role=role), Matrix.of(before, role=role)
    return Plain(k).compute(unit(*matrices), Context())["overlap"]


@pytest.mark.parametrize("shape", [(30, 20), (20, 30), (25, 25)])
def test_overlaps_are_the_inner_products_of_the_singular_vectors(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    before = rng.standard_normal(shape)
    now = before + 0.1 * rng.standard_normal(shape)
    got = of(torch.from_numpy(now), torch.from_numpy(before))
    (u, _, vh), (u0, _, vh0) = np.linalg.svd(now), np.linalg.svd(before)
    # float32 vectors: 2⁻²⁴ each; the Gram's vectors: √2 · 1e-11 σ1/gap, and no gap here is below σ1/1000
    np.testing.assert_allclose(np.abs(got[0]), np.abs(u[:, :4].T @ u0[:, :4]), atol=3e-7)
    np.testing.assert_allclose(np.abs(got[1]), np.abs(vh[:4] @ vh0[:4].T), atol=3e-7)
    signs = np.sign((u[:, :4].T @ u0[:, :4]) * (vh[:4] @ vh0[:4].T))
    big = np.abs(got).min(axis=0) > 1e-3
    np.testing.assert_array_equal(np.sign(got[0] * got[1])[big], signs[big])  # the product has no arbitrary sign


def test_a_matrix_overlaps_with_itself_as_the_identity_even_in_a_cluster() -> None:
    left, right = frames(12, 12, 12)
    flat = torch.from_numpy(left @ right.T)  # all σ equal: any basis is as good
    matrix = Matrix.of(flat)
    got = Plain(5).compute(unit(matrix, matrix), Context())["overlap"]
    np.testing.assert_allclose(got, np.broadcast_to(np.eye(5), (2, 5, 5)), atol=3e-7)


def test_beyond_the_rank_there_is_no_overlap() -> None:
    full, thin = series(np.array([[3.0, 2.0, 1.0]]))[0], series(np.array([[3.0, 2.0]]), noise=0.0)[0]
    got = of(thin, full)
    assert np.isfinite(got[:, :2]).all() and np.isnan(got[:, 2:]).all()
    assert np.isnan(of(torch.zeros(5, 4), torch.ones(5, 4))).all()
    assert np.isnan(of(torch.ones(3, 2), torch.eye(3)[:, :2])[:, :, 2:]).all()  # beyond p


def test_factors_and_their_product_have_the_same_overlaps() -> None:
    generator = torch.Generator().manual_seed(0)
    pairs = [
        LowRank(torch.randn(20, 3, generator=generator), torch.randn(3, 15, generator=generator), 0.5) for _ in range(2)
    ]
    thin = of(*pairs, role="delta")
    dense = of(*(pair.dense() for pair in pairs))
    np.testing.assert_allclose(np.abs(thin), np.abs(dense), atol=1e-6)
    base = torch.randn(20, 15, generator=generator)
    merged = of(*(Sum(base, pair) for pair in pairs))
    np.testing.assert_allclose(
        joint_overlap(merged), joint_overlap(of(*(base.double() + pair.dense() for pair in pairs))), atol=1e-6
    )


def test_entries_that_are_not_finite_are_said_with_the_matrix() -> None:
    bad = torch.ones(4, 4)
    bad[1, 2] = torch.nan
    with pytest.raises(Unmeasurable, match="W: 1 of 16 entries"):
        of(torch.ones(4, 4), bad)


def test_vectors_are_found_once_for_all_the_pairs_that_need_them() -> None:
    made: dict[tuple[str, str], Mapping[str, torch.Tensor]] = {}
    calls = []

    def cache(name: str, key: str, make: Callable) -> Mapping[str, torch.Tensor]:
        calls.append(key)
        if (name, key) not in made:
            made[name, key] = make()
        return made[name, key]

    loads = []
    steps = []
    for index, w in enumerate(series(np.ones((5, 1)) * [3.0])):
        known = Matrix.of(w)
        steps.append(Matrix(known.info, f"key{index}", lambda w=w: loads.append(1) or w))  # type: ignore[misc,return-value]  # counts
    context = Context(cache=cache)
    one = [unit(now, before) for before, now in pairwise(steps)]
    two = [unit(now, before) for before, now in zip(steps, steps[2:], strict=False)]
    for units in (one, two):
        assert all(isinstance(r, dict) for r in Plain(3).compute_batch(units, [context] * len(units)))
    assert len(loads) == 5, "each matrix is read and factorized once"
    assert len(calls) <= 5 + 5, "and each entry is read once a batch"


@given(seed=st.integers(0, 1000), flips=st.lists(st.sampled_from([-1.0, 1.0]), min_size=8, max_size=8))
@settings(max_examples=25, deadline=None)
def test_the_joint_overlap_does_not_know_the_signs_nor_the_order_of_rows(seed: int, flips: list[float]) -> None:
    matrices = series(np.array([[4.0, 3.0, 2.0, 1.0], [4.1, 2.9, 2.2, 1.2]]), noise=0.05, seed=seed)
    vectors = [leading_vectors(Matrix.of(w), 4, Context()) for w in matrices]
    sign = torch.tensor(flips, dtype=torch.float32)
    flipped = [
        LeadingVectors(v.left * s, v.right * s, v.sigma) for v, s in zip(vectors, (sign[:4], sign[4:]), strict=True)
    ]
    plain = joint_overlap(overlaps(vectors[1], vectors[0], 4))
    np.testing.assert_array_equal(joint_overlap(overlaps(flipped[1], flipped[0], 4)), plain)
    rows = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
    np.testing.assert_allclose(joint_overlap(stored([w[rows] for w in matrices], 4, 1))[1], plain, atol=1e-6)
    np.testing.assert_allclose(joint_overlap(stored([w.T for w in matrices], 4, 1))[1], plain, atol=1e-6)
