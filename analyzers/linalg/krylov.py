"""The leading singular triplets of a large operator by block Davidson, enclosed from above as well as from below.

Ritz values are lower bounds of the eigenvalues of WᵀW; with a bound of what lies outside the searched space they
have upper bounds too (`enclose`), and then no leading vector can have been missed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

Gram = Callable[[torch.Tensor], torch.Tensor]
"""X (n, b) → WᵀW X, float64."""
Precondition = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Residuals (n, b) and their Ritz values (b,) → directions (n, b), float64."""

SCORE_ERROR = 4e-8
"""Residual over gap that is aimed at: √2 of it is 6e-8, what float32 base vectors leave, too."""
RESIDUAL = 1e-11
"""Residual relative to σ1 that always suffices: inside a cluster no residual makes a single vector certain."""
_ROUNDING = 2e-14
"""Of a Gram residual relative to λ1, below which iterating is of no use."""
REACH = 0.65
"""From what is carried to the k+1st value: where the bound of what is outside is aimed at."""
_SHARE = 0.5 * (1.0 - REACH)
_MOST_STEPS = 40
_BLOCK = 16
"""Columns of one product that cost little more than one of them."""


@dataclass(frozen=True)
class RitzSpace:
    """`basis` Q (n, d) of Ritz vectors, `values` (d,) descending, `image` WᵀW Q, `residual` (d,): norms of
    WᵀW q − value q."""

    basis: torch.Tensor
    values: torch.Tensor
    image: torch.Tensor

    @property
    def remainder(self) -> torch.Tensor:
        """(n, d): WᵀW Q − Q diag(values)."""
        return self.image - self.basis * self.values

    @property
    def residual(self) -> torch.Tensor:
        """(d,)"""
        return torch.linalg.vector_norm(self.remainder, dim=0)


def orthonormal(block: torch.Tensor, against: torch.Tensor | None = None) -> torch.Tensor:
    """Orthonormal columns spanning what `block` (n, b) adds to the orthonormal columns `against` (n, d)."""
    block = block / torch.linalg.vector_norm(block, dim=0).clamp(min=torch.finfo(block.dtype).tiny)
    for _ in range(2):
        if against is not None:
            block = block - against @ (against.T @ block)
        q, r = torch.linalg.qr(block)
        size = r.diagonal().abs()
        block = q[:, size > 1e-12 * size.max().clamp(min=1e-300)]
    if against is not None and not bool((size > 0.5).all()):  # else the second pass took next to nothing
        block = torch.linalg.qr(block - against @ (against.T @ block)).Q
    return block


def davidson(
    gram: Gram,
    start: torch.Tensor,
    k: int,
    precondition: Precondition,
    space: RitzSpace | None = None,
    tolerance: float = SCORE_ERROR,
    steps: int = _MOST_STEPS,
) -> RitzSpace:
    """Ritz pairs of WᵀW whose first k have small residuals, and whose next ones have what `enclose` needs of them.

    start: (n, j), j > k, orthonormalised here; `space` is an earlier result to go on from, with `start` added to it.
    Stops when residual_i/σ_i ≤ max(
    tolerance · gap_i, 1e-11 σ1) for i < k, or after `steps` blocks: whoever calls measures the residuals.
    """
    q = orthonormal(start, None if space is None else space.basis)
    basis = q if space is None else torch.cat([space.basis, q], dim=1)
    image = gram(q) if space is None else torch.cat([space.image, gram(q)], dim=1)
    projected = basis.T @ image
    for step in range(steps + 1):
        values, turn = torch.linalg.eigh((projected + projected.T) / 2)
        values, turn = values.flip(0), turn.flip(1)
        looked = min(values.numel(), 4 * k + 8)
        vectors = basis @ turn[:, :looked]
        residuals = image @ turn[:, :looked] - vectors * values[:looked]
        norms = torch.linalg.vector_norm(residuals, dim=0)
        open_ = (norms > _wanted(values, k, tolerance)[:looked]).nonzero().flatten()
        if not open_.numel() or step == steps:
            break
        open_ = open_[: max(k + 2, _BLOCK)]
        q = orthonormal(precondition(residuals[:, open_], values[open_]), basis)
        if not q.shape[1]:
            break
        fresh = gram(q)
        corner = basis.T @ fresh
        projected = torch.cat([torch.cat([projected, corner], dim=1), torch.cat([corner.T, q.T @ fresh], dim=1)], dim=0)
        basis, image = torch.cat([basis, q], dim=1), torch.cat([image, fresh], dim=1)
    return RitzSpace(basis @ turn, values, image @ turn)


