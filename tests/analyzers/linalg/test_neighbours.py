"""Nearest neighbours are exact, whatever the data: near duplicates, far offsets, ties, concentrated distances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from analyzers.linalg import neighbours
from analyzers.linalg.neighbours import distinct, nearest


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 200), st.integers(1, 60), st.integers(1, 12), st.floats(0, 1e6), st.integers(0, 999))
def test_distances_are_those_of_a_tree(n: int, dims: int, k: int, offset: float, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((n, dims)) + offset
    k = min(k, n - 1)
    found, index = nearest(torch.tensor(x), k)
    wanted, _ = cKDTree(x).query(x, k + 1)
    # both are float64 differences; the offset costs its own rounding, 1e6 · 2e-16, in the coordinates
    np.testing.assert_allclose(found.numpy(), wanted[:, 1:], rtol=1e-9, atol=1e-9 * (1 + offset * 1e-3))
    assert not bool((index == torch.arange(n)[:, None]).any())


def test_near_duplicates_keep_their_tiny_distances() -> None:
    """The product |x|² + |y|² − 2xy has no digit left at 1e-9; ranks must come out right all the same."""
    rng = np.random.default_rng(0)
    x = np.repeat(rng.standard_normal((60, 40)), 8, axis=0) + 1e-9 * rng.standard_normal((480, 40))
    found, _ = nearest(torch.tensor(x), 5)
    wanted, _ = cKDTree(x).query(x, 6)
    np.testing.assert_allclose(found.numpy(), wanted[:, 1:], rtol=1e-6)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(200, 10)
    whole = nearest(x, 7)
    monkeypatch.setattr(neighbours, "CHUNK_BYTES", 8 * 200 * 13)
    cut = nearest(x, 7)
    torch.testing.assert_close(cut[0], whole[0], rtol=1e-12, atol=0)  # BLAS may sum a product of other shape otherwise
    assert torch.equal(cut[1], whole[1])


def test_equal_points_are_counted_and_the_first_of_each_is_kept() -> None:
    x = torch.tensor([[3.0, 1.0], [0.0, 0.0], [3.0, 1.0], [1.0, 1.0], [0.0, 0.0], [3.0, 1.0]])
    kept, dropped = distinct(x)
    assert dropped == 3 and kept.tolist() == [[3, 1], [0, 0], [1, 1]]


def test_more_neighbours_than_points_is_refused() -> None:
    with pytest.raises(ValueError, match="4 points have up to 3 neighbours, not 4"):
        nearest(torch.randn(4, 2), 4)
