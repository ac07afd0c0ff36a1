"""The k nearest neighbours of every point by exact distances, in chunks: on the CPU and on CUDA alike.

Distances come from float64 products about the data's mean; where one is so small that they lose digits, those of the
row are computed again from differences. On the CPU single precision chooses the candidates of a wide cloud, each
pair's product made once, with a bound that proves that no neighbour is missed, or the row is looked at in float64.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from scipy.linalg.blas import ssyrk

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
CHUNK_BYTES = 64 * 2**20
"""Of the distances of one chunk of points to all points."""
CLOSE = 1e-4
"""Squared distances below this share of the largest |x|² are computed from differences: above, the product has at
least nine digits."""
SPARE = 4
"""Candidates beyond k, so that rounding in the product cannot push a true neighbour out."""
WIDE, MANY = 64, 512
"""From so many dimensions and points on candidates are chosen in single precision."""
FEW = 128
"""And up to so many neighbours: exact products of more candidates cost what that saves."""
SYMMETRIC_POINTS = 8192
"""Up to so many points all products are made at once, 256 MB."""
SELECTED_BYTES = 4 * 2**20
"""Of products from which neighbours are chosen at a time, so that they stay in the cache."""
GATHERED_BYTES = 4 * 2**20
PARTIAL = 16
"""Up to so many least values of a row torch finds them faster than numpy."""


def distinct(points: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The points (n', D) without repetitions, in the order of first appearance, and how many were dropped."""
    _, inverse = torch.unique(points, dim=0, return_inverse=True)
    count = int(inverse.max()) + 1 if len(inverse) else 0
    first = torch.full((count,), len(points), dtype=torch.int64, device=points.device)
    first.scatter_reduce_(0, inverse, torch.arange(len(points), device=points.device), "amin")
    return points[first.sort().values], len(points) - count


