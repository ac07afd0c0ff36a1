"""The bound on what float32 does to a frame of vectors: above the truth, and not far above it."""

from __future__ import annotations

import pytest
import torch

from analyzers.linalg.kept_precision import deviation
from analyzers.linalg.subspaces import base_vectors


@pytest.mark.parametrize("shape", [(200, 200), (900, 60), (300, 1), (1, 1)])
def test_the_bound_lies_between_the_norm_of_the_difference_and_twice_that(shape: tuple[int, int]) -> None:
    exact = torch.linalg.qr(torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))[0]
    kept = exact.float()
    truth = float(torch.linalg.matrix_norm(kept.double() - exact, 2))
    bound = deviation(exact, kept)
    # a few columns: the polynomial's start leaves more room, so the Frobenius norm, √p of it at most, answers
    assert truth <= bound <= (2.0 if min(shape) > 50 else 1.0 + 1e-9) * truth
    order = torch.randperm(shape[1], generator=torch.Generator().manual_seed(3))
    assert truth <= deviation(exact, kept[:, order], order) <= 2.0 * truth + 1e-30


def test_one_column_that_was_kept_wrongly_is_seen() -> None:
    exact = torch.eye(300, dtype=torch.float64)
    kept = exact.float()
    kept[7, 7] = 1 + 1e-3
    assert deviation(exact, kept) >= 1e-3 * (1 - 1e-4)
    assert deviation(exact, exact) == deviation(exact, exact.float()) == 0.0


@pytest.mark.parametrize("shape", [(160, 160), (60, 200), (200, 60)])
def test_a_base_carries_its_precision_through_the_cache(shape: tuple[int, int]) -> None:
    w = torch.randn(shape, generator=torch.Generator().manual_seed(4))
    base = base_vectors(w)
    again = type(base).from_tensors(base.as_tensors())
    for side in range(2):
        assert again.deviation(side) == base.deviation(side) < 1e-7
        unmeasured = type(base)(base.left, base.sigma, base.right)
        assert unmeasured.deviation(side) > base.deviation(side)  # √p times one column's rounding
    exact = base_vectors(w.double(), torch.float64)
    assert exact.deviation(0) == exact.deviation(1) == 0.0
