"""Windows have one aspect ratio, cover the matrix and do not care how it is turned."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from analyzers.contract import LowRank
from analyzers.linalg.windows import window_grid, window_sigma
from tests.analyzers.linalg.test_spectra import random


@given(M=st.integers(1, 200), extra=st.integers(0, 400), aspect=st.floats(1, 4), rows=st.none() | st.integers(2, 64))
def test_windows_fit_and_cover_every_row_and_column(M: int, extra: int, aspect: float, rows: int | None) -> None:
    N = M + extra
    height, width, tops, lefts = window_grid(M, N, aspect, per_side=1000, rows=rows)
    assert 1 <= height <= M and height <= width <= N
    if height >= 8 and width < N:
        assert width / height == pytest.approx(aspect, rel=0.1)
    for length, window, starts in ((M, height, tops), (N, width, lefts)):
        covered = np.zeros(length, dtype=bool)
        for start in starts:
            assert 0 <= start <= length - window
            covered[start : start + window] = True
        assert covered.all()


def test_at_most_per_side_windows_are_cut() -> None:
    _, _, tops, lefts = window_grid(100, 1000, 1.0, per_side=3, rows=10)
    assert len(tops) == len(lefts) == 3
    assert (lefts[0], lefts[-1]) == (0, 990)


def test_sigma_are_those_of_the_windows_put_together() -> None:
    W = random(20, 50)
    sigma, window = window_sigma(W, aspect=1.0)
    assert window == (20, 20)
    parts = [np.linalg.svd(W[:, left : left + 20].numpy(), compute_uv=False) for left in (0, 15, 30)]
    assert sigma == pytest.approx(np.sort(np.concatenate(parts))[::-1], rel=1e-9)


def test_turning_the_matrix_changes_nothing() -> None:
    W = random(20, 70)
    assert window_sigma(W.mT, 2.0)[0] == pytest.approx(window_sigma(W, 2.0)[0], rel=1e-9)


def test_a_square_matrix_is_its_own_window_at_aspect_one() -> None:
    content = LowRank(random(12, 3), random(3, 12))
    sigma, window = window_sigma(content)
    assert window == (12, 12)
    assert sigma[:3] == pytest.approx(torch.linalg.svdvals(content.dense())[:3].numpy())
