"""A low-rank update of a base, in the singular coordinates of that base: a diagonal plus r columns, nothing of m × n.

With W0 = U0 D V0ᵀ and Δ = X diag(τ) Yᵀ, the singular values of W0 + Δ are those of M = [D; 0] + [P; R] Kᵀ, where
P = U0ᵀX, R what of X lies outside U0 (RᵀR = 1 − PᵀP) and K = V0ᵀY diag(τ); the entries of M's singular vectors are
cosines with the base's vectors. Wide matrices are transposed: the short side never has a remainder.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from analyzers.contract import LowRank
from analyzers.linalg.subspaces import BaseVectors, cosines, widened

EPS = torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class CoordinateUpdate:
    """b updates of one base, float64: sigma (p,) descending; strengths (b, r) τ > 0; inside (b, p, r) P; short
    (b, p, r) K. What of X lies outside the base's span enters MᵀM only through XᵀX = 1.

    `slack` (b,) bounds ‖M − its exact self‖₂: the precision in which the base's vectors are kept, and the backward
    error of its factorization.
    """

    sigma: torch.Tensor
    strengths: torch.Tensor
    inside: torch.Tensor
    short: torch.Tensor
    slack: torch.Tensor

    @property
    def rank(self) -> int:
        """r."""
        return int(self.short.shape[-1])

    def part(self, of: torch.Tensor) -> CoordinateUpdate:
        """Some updates of the batch, by their indices."""
        return CoordinateUpdate(self.sigma, self.strengths[of], self.inside[of], self.short[of], self.slack[of])

    def mixed(self) -> torch.Tensor:
        """Z = D P + K/2, (b, p, r): MᵀM = D² + Z Kᵀ + K Zᵀ."""
        return (self.sigma[:, None] * self.inside).add_(self.short, alpha=0.5)

    def gram(self, x: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        """MᵀM x, (b, p, c), for x (b, p, c) and `mixed` = Z: O(p r c)."""
        image = (self.sigma**2)[:, None] * x
        image.baddbmm_(mixed, self.short.mT @ x)
        return image.baddbmm_(self.short, mixed.mT @ x)

    def long_vectors(self, y: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """The first p coordinates, (b, p, c), of the long side's vectors M y/σ; y (b, p, c), sigma (b, c)."""
        return (self.sigma[:, None] * y + self.inside @ (self.short.mT @ y)) / _safe(sigma)[:, None, :]

    def outside(self, y: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """(b, r, c) such that R · this is the part of the long side's vectors outside the base's span."""
        return (self.short.mT @ y) / _safe(sigma)[:, None, :]


@dataclass(frozen=True)
class AdapterCoordinates:
    """One adapter's `update` (b = 1), and `remainder` (r, r): R of X's part outside the base's span, (0, r) if square.

    `wide`: the base has more columns than rows, and the long side is the right one.
    """

    update: CoordinateUpdate
    remainder: torch.Tensor
    wide: bool


def compact(delta: LowRank) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Δ = X diag(τ) Yᵀ with orthonormal X (m, r'), Y (n, r') and τ (r',) > 0 descending, r' the numerical rank.

    By QR of both factors, float64; τ below max(m, n) ε τ1 are rounding and are left out (‖·‖₂ so small is inside the
    backward error of any factorization of W).
    """
    x, r_b = torch.linalg.qr(delta.b.double())
    y, r_a = torch.linalg.qr(delta.a.double().mT)
    u, tau, vh = torch.linalg.svd(delta.scale * (r_b @ r_a.mT))
    rank = min(r_b.shape[0], r_a.shape[0])  # more columns than rows: the product has no more than this
    kept = int((tau[:rank] > max(x.shape[0], y.shape[0]) * EPS * tau[:1]).sum()) if tau.numel() else 0
    return x @ u[:, :kept], tau[:kept], y @ vh[:kept].mT


def adapter_coordinates(delta: LowRank, base: BaseVectors) -> AdapterCoordinates:
    """The adapter in its base's coordinates: two thin products with the base's vectors, three where m ≠ n."""
    x, tau, y = compact(delta)
    m, n = base.shape
    wide = m < n
    long, short = (y, x) if wide else (x, y)
    long_basis, short_basis = base.side(int(wide)), base.side(1 - int(wide))
    inside = cosines(long_basis, long)
    remainder = long.new_zeros((0, tau.numel()))
    if m != n and tau.numel():
        remainder = torch.linalg.qr(subtract_span(long_basis, inside, long), mode="r").R
    strongest = float(tau[0]) if tau.numel() else 0.0
    # P, K and, where there is one, the remainder are each off by ‖Û − U‖ ‖Δ‖; 1 % for terms of second order.
    off = 1.01 * strongest * ((2.0 if m != n else 1.0) * base.deviation(int(wide)) + base.deviation(1 - int(wide)))
    slack = base.sigma.new_tensor([off + base.backward_error * (float(base.sigma[0]) + strongest)])
    update = CoordinateUpdate(base.sigma, tau[None], inside[None], (cosines(short_basis, short) * tau)[None], slack)
    return AdapterCoordinates(update, remainder, wide)


def subtract_span(basis: torch.Tensor, coordinates: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """vectors − basis coordinates, (d, r) float64, for basis (d, p), coordinates (p, r), vectors (d, r)."""
    rest, turned = vectors.clone(), coordinates.mT.contiguous()
    for start, wide in widened(basis):
        rest[start : start + len(wide)] -= (turned @ wide.mT).mT
    return rest


def _safe(sigma: torch.Tensor) -> torch.Tensor:
    return torch.where(sigma > 0, sigma, 1.0)
