"""The k nearest neighbours of every point by exact distances, in chunks: on the CPU and on CUDA alike.

Candidates come from one float32 matrix product a chunk (|y|² − 2 x·y about the data's mean); the distances of those
kept are computed in float64 from differences. A row whose candidates float32 cannot vouch for is done in float64.
"""

from __future__ import annotations

import torch

CHUNK_BYTES = 64 * 2**20
"""Of the distances of one chunk of points to all points."""
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
    index. points (n, D); k ≤ n − 1. Equal distances are ordered by index."""
    n = len(points)
    if not 1 <= k <= n - 1:
        raise ValueError(f"{n} points have up to {n - 1} neighbours, not {k}")
    x = points.to(torch.float64)
    x = x - x.mean(dim=0)
    single = x.to(torch.float32)
    squares, of_single = x.square().sum(dim=1), single.square().sum(dim=1)
    largest = float(squares.max())
    # Of |y|² − 2 x·y in float32: each term of the sums is off by half an ulp, and rounding x itself by as much again.
    slack = 4 * (x.shape[1] ** 0.5 + 8) * torch.finfo(torch.float32).eps * largest
    rows = max(1, CHUNK_BYTES // (4 * n))
    distances = torch.empty(n, k, dtype=torch.float64, device=x.device)
    indices = torch.empty(n, k, dtype=torch.int64, device=x.device)
    for start in range(0, n, rows):
        own = torch.arange(start, min(start + rows, n), device=x.device)
        found, at, bound = _candidates(single, of_single, x, own, k)
        # The last candidate's float32 rank bounds what was left out: |y|² − 2 x·y ≥ bound − slack.
        unsure = found[:, -1].square() - squares[own] > bound.to(torch.float64) - slack
        if bool(unsure.any()):
            redone, index, _ = _candidates(x, squares, x, own[unsure], k)
            found[unsure], at[unsure] = redone, index
        distances[own], indices[own] = found, at
    return distances, indices


def _candidates(
    ranking: torch.Tensor, squares: torch.Tensor, x: torch.Tensor, own: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The k nearest among the k + SPARE of least |y|² − 2 x·y in `ranking`'s precision: exact distances, indices, and
    the rank of the last candidate (inf where all points are candidates)."""
    ranked = torch.addmm(squares, ranking[own], ranking.T, beta=1, alpha=-2)  # |x|² is the same along a row
    ranked[torch.arange(len(own), device=own.device), own] = torch.inf
    wanted = min(k + SPARE, len(x) - 1)
    values, near = ranked.topk(wanted, dim=1, largest=False)
    bound = values[:, -1] if wanted < len(x) - 1 else torch.full_like(values[:, -1], torch.inf)
    near = near.sort(dim=1).values
    exact = _distances(x[own], x, near)
    order = exact.argsort(dim=1, stable=True)[:, :k]
    return exact.gather(1, order), near.gather(1, order), bound


def _distances(part: torch.Tensor, x: torch.Tensor, near: torch.Tensor) -> torch.Tensor:
    """|part_i − x_near(i, j)|, column by column: (rows, D) at a time."""
    exact = torch.empty(near.shape, dtype=torch.float64, device=x.device)
    for column in range(near.shape[1]):
        exact[:, column] = torch.linalg.vector_norm(part - x[near[:, column]], dim=1)
    return exact
