"""Angles, shares and φ against independent formulas."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from analyzers.contract import LowRank
from analyzers.linalg.subspaces import (
    base_vectors,
    cosines,
    nested_angles,
    nested_angles_together,
    phi,
    principal_angles,
    subspace_shares,
)


def orthonormal(generator: np.random.Generator, d: int, r: int) -> np.ndarray:
    return np.linalg.qr(generator.standard_normal((d, r)))[0]


@pytest.mark.parametrize("tilt", [1e-9, 1e-4, 0.3, 1e6])
def test_principal_angles_are_scipys_from_tiny_to_right_angles(tilt: float) -> None:
    generator = np.random.default_rng(1)
    first = orthonormal(generator, 40, 5)
    second = np.linalg.qr(first + tilt * generator.standard_normal((40, 5)))[0]
    ours = principal_angles(torch.from_numpy(first), torch.from_numpy(second)).numpy()
    theirs = np.sort(scipy.linalg.subspace_angles(first, second))
    # both combine sines and cosines, so each angle is good to a few ε64 absolutely
    np.testing.assert_allclose(ours, theirs, atol=2e-14)


def test_nested_angles_has_the_angles_of_every_leading_subspace_and_nan_beyond() -> None:
    generator = np.random.default_rng(2)
    first, second = orthonormal(generator, 30, 4), orthonormal(generator, 30, 3)
    angles = nested_angles(torch.from_numpy(first), torch.from_numpy(second), 5).numpy()
    for r in (1, 2, 3):
        expected = np.sort(scipy.linalg.subspace_angles(first[:, :r], second[:, :r]))
        np.testing.assert_allclose(angles[r - 1, :r], expected, atol=2e-14)
        assert np.isnan(angles[r - 1, r:]).all()
    assert np.isnan(angles[3:]).all()


def test_float32_base_vectors_move_no_cosine_by_more_than_they_state() -> None:
    generator = torch.Generator().manual_seed(3)
    w = torch.randn(700, 600, generator=generator, dtype=torch.float64)
    exact, kept = base_vectors(w, torch.float64), base_vectors(w)
    vectors = torch.linalg.qr(torch.randn(700, 7, generator=generator, dtype=torch.float64)).Q
    moved = (cosines(exact.left, vectors) - cosines(kept.left, vectors)).abs().max()
    assert 0 < float(moved) <= kept.storage_error
    assert exact.storage_error == 0.0


def test_shares_of_factors_are_those_of_the_expanded_update() -> None:
    generator = torch.Generator().manual_seed(4)
    w = torch.randn(20, 14, generator=generator)
    delta = LowRank(torch.randn(20, 3, generator=generator), torch.randn(3, 14, generator=generator), 0.5)
    base = base_vectors(w, torch.float64)
    expanded = delta.dense()
    got = subspace_shares(base, delta, (1, 5, 14, 15)).numpy()
    np.testing.assert_allclose(got, subspace_shares(base, expanded, (1, 5, 14, 15)).numpy(), rtol=1e-12)
    u, _, vh = np.linalg.svd(w.double().numpy())
    total = float((expanded**2).sum())
    np.testing.assert_allclose(got[0, 1], ((u[:, :5].T @ expanded.numpy()) ** 2).sum() / total, rtol=1e-12)
    np.testing.assert_allclose(got[1, 1], ((expanded.numpy() @ vh[:5].T) ** 2).sum() / total, rtol=1e-12)
    np.testing.assert_allclose(got[1, 2], 1.0)  # all right vectors of a 20 × 14 matrix span R^14
    assert got[0, 2] < 1 and np.isnan(got[:, 3]).all()


def test_phi_follows_the_papers_formula() -> None:
    generator = np.random.default_rng(5)
    first, second = generator.standard_normal((4, 25)), generator.standard_normal((3, 25))
    got = phi(torch.from_numpy(first), torch.from_numpy(second), (1, 2, 3, 4)).numpy()
    u_first, u_second = (np.linalg.svd(a, full_matrices=False)[2].T for a in (first, second))
    for i in range(1, 5):
        for j in range(1, 4):
            expected = np.linalg.norm(u_first[:, :i].T @ u_second[:, :j], "fro") ** 2 / min(i, j)
            assert got[i - 1, j - 1] == pytest.approx(expected, rel=1e-12)
    assert np.isnan(got[:, 3]).all()
    assert phi(torch.from_numpy(first), torch.from_numpy(first), (2,)).item() == pytest.approx(1.0)


def test_phi_of_random_subspaces_averages_max_over_d() -> None:
    generator = np.random.default_rng(6)
    d, i, j, draws = 30, 2, 5, 400
    pairs = (tuple(torch.from_numpy(generator.standard_normal((r, d))) for r in (i, j)) for _ in range(draws))
    values = [phi(a, b, (i, j))[0, 1].item() for a, b in pairs]
    assert np.mean(values) == pytest.approx(max(i, j) / d, abs=4 * np.std(values) / np.sqrt(draws))


def test_angles_of_several_pairs_have_the_bits_that_each_has_alone() -> None:
    generator = np.random.default_rng(8)
    pairs = [tuple(torch.from_numpy(orthonormal(generator, 33, r)) for r in (10, 9)) for _ in range(6)]
    together = nested_angles_together([(first.float(), second) for first, second in pairs], 10)
    for (first, second), angles in zip(pairs, together, strict=True):
        alone = nested_angles(first.float(), second, 10)
        assert torch.equal(angles.nan_to_num(-1), alone.nan_to_num(-1))
        for r in range(1, 10):
            assert torch.equal(alone[r - 1, :r], principal_angles(first[:, :r].float(), second[:, :r]))
