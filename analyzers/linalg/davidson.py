"""Leading eigenpairs of MᵀM for low-rank updates in a base's coordinates: block Davidson, batched over updates.

The preconditioner is (D² − θ)⁻¹: for a diagonal plus few columns a correction has the exact eigenvector's form, so
that a handful of blocks suffice. What the start misses and no residual shows is for the inertia count to find.
Source: Davidson 1975; Morgan & Scott 1986.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from analyzers.linalg.base_coordinates import EPS, CoordinateUpdate

GUARD = 3
"""Pairs beyond the wanted ones, roughly converged: they keep the last wanted one from converging slowly."""
_GUARD_TOLERANCE = 1e-4
_BLOCKS = 40
_WIDEST = 4
"""The basis is restarted from its Ritz vectors before it exceeds so many times their number."""
_FLOOR = 32.0 * EPS
_LOST = 0.5


@dataclass(frozen=True)
class Pairs:
    """values (b, c) descending, vectors (b, p, c) orthonormal, residual (b, c) = ‖MᵀM y − λ y‖; `converged` (b,).

    Ritz values of an orthonormal basis: the i-th is never above the i-th eigenvalue (Cauchy).
    """

    values: torch.Tensor
    vectors: torch.Tensor
    residual: torch.Tensor
    converged: torch.Tensor

    def part(self, of: torch.Tensor) -> Pairs:
        """Those of some updates of the batch, by their indices."""
        return Pairs(self.values[of], self.vectors[of], self.residual[of], self.converged[of])


def leading_pairs(
    update: CoordinateUpdate, wanted: int, tolerance: float = 1e-9, start: torch.Tensor | None = None
) -> Pairs:
    """The `wanted` leading eigenpairs, and up to `GUARD` more. `start` (b, p, q) orthonormal, or the default.

    Converged: ‖MᵀM y − λ y‖ ≤ tolerance σ1 σ, that is a residual of tolerance · σ1 for the singular vectors of M.
    """
    p = update.sigma.numel()
    count = min(wanted + GUARD, p)
    basis = start_block(update, count) if start is None else start
    mixed = update.mixed()
    image = update.gram(basis, mixed)
    limits = torch.full((count,), _GUARD_TOLERANCE, dtype=basis.dtype, device=basis.device)
    limits[:wanted] = tolerance
    batch = torch.arange(len(basis), device=basis.device)  # the updates that are still iterated
    answers: list[tuple[torch.Tensor, Pairs]] = []
    for block in range(_BLOCKS):
        pairs, y, y_image = _ritz(basis, image, count)
        scale = (pairs.values[:, :1] * pairs.values.clamp(min=0)).sqrt()
        late = pairs.residual > torch.maximum(limits * scale, _FLOOR * pairs.values[:, :1])
        pairs = replace(pairs, converged=~late[:, :wanted].any(dim=1))
        unfinished = late.any(dim=1)
        if block == _BLOCKS - 1 or not bool(unfinished.any()):
            break
        if 2 * int(unfinished.sum()) <= len(batch):
            # Most of a batch are done a block before the last of it: the others go on alone.
            done, rest = (~unfinished).nonzero().squeeze(1), unfinished.nonzero().squeeze(1)
            answers.append((batch[done], pairs.part(done)))
            batch, update, mixed, pairs = batch[rest], update.part(rest), mixed[rest], pairs.part(rest)
            basis, image, y, y_image, late = basis[rest], image[rest], y[rest], y_image[rest], late[rest]
        active = late.any(dim=0).nonzero().squeeze(1)
        values = pairs.values[:, active]
        residual = y_image[:, :, active] - y[:, :, active] * values[:, None, :]
        if basis.shape[-1] + active.numel() > min(_WIDEST * count, p):
            basis, image = y, y_image
        more = orthonormalised(_preconditioned(update.sigma, residual, values), basis)
        if not bool(more.any()):
            break
        basis = torch.cat([basis, more], dim=-1)
        image = torch.cat([image, update.gram(more, mixed)], dim=-1)
    return _together([*answers, (batch, pairs)])


def _together(answers: list[tuple[torch.Tensor, Pairs]]) -> Pairs:
    """The pairs of all updates in their order, from those of disjoint parts of the batch."""
    order = torch.cat([batch for batch, _ in answers]).argsort()
    parts = [pairs for _, pairs in answers]
    return Pairs(
        torch.cat([pairs.values for pairs in parts])[order],
        torch.cat([pairs.vectors for pairs in parts])[order],
        torch.cat([pairs.residual for pairs in parts])[order],
        torch.cat([pairs.converged for pairs in parts])[order],
    )


def start_block(update: CoordinateUpdate, count: int) -> torch.Tensor:
    """(b, p, q): the base's `count` leading vectors and as many of the update's own strongest directions."""
    p = update.sigma.numel()
    leading = torch.eye(p, count, dtype=update.sigma.dtype, device=update.sigma.device)
    own = (update.short / update.strengths[:, None, :])[:, :, : min(count, p - count)]
    leading = leading.expand(own.shape[0], p, count)
    return torch.cat([leading, orthonormalised(own, leading)], dim=-1)


def orthonormalised(vectors: torch.Tensor, against: torch.Tensor) -> torch.Tensor:
    """An orthonormal basis (b, p, c) of what the columns of `vectors` add to the orthonormal `against` (b, p, q).

    A direction that adds nothing becomes an arbitrary one, or a column of zeros, so that a batch keeps one shape.
    """
    against_rows = against.mT
    for _ in range(2):  # twice is enough (Kahan & Parlett)
        vectors = vectors - against @ (against_rows @ vectors)
        vectors, triangle = torch.linalg.qr(vectors)
    # Of what had unit length after the first pass the second takes next to nothing, unless it was rounding only.
    lost = triangle.diagonal(dim1=-2, dim2=-1).abs() < _LOST
    return vectors.masked_fill(lost[:, None, :], 0.0) if bool(lost.any()) else vectors


def _ritz(basis: torch.Tensor, image: torch.Tensor, count: int) -> tuple[Pairs, torch.Tensor, torch.Tensor]:
    """Ritz pairs of the basis, their vectors, and MᵀM times these."""
    projected = basis.mT @ image
    values, rotation = torch.linalg.eigh((projected + projected.mT) / 2)
    values, rotation = values.flip(1)[:, :count], rotation.flip(2)[:, :, :count]
    y, y_image = basis @ rotation, image @ rotation
    residual = torch.linalg.vector_norm(y_image - y * values[:, None, :], dim=1)
    return Pairs(values, y, residual, values.new_zeros(len(values), dtype=torch.bool)), y, y_image


def _preconditioned(sigma: torch.Tensor, residual: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """(D² − θ)⁻¹ r, each θ its own Ritz value; (b, p, c). Near a pole the distance is kept from 0."""
    distance = (sigma**2)[None, :, None] - values[:, None, :]
    least = 1e-9 * values[:, :1, None].abs()
    return residual / torch.where(distance.abs() > least, distance, torch.where(distance < 0, -least, least))
