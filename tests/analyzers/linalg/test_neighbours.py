"""Nearest neighbours are exact, whatever the data: near duplicates, far offsets, ties, concentrated distances."""

from __future__ import annotations

from typing import Any

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


def brute(x: np.ndarray, k: int) -> np.ndarray:
    """(n, k) distances from float64 differences of every pair."""
    unit = np.abs(x).max()
    every = np.stack([np.sqrt((((x - row) / unit) ** 2).sum(axis=1)) for row in x])
    np.fill_diagonal(every, np.inf)
    return unit * np.sort(every, axis=1)[:, :k]


def hostile(kind: str) -> np.ndarray:
    """Wide clouds on which single precision errs in one way or another."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((700, 96))
    if kind == "far from the origin":
        return x + 1e6
    if kind == "duplicates":
        return np.concatenate((x[:350], x[:350]))
    if kind == "near duplicates":
        return np.repeat(x[:100], 7, axis=0) + 1e-9 * rng.standard_normal((700, 96))
    if kind == "scales":
        return x * 10.0 ** rng.integers(-150, 4, 96)
    if kind == "one giant":
        return np.concatenate((x[:699], np.full((1, 96), 1e12)))
    if kind == "two worlds":
        return np.concatenate((x[:350], 1e-7 * x[350:] + 50))
    if kind == "ties":
        return np.eye(96)[rng.integers(0, 96, 700)] + np.eye(96)[rng.integers(0, 96, 700)]
    if kind == "lattice":
        return rng.integers(-2, 3, (700, 96)).astype(float)
    assert kind == "tiny"
    return x * 1e-160


KINDS = (
    "far from the origin",
    "duplicates",
    "near duplicates",
    "scales",
    "one giant",
    "two worlds",
    "ties",
    "lattice",
    "tiny",
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [2, 20, 64])
def test_candidates_of_single_precision_miss_no_neighbour(kind: str, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = hostile(kind)
    found, index = nearest(torch.tensor(x), k)
    wanted = brute(x - x.mean(axis=0), k)
    scale = np.abs(x - x.mean(axis=0)).max()
    # float64 products lose digits below 1e-4 of the largest |x|², and then differences are taken: nine digits are left
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-9, atol=1e-14 * scale)
    gaps = np.linalg.norm((x[np.arange(700)[:, None]] - x[index.numpy()]) / scale, axis=2) * scale
    np.testing.assert_allclose(gaps, wanted, rtol=1e-8, atol=1e-9 * np.abs(x).max())
    assert not bool((index == torch.arange(700)[:, None]).any())
    monkeypatch.setattr(neighbours, "MANY", 10**9)
    plain = nearest(torch.tensor(x), k)[0]
    np.testing.assert_allclose(found.numpy(), plain.numpy(), rtol=1e-9, atol=1e-14 * scale)


def test_a_row_without_proof_is_looked_at_in_double_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Points on a sphere's rim whose distances differ in the tenth digit: single precision cannot rank them."""
    rng = np.random.default_rng(4)
    x = np.eye(600)[:, rng.permutation(600)] * (1 + 1e-10 * rng.random(600))[:, None]
    seen: list[int] = []
    kept = neighbours._of_rows

    def counted(x: torch.Tensor, squares: torch.Tensor, own: torch.Tensor, *more: Any) -> Any:
        seen.append(len(own))
        return kept(x, squares, own, *more)

    monkeypatch.setattr(neighbours, "_of_rows", counted)
    found, _ = nearest(torch.tensor(x), 3)
    assert sum(seen) == 600
    np.testing.assert_allclose(found.numpy(), brute(x, 3), rtol=1e-12)
    seen.clear()
    nearest(torch.tensor(rng.standard_normal((600, 600))), 3)
    assert sum(seen) < 60


@pytest.mark.parametrize("change", ["chunks", "no mkl", "numpy selects"])
def test_every_way_to_the_candidates_gives_the_same_distances(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.tensor(np.random.default_rng(5).standard_normal((600, 80)))
    whole = nearest(x, 6)
    if change == "chunks":
        monkeypatch.setattr(neighbours, "SYMMETRIC_POINTS", 0)
        monkeypatch.setattr(neighbours, "CHUNK_BYTES", 4 * 600 * 37)
    elif change == "no mkl":
        monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    else:
        monkeypatch.setattr(neighbours, "PARTIAL", 0)
    other = nearest(x, 6)
    torch.testing.assert_close(other[0], whole[0], rtol=1e-12, atol=0)
    assert torch.equal(other[1], whole[1])
