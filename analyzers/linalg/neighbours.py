"""The k nearest neighbours of every point by exact distances, in chunks: on the CPU and on CUDA alike.

One float64 product a chunk gives |x|² + |y|² − 2 x·y about the data's mean. Where a distance is so small that this
loses digits, those of the row are computed again from differences.
"""

from __future__ import annotations

import torch

CHUNK_BYTES = 64 * 2**20
"""Of the distances of one chunk of points to all points."""
CLOSE = 1e-4
"""Squared distances below this share of the largest |x|² are computed from differences: above, the product has at
least nine digits."""
SPARE = 4
"""Candidates beyond k, so that rounding in the product cannot push a true neighbour out."""


def distinct(points: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The points (n', D) without repetitions, in the order of first appearance, and how many were dropped."""
    _, inverse = torch.unique(points, dim=0, return_inverse=True)
    count = int(inverse.max()) + 1 if len(inverse) else 0
    first = torch.full((count,), len(points), dtype=torch.int64, device=points.device)
    first.scatter_reduce_(0, inverse, torch.arange(len(points), device=points.device), "amin")
    return points[first.sort().values], len(points) - count


def nearest(points: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(distances (n, k) float64, ascending; indices (n, k) int64) of each point's k nearest others, itself excluded by
    index. points (n, D); k ≤ n − 1."""
    n = len(points)
    if not 1 <= k <= n - 1:
        raise ValueError(f"{n} points have up to {n - 1} neighbours, not {k}")
    x = points.to(torch.float64)
    x = x - x.mean(dim=0)
    squares = x.square().sum(dim=1)
    rows = max(1, CHUNK_BYTES // (8 * n))
    distances = torch.empty(n, k, dtype=torch.float64, device=x.device)
    indices = torch.empty(n, k, dtype=torch.int64, device=x.device)
    for start in range(0, n, rows):
        own = torch.arange(start, min(start + rows, n), device=x.device)
        distances[own], indices[own] = _of_rows(x, squares, own, k)
    return distances, indices


def _of_rows(x: torch.Tensor, squares: torch.Tensor, own: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`nearest` of the points `own`."""
    every = torch.addmm(squares, x[own], x.T, beta=1, alpha=-2).add_(squares[own, None])
    every[torch.arange(len(own), device=own.device), own] = torch.inf
    wanted = min(k + SPARE, len(x) - 1)
    found, near = every.topk(wanted, dim=1, largest=False)
    largest = float(squares.max())
    slack = 8 * (x.shape[1] ** 0.5 + 8) * torch.finfo(torch.float64).eps * largest
    close = found[:, 0] < CLOSE * largest
    distances, indices = found[:, :k].clamp_min(0).sqrt(), near[:, :k]
    if bool(close.any()):
        exact = _distances(x[own[close]], x, near[close])
        order = exact.argsort(dim=1, stable=True)[:, :k]
        exact, index = exact.gather(1, order), near[close].gather(1, order)
        if wanted < len(x) - 1:  # what is no candidate is at least as far as the last one, but for rounding
            doubtful = exact[:, -1].square() > found[close, -1] - slack
            for row in doubtful.nonzero().flatten().tolist():
                at = own[close][row]
                whole = torch.linalg.vector_norm(x - x[at], dim=1)
                whole[at] = torch.inf
                exact[row], index[row] = whole.topk(k, largest=False)
        distances, indices = distances.clone(), indices.clone()
        distances[close], indices[close] = exact, index
    return distances, indices


def _distances(part: torch.Tensor, x: torch.Tensor, near: torch.Tensor) -> torch.Tensor:
    """|part_i − x_near(i, j)|, column by column: (rows, D) at a time."""
    exact = torch.empty(near.shape, dtype=torch.float64, device=x.device)
    for column in range(near.shape[1]):
        exact[:, column] = torch.linalg.vector_norm(part - x[near[:, column]], dim=1)
    return exact
