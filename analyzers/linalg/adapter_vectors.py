"""The leading singular vectors of an adapter on its base, as coordinates in the base's singular vectors.

Nothing of m × n is formed or factorized: two thin products with the base's vectors, then a problem of p × r. The
answer is proven complete by an inertia count, or there is none and the caller factorizes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from analyzers.contract import LowRank
from analyzers.linalg import methods
from analyzers.linalg.base_coordinates import adapter_coordinates
from analyzers.linalg.certified_pairs import certified_pairs, worthwhile
from analyzers.linalg.gaps import spectrum_gap
from analyzers.linalg.subspaces import BaseVectors

ERROR_WANTED = 1e-4
"""Bound of a score's error from which on a factorization of W itself is asked for."""


@dataclass(frozen=True)
class CoordinateVectors:
    """The k leading triplets of W. sigma (k,) descending; `inside`: of left and right vectors the coordinates (p, k)
    in the base's vectors, which are the cosines with them; `outside`: what lies elsewhere, (r, k) and (0, k) or the
    other way round, in an orthonormal frame of its own. `shape` (m, n) of W. All float64.

    `following`: σ_{k+1} or a close upper bound. `residual` (k,): a bound of √(‖W v − σ u‖² + ‖Wᵀ u − σ v‖²) for the
    exact base vectors; `slack`: how far any σ here may be from W's own.
    """

    sigma: torch.Tensor
    inside: tuple[torch.Tensor, torch.Tensor]
    outside: tuple[torch.Tensor, torch.Tensor]
    shape: tuple[int, int]
    following: float
    residual: torch.Tensor
    slack: float
    method: int = methods.ADAPTER

    @property
    def gap(self) -> torch.Tensor:
        """(k,): a lower bound of each σ's distance to every other singular value of W."""
        return (spectrum_gap(self.sigma, self.shape, self.following) - 2.0 * self.slack).clamp(min=0)

    def cosines(self, base: BaseVectors, side: int) -> torch.Tensor:
        """(p, k): cosines with all of the base's vectors of one side (0 left, 1 right)."""
        return self.inside[side]

    def subspaces(self, base: BaseVectors, side: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The base's `count` leading vectors and these k, in one orthonormal frame: (d, count), (d, k)."""
        vectors = torch.cat([self.inside[side], self.outside[side]])
        frame = torch.eye(vectors.shape[0], min(count, base.sigma.numel()), dtype=vectors.dtype, device=vectors.device)
        return frame, vectors


def adapter_vectors(delta: LowRank, base: BaseVectors, k: int) -> CoordinateVectors | None:
    """The k leading singular vectors of W0 + Δ; None where they are not proven complete, or a score's error bound
    exceeds `ERROR_WANTED`, or W is too small for this to pay."""
    if not worthwhile(base.sigma.numel(), int(delta.b.shape[1]), k):
        return None
    coordinates = adapter_coordinates(delta, base)
    update = coordinates.update
    if not update.rank:
        return None
    found = certified_pairs(update, k)
    if not bool(found.proven):
        return None
    sigma = found.values.sqrt()
    outside = coordinates.remainder @ update.outside(found.vectors, sigma)[0]
    long = (update.long_vectors(found.vectors, sigma)[0], outside)
    short = (found.vectors[0], found.vectors.new_zeros((0, k)))
    left, right = (short, long) if coordinates.wide else (long, short)
    slack = float(update.slack)
    answer = CoordinateVectors(
        sigma[0],
        (left[0], right[0]),
        (left[1], right[1]),
        base.shape,
        float(found.following.sqrt()),
        found.residual[0] / sigma[0] + 2.0**0.5 * slack,
        slack,
    )
    error = 2.0**0.5 * answer.residual
    return answer if bool((error <= ERROR_WANTED * answer.gap).all()) else None