def repetitions(points: torch.Tensor, distances: torch.Tensor, tolerance: float) -> torch.Tensor:
    """(n,) bool: an earlier point is nearer than `tolerance` · |x|, the larger |x| of the two. points (n, D);
    distances (n, ≥ 1): each point's to its nearest others, which spares the others a look."""
    x = points.to(torch.float64)
    limits = tolerance * torch.linalg.vector_norm(x, dim=1)
    repeated = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    close = (distances[:, 0] <= limits.max()).nonzero().flatten()
    for own in close.split(max(1, CHUNK_BYTES // (8 * max(1, len(close))))):
        exact = torch.cdist(x[own], x[close], compute_mode="donot_use_mm_for_euclid_dist")
        within = exact <= torch.maximum(limits[own, None], limits[None, close])
        repeated[own] = (within & (close[None, :] < own[:, None])).any(dim=1)
    return repeated


def nearest(points: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(distances (n, k) float64, ascending; indices (n, k) int64) of each point's k nearest others, itself excluded by
    index. points (n, D); k ≤ n − 1."""
    n = len(points)
    if not 1 <= k <= n - 1:
        raise ValueError(f"{n} points have up to {n - 1} neighbours, not {k}")
    x = points.to(torch.float64)
    x = x - x.mean(dim=0)
    unit = _unit(float(torch.linalg.vector_norm(x, math.inf)))
    x.mul_(1 / unit)
    squares = torch.linalg.vecdot(x, x)
    rows = max(1, CHUNK_BYTES // (8 * n))
    distances = torch.empty(n, k, dtype=torch.float64, device=x.device)
    indices = torch.empty(n, k, dtype=torch.int64, device=x.device)
    left = torch.arange(n, device=x.device)
    largest = float(squares.max())
    wide = x.device.type == "cpu" and x.shape[1] >= WIDE and n >= MANY and k <= FEW and k + SPARE < n - 1
    if wide and 0 < largest < math.inf:
        near, proved = _candidates(x, squares, k)
        found = left[proved]
        squared = _squared(x, squares, near)
        distances[found], indices[found] = _refined(x, squares, found, squared[proved], near[proved], k, certain=True)
        left = left[~proved]
    for own in left.split(rows):
        distances[own], indices[own] = _of_rows(x, squares, own, k)
    return distances.mul_(unit), indices


def _unit(largest: float) -> float:
    """A power of two near the largest |entry|, in which squares neither overflow nor vanish."""
    return 2.0 ** min(max(math.frexp(largest)[1], -1000), 1000) if 0 < largest < math.inf else 1.0


def _candidates(x: torch.Tensor, squares: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, k + SPARE) indices of the nearest others in single precision, in no order, and (n,) whether the k nearest are
    proved to be among them.

    With |x| ≤ 1 the rank of j for i goes by r = |x_j|² − 2 x_i·x_j. Rounding of entries and of a sum of D products in
    any order moves r by at most e = 2 (D + 4) u |x_i| + 4 u, u = 2⁻²⁴ (1 % is added for terms in u²). What is above the
    k-th smallest computed r by more than 2e has k others nearer to i.
    """
    n, width = x.shape
    size = squares.max().sqrt()
    scaled = (x / size).to(torch.float32)
    norms = (squares / size**2).to(torch.float32)
    unit = 2.0**-24
    bound = (2 * (width + 4) * unit * 1.01) * norms.sqrt().double() + 5 * unit
    wanted = k + SPARE
    near = torch.empty(n, wanted, dtype=torch.int64)
    proved = torch.empty(n, dtype=torch.bool)
    products = _gram(scaled) if n <= SYMMETRIC_POINTS else None
    size_of_part = CHUNK_BYTES if products is None else SELECTED_BYTES
    for own in torch.arange(n).split(max(1, size_of_part // (4 * n))):
        part = scaled[own] @ scaled.T if products is None else products[own[0] : own[-1] + 1]
        ranks = torch.add(norms, part, alpha=-2, out=part)
        ranks[torch.arange(len(own)), own] = torch.inf
        near[own] = _least(ranks, wanted)
        values = ranks.gather(1, near[own]).sort(dim=1).values.double()
        proved[own] = values[:, -1] > values[:, k - 1] + 2 * bound[own]
    return near, proved


def _least(ranks: torch.Tensor, wanted: int) -> torch.Tensor:
    """Where the `wanted` least of each row are. numpy's selection takes the same time for any number, torch's grows."""
    if wanted <= PARTIAL or ranks.device.type != "cpu":
        return ranks.topk(wanted, dim=1, largest=False).indices
    return torch.from_numpy(np.argpartition(ranks.numpy(), wanted - 1, axis=1)[:, :wanted].copy())


def _gram(x: torch.Tensor) -> torch.Tensor:
    """X Xᵀ of float32, (n, n), each pair once and then mirrored."""
    lower = torch.from_numpy(ssyrk(1.0, x.numpy().T, trans=1).T)  # column-major, upper triangle: its rows end at j = i
    step = 512
    for a in range(0, len(x), step):
        b = min(a + step, len(x))
        lower[a:b, b:] = lower[b:, a:b].T
        corner = lower[a:b, a:b]
        lower[a:b, a:b] = corner.tril() + corner.tril(-1).T
    return lower


def _squared(x: torch.Tensor, squares: torch.Tensor, near: torch.Tensor) -> torch.Tensor:
    """|x_i − x_near(i, j)|² in float64 from products of those pairs alone."""
    n, count = near.shape
    if torch.backends.mkl.is_available():
        starts = torch.arange(0, n * count + 1, count)
        pairs = torch.sparse_csr_tensor(
            starts, near.flatten(), torch.zeros(n * count, dtype=x.dtype), (n, n), check_invariants=False
        )
        products = torch.sparse.sampled_addmm(pairs, x, x.T, beta=0.0).values().view(n, count)
    else:
        products = torch.empty(n, count, dtype=x.dtype)
        for own in torch.arange(n).split(max(1, GATHERED_BYTES // (8 * count * x.shape[1]))):
            gathered = x.index_select(0, near[own].flatten()).view(len(own), count, -1)
            products[own] = torch.bmm(gathered, x[own, :, None])[..., 0]
    return products.mul_(-2).add_(squares[:, None]).add_(squares[near])


def _of_rows(x: torch.Tensor, squares: torch.Tensor, own: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`nearest` of the points `own`, by float64 products with all points."""
    every = torch.addmm(squares, x[own], x.T, beta=1, alpha=-2)
    every[torch.arange(len(own), device=own.device), own] = torch.inf
    wanted = min(k + SPARE, len(x) - 1)
    near = _least(every, wanted)
    found = every.gather(1, near).add_(squares[own, None])
    return _refined(x, squares, own, found, near, k, certain=wanted == len(x) - 1)


def _refined(
    x: torch.Tensor,
    squares: torch.Tensor,
    own: torch.Tensor,
    found: torch.Tensor,
    near: torch.Tensor,
    k: int,
    certain: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k nearest of the candidates `near` by their squared distances `found`, from differences where those are too
    small to have digits. `certain`: no neighbour can be outside."""
    if len(own) == 0:
        return found[:, :k], near[:, :k]
    order = found.argsort(dim=1, stable=True)
    found, near = found.gather(1, order), near.gather(1, order)
    largest = float(squares.max())
    slack = 8 * (x.shape[1] ** 0.5 + 8) * torch.finfo(torch.float64).eps * largest
    close = found[:, 0] < CLOSE * largest
    distances, indices = found[:, :k].clamp_min(0).sqrt(), near[:, :k]
    if bool(close.any()):
        exact = _distances(x[own[close]], x, near[close])
        order = exact.argsort(dim=1, stable=True)[:, :k]
        exact, index = exact.gather(1, order), near[close].gather(1, order)
        if not certain:  # what is no candidate is at least as far as the last one, but for rounding
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
