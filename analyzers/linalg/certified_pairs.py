"""Leading pairs of updated bases together with the proof that they are the leading ones, for a batch of updates."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from analyzers.linalg.base_coordinates import CoordinateUpdate
from analyzers.linalg.davidson import leading_pairs, orthonormalised
from analyzers.linalg.inertia import count_above, place_threshold

SMALLEST = 128
"""Of the smaller side: below it the eigenvectors of the dense Gram cost no more."""


@dataclass(frozen=True)
class CertifiedPairs:
    """`values` (b, k) λ = σ² descending, `vectors` (b, p, k), `residual` (b, k) as in `Pairs`. `following` (b,): an
    upper bound of λ_{k+1}, close where it could be. `proven` (b,): the k are converged and are the leading ones."""

    values: torch.Tensor
    vectors: torch.Tensor
    residual: torch.Tensor
    following: torch.Tensor
    proven: torch.Tensor


def worthwhile(p: int, rank: int, k: int) -> bool:
    """Whether the kernel is meant for k vectors of a rank-r update on a smaller side of p.

    Of higher rank, or with so many vectors, the eigenvectors of the dense Gram are cheaper.
    """
    return p >= SMALLEST and 0 < rank <= p // 4 and min(rank, k) + k <= p // 8


def certified_pairs(
    update: CoordinateUpdate, k: int, tolerance: float = 1e-9, start: torch.Tensor | None = None
) -> CertifiedPairs:
    """The k leading eigenpairs of MᵀM, each update of the batch with its inertia count.

    What the count does not confirm is tried once more from as many of the base's vectors as the update could have
    brought up, k + r (Weyl), and all of its own directions; what is then unproven is left to a full factorization.
    """
    found = _attempt(update, k, tolerance, start)
    doubtful = (~found.proven).nonzero().squeeze(1)
    if not doubtful.numel():
        return found
    part = update.part(doubtful)
    again = _attempt(part, k, tolerance, _every_candidate(part, k))
    merged = {}
    for name in ("values", "vectors", "residual", "following", "proven"):
        whole = getattr(found, name).clone()
        whole[doubtful] = getattr(again, name)
        merged[name] = whole
    return CertifiedPairs(**merged)


def _attempt(update: CoordinateUpdate, k: int, tolerance: float, start: torch.Tensor | None) -> CertifiedPairs:
    pairs = leading_pairs(update, k, tolerance, start)
    threshold = place_threshold(update.sigma**2, pairs, k)
    inertia = count_above(update, threshold.theta)
    proven = pairs.converged & threshold.sound & inertia.decided & (inertia.count == threshold.above)
    following = torch.where(threshold.above > k, pairs.values[:, k] + threshold.residual[:, k], threshold.theta)
    return CertifiedPairs(pairs.values[:, :k], pairs.vectors[:, :, :k], pairs.residual[:, :k], following, proven)


def _every_candidate(update: CoordinateUpdate, k: int) -> torch.Tensor:
    p, device = update.sigma.numel(), update.sigma.device
    leading = torch.eye(p, min(p, k + update.rank + 4), dtype=torch.float64, device=device)
    leading = leading.expand(len(update.slack), *leading.shape)
    return torch.cat([leading, orthonormalised(update.short / update.strengths[:, None, :], leading)], dim=-1)
