"""An upper bound of the norm of a deflated operator from a random start, with a stated probability of being wrong.

Cheap where a deterministic bound costs a factorization: some forty products with a block of sixteen vectors tell that
no large singular value hides in the part of a matrix that an iteration has not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from scipy.stats import chi2

MISS_PROBABILITY = 1e-10
"""That a matrix' leading vectors are declared complete while one is missing; for all attempts on it together."""
COLUMNS = 16
"""Gaussian vectors of a start: so many cost little more than one, and together they can hardly all miss."""
_ALLOWANCE = {torch.float32: 1.5, torch.float64: 1.0 + 1e-6}
"""Factor on ‖p(M)G‖ for its rounding, of about (steps)² √n ε relative: 1e-2 in float32 at n = 8192 and 40 steps."""


def deflated_bound(
    gram: Callable[[torch.Tensor], torch.Tensor],
    deflated: torch.Tensor,
    cut: float,
    below: float,
    steps: int,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float64,
    miss: float = MISS_PROBABILITY,
) -> tuple[float, torch.Tensor]:
    """Upper bound of the greatest eigenvalue λ of M = (1 − QQᵀ) A (1 − QQᵀ), wrong with probability ≤ `miss`.

    `gram`: X → A X, symmetric positive semidefinite, on blocks (n, b) of `dtype`; `deflated`: Q (n, s), orthonormal;
    `cut`: where λ is expected, roughly; `below`: what is wanted; it stops as soon as the bound is below it, at the
    latest after `steps` products. Also returned: the last block (n, b), rich in what was not expected.

    Theorem. Let x be a unit eigenvector of M for λ and G an n × b standard Gaussian drawn independently of M. For
    every polynomial p, ‖p(M) G‖_F ≥ |p(λ)| ‖xᵀG‖, and ‖xᵀG‖² is χ² with b degrees of freedom. Hence, but for an event
    of probability P(χ²_b < c) — one event for all p, so p may be chosen and tried as one likes — |p(λ)| ≤ ‖p(M)G‖_F/√c.
    With p = T_i(2t/cut − 1), of Chebyshev: λ ≤ cut, or T_i(2λ/cut − 1) ≤ t := ‖T_i(2M/cut − 1)G‖_F/√c, which is
    λ ≤ cut (1 + cosh(arcosh(t)/i))/2. (The argument of Dixon 1983 and Kuczyński & Woźniakowski 1992 for one vector
    and Krylov's space; c is the `miss` quantile.)
    """
    n, device = deflated.shape[0], deflated.device
    basis = deflated.to(dtype)
    scale = math.sqrt(float(chi2.ppf(miss, COLUMNS))) / _ALLOWANCE[dtype]

    def deflate(x: torch.Tensor) -> torch.Tensor:
        return x.sub_(basis @ (basis.T @ x))

    before = deflate(torch.randn((n, COLUMNS), generator=generator, dtype=dtype).to(device))
    block = deflate(gram(before)).mul_(2.0 / cut).sub_(before)
    bound = math.inf
    for degree in range(1, steps + 1):
        size = float(torch.linalg.vector_norm(block, dtype=torch.float64)) / scale
        if not math.isfinite(size):  # out of the dtype's range: what was proved before stands
            break
        bound = min(bound, cut * (1.0 + math.cosh(math.acosh(max(1.0, size)) / degree)) / 2.0)
        if bound < below or degree == steps:
            break
        following = deflate(gram(block)).mul_(4.0 / cut)
        following.sub_(block, alpha=2.0).sub_(before)
        before, block = block, following
    return bound, block


def steps_wanted(dimension: int, excess: float, miss: float = MISS_PROBABILITY) -> int:
    """Products until `deflated_bound` is (1 + excess) · cut, if all of M lies below the cut; with a little to spare."""
    size = math.sqrt(COLUMNS * dimension / float(chi2.ppf(miss, COLUMNS))) * _ALLOWANCE[torch.float32]
    return 2 + math.ceil(math.acosh(size) / math.acosh(1.0 + 2.0 * excess))