def _wanted(values: torch.Tensor, k: int, tolerance: float) -> torch.Tensor:
    """(d,) residuals of the Gram that suffice: of the first k as `davidson` says, of the k+1st a ten-thousandth of
    its distance to 0, of the others what `enclose` can carry."""
    sigma = values.clamp(min=0).sqrt()
    wanted = torch.full_like(values, torch.inf)
    steps = sigma[:-1] - sigma[1:]
    gap = torch.minimum(steps, torch.cat([sigma[:1], steps[:-1]]))
    wanted[:k] = sigma[:k] * torch.maximum(tolerance * gap[:k], RESIDUAL * sigma[0])
    wanted[k] = 1e-5 * values[k]
    edge = min(3 * k, values.numel() - 1)
    beside = slice(k + 1, edge)
    wanted[beside] = 0.8 * _SHARE**0.5 * ((values[k] - values[beside]) * (values[k] - values[edge])).sqrt()
    return wanted.clamp(min=_ROUNDING * float(values[0]))


def with_start(space: RitzSpace, start: torch.Tensor, count: int) -> RitzSpace:
    """Ritz pairs of the span of `start` (n, j), which `space` contains, and of the first `count` Ritz vectors.

    What lies outside of it lies outside of `start`, and so has the bound that is known for that.
    """
    d = space.values.numel()
    own = torch.eye(d, min(count, d), dtype=space.values.dtype, device=space.values.device)
    chosen = torch.cat([own, space.basis.T @ start], dim=1)
    turn, size, _ = torch.linalg.svd(chosen, full_matrices=False)
    turn = turn[:, size > 1e-12]
    values, inner = torch.linalg.eigh(turn.T @ (space.values[:, None] * turn))
    turn = turn @ inner.flip(1)
    return RitzSpace(space.basis @ turn, values.flip(0), space.image @ turn)


def carried(space: RitzSpace, k: int, most: int) -> int:
    """How many Ritz vectors s, k < s ≤ most, can be set apart so that the upper bounds of the first k+1 stay sharp.

    The greatest s for which every i in k+1..s has residual_i² ≤ _SHARE (μ − value_i)(μ − value_s), μ = value_k
    (0-based): with `outside` at REACH, value_i moves by half its distance to μ.
    """
    values, residual = space.values, space.residual
    mu = float(values[k])
    best = k + 1
    for s in range(k + 2, min(most + 1, values.numel())):
        among = slice(k + 1, s)
        if bool((residual[among] ** 2 <= _SHARE * (mu - values[among]) * (mu - values[s])).all()):
            best = s
    return best


def enclose(space: RitzSpace, k: int, outside: float) -> torch.Tensor:
    """Upper bounds (k+1,) of the k+1 greatest eigenvalues of A = WᵀW. Lower bounds are `space.values[:k+1]`.

    `outside`: a bound of the greatest eigenvalue of A on the complement of Q, below μ = space.values[k]. For θ ≥ μ the
    number of eigenvalues of A above θ is that of S(θ) above 0, S = QᵀAQ − θ + Rᵀ(θ − A_complement)⁻¹R ⪯ diag(values) +
    RᵀR/(μ − outside) − θ (Haynsworth's inertia of a Schur complement; R = AQ − Q diag(values)). So λ_i(A) ≤
    max(μ, λ_i(diag(values) + RᵀR/(μ − outside))): the bounds of Lehmann and Kato. Infinite where outside ≥ μ.
    """
    mu = float(space.values[k])
    if not outside < mu:
        return space.values.new_full((k + 1,), math.inf)
    remainder = space.remainder
    upper = torch.linalg.eigvalsh(torch.diag(space.values) + remainder.T @ remainder / (mu - outside)).flip(0)
    return upper[: k + 1].clamp(min=mu) + _ROUNDING * float(space.values[0])
