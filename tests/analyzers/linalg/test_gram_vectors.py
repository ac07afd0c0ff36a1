"""Singular vectors by a certified Gram are those of a float64 SVD, or there are none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from analyzers.linalg.gram_vectors import gram_vectors


def with_spectrum(m: int, n: int, sigma: np.ndarray, seed: int = 0) -> torch.Tensor:
    draw = np.random.default_rng(seed)
    p = min(m, n)
    u, v = (np.linalg.qr(draw.standard_normal((d, p)))[0] for d in (m, n))
    return torch.from_numpy((u * sigma) @ v.T)


@pytest.mark.parametrize("shape", [(160, 160), (400, 120), (120, 400)])
@pytest.mark.parametrize("lowest", [1e-1, 1e-3, 1e-5])
def test_vectors_and_values_are_those_of_a_full_svd(shape: tuple[int, int], lowest: float) -> None:
    p = min(shape)
    tail = np.geomspace(9e-4, lowest, 4) if lowest < 1e-3 else np.geomspace(2 * lowest, lowest, 4)
    w = with_spectrum(*shape, np.r_[np.linspace(1.0, 0.3, p - 4), tail])
    found = gram_vectors(w)
    assert found is not None
    left, sigma, right, kept = found
    u, expected, vh = np.linalg.svd(w.numpy(), full_matrices=False)
    # The Gram costs ε σ1²/σ for a value; the smallest here is 1e-5, found anew by its own SVD.
    np.testing.assert_allclose(sigma.numpy(), expected, rtol=0, atol=1e-11)
    # Float32 rounding of a unit vector moves a cosine by 6e-8; the spectrum's gaps are far above that.
    for ours, theirs in ((left.double().numpy(), u), (right.double().numpy(), vh.T)):
        np.testing.assert_allclose(np.abs((ours * theirs).sum(0)), 1.0, rtol=0, atol=5e-7)
    rebuilt = (left.double() * sigma) @ right.double().T
    assert float((rebuilt - w).abs().max()) < 1e-6
    # LAPACK's own vectors differ by 2e-16 over the gap, far below the rounding to float32 that is bounded here.
    for side, (ours, theirs) in enumerate(((left.double().numpy(), u), (right.double().numpy(), vh.T))):
        signed = theirs * np.sign((ours * theirs).sum(0))
        assert np.linalg.norm(ours - signed, 2) <= float(kept[side]) < 1e-6


def test_a_gaussian_square_is_certified_in_spite_of_its_small_values() -> None:
    w = torch.randn((512, 512), generator=torch.Generator().manual_seed(1), dtype=torch.float32)
    found = gram_vectors(w)
    assert found is not None
    expected = np.linalg.svd(w.double().numpy(), compute_uv=False)
    np.testing.assert_allclose(found[1].numpy(), expected, rtol=0, atol=1e-10 * expected[0])


def test_without_certificate_there_is_no_answer() -> None:
    assert gram_vectors(torch.zeros((64, 64), dtype=torch.float64)) is None
    rank_one = torch.outer(torch.arange(1.0, 65.0), torch.ones(64)).double()
    assert gram_vectors(rank_one) is None
    steep = with_spectrum(128, 128, np.geomspace(1, 1e-12, 128))
    assert gram_vectors(steep) is None
