"""Submatrices of one aspect ratio, so that heavy tails of matrices of different shapes can be compared (FARMS)."""

from __future__ import annotations

import math

import numpy as np
import torch

from analyzers.contract import Content
from analyzers.linalg.blocks import dense64
from analyzers.linalg.spectra import singular_values


def window_grid(
    M: int, N: int, aspect: float, per_side: int, rows: int | None = None
) -> tuple[int, int, list[int], list[int]]:
    """Rows and columns of a window of an M × N matrix (M ≤ N), and where windows start along each side.

    The window is the largest with columns = aspect · rows that fits, or has `rows` rows if that is less. Windows
    cover each side with the least overlap, evenly spaced, at most `per_side` of them. `aspect` ≥ 1.
    """
    largest = max(1, min(M, math.floor(N / aspect)))
    height = largest if rows is None else min(rows, largest)
    width = min(N, round(height * aspect))
    return height, width, _starts(M, height, per_side), _starts(N, width, per_side)


def _starts(length: int, window: int, at_most: int) -> list[int]:
    count = min(at_most, math.ceil(length / window))
    return [round(start) for start in np.linspace(0, length - window, count)]


def window_sigma(
    content: Content, aspect: float = 1.0, per_side: int = 10, rows: int | None = None
) -> tuple[np.ndarray, tuple[int, int]]:
    """σ of all windows concatenated, float64 descending, and the window's (rows, columns) in (short, long) order.

    The matrix is turned so that its short side comes first: W and Wᵀ have the same windows.
    Source: FARMS, 2506.06280 (there `rows` is given; without it windows are as large as the aspect ratio allows).
    """
    dense = content if isinstance(content, torch.Tensor) else dense64(content)
    if dense.shape[0] > dense.shape[1]:
        dense = dense.mT
    height, width, row_starts, column_starts = window_grid(dense.shape[0], dense.shape[1], aspect, per_side, rows)
    values = [
        singular_values(dense[top : top + height, left : left + width]).sigma.cpu().numpy()
        for top in row_starts
        for left in column_starts
    ]
    return np.sort(np.concatenate(values))[::-1].copy(), (height, width)
