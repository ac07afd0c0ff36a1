"""The leading singular triplets of a tuned matrix, given its base.

One small function, `top_vectors`, stands between the analyzers and the method, so that a faster one that works in
the base's singular coordinates can take its place without touching them.
"""

from __future__ import annotations

from dataclasses import dataclass

import scipy.linalg
import torch

from analyzers.contract import Content
from analyzers.linalg.blocks import dense64
from analyzers.linalg.subspaces import BaseVectors

_RESIDUAL_WANTED = 1e-11
"""Relative to σ1: above it the Gram's rounding shows, and the full SVD is taken instead."""


@dataclass(frozen=True)
class TopVectors:
    """left: (m, k'), sigma: (k',) descending, right: (n, k'), float64, k' = min(k, p).

    `following` is σ_{k'+1}, or None when all p are here. `residual` (k',): √(‖W v − σ u‖² + ‖Wᵀ u − σ v‖²), measured.
    """

    left: torch.Tensor
    sigma: torch.Tensor
    right: torch.Tensor
    following: float | None
    residual: torch.Tensor

    def side(self, side: int) -> torch.Tensor:
        """0: left, 1: right."""
        return self.right if side else self.left

    @property
    def gap(self) -> torch.Tensor:
        """(k',): distance of each σ to the nearest other singular value of W (to 0 too, where W is not square)."""
        return spectrum_gap(self.sigma, (self.left.shape[0], self.right.shape[0]), self.following)


def spectrum_gap(sigma: torch.Tensor, shape: tuple[int, int], following: float | None = None) -> torch.Tensor:
    """(k,): distance of each of the descending `sigma` to its neighbours, to `following`, and to 0 where m ≠ n.

    The singular vectors are eigenvectors of [[0, W], [Wᵀ, 0]], whose eigenvalues are ±σ, and 0 if m ≠ n.
    """
    gap = (2.0 if shape[0] == shape[1] else 1.0) * sigma
    if sigma.numel() > 1:
        steps = sigma[:-1] - sigma[1:]
        gap[:-1] = torch.minimum(gap[:-1], steps)
        gap[1:] = torch.minimum(gap[1:], steps)
    if following is not None and sigma.numel():
        gap[-1] = torch.minimum(gap[-1], sigma[-1] - following)
    return gap


def top_vectors(tuned: Content, reference: torch.Tensor, base: BaseVectors, k: int) -> TopVectors:
    """The k leading singular triplets of W. Any float dtype in, float64 out.

    Leading eigenvectors of the float64 Gram of the smaller side, other side by W; the residual is then measured, and
    where it exceeds 1e-11 σ1 (a steep spectrum) a full float64 SVD answers. `reference` (m, n) and `base` are what a
    method in the base's coordinates starts from; this one needs W alone.
    """
    return leading_triplets(dense64(tuned), k)


def leading_triplets(dense: torch.Tensor, k: int) -> TopVectors:
    """As `top_vectors`, of a dense float64 matrix (m, n)."""
    wide = dense.shape[0] < dense.shape[1]
    tall = dense.T if wide else dense
    p = tall.shape[1]
    wanted = min(k, p)
    values, vectors = top_eigenvectors(tall.T @ tall, min(wanted + 1, p))
    sigma = values.clamp(min=0).sqrt()
    following = float(sigma[wanted]) if p > wanted else None
    right = vectors[:, :wanted]
    image = tall @ right
    sigma = torch.linalg.vector_norm(image, dim=0)  # Rayleigh quotient: better than √λ
    left = image / torch.where(sigma > 0, sigma, 1.0)
    residual = torch.linalg.vector_norm(tall.T @ left - right * sigma, dim=0)
    steep = bool((residual > _RESIDUAL_WANTED * sigma[:1]).any()) or bool((sigma[1:] > sigma[:-1]).any())
    if steep or not bool((sigma > 0).all()):
        return _by_svd(dense, wanted)
    return (
        TopVectors(right, sigma, left, following, residual)
        if wide
        else TopVectors(left, sigma, right, following, residual)
    )


def top_eigenvectors(symmetric: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k greatest eigenvalues (k,), descending, and their vectors (n, k) of a symmetric float64 matrix (n, n).

    Overwrites its argument on the CPU, where LAPACK computes only the wanted ones (4× faster than all at n = 384).
    """
    n = symmetric.shape[0]
    if symmetric.device.type == "cpu":
        # .T: symmetric, and already in the column order that LAPACK overwrites without a copy
        values, vectors = scipy.linalg.eigh(
            symmetric.numpy().T, subset_by_index=(n - k, n - 1), overwrite_a=True, check_finite=False, driver="evr"
        )
        return torch.from_numpy(values).flip(0), torch.from_numpy(vectors).flip(1)
    values, vectors = torch.linalg.eigh(symmetric)
    return values[n - k :].flip(0), vectors[:, n - k :].flip(1)


def _by_svd(dense: torch.Tensor, wanted: int) -> TopVectors:
    u, sigma, vh = torch.linalg.svd(dense, full_matrices=False)
    left, right, kept = u[:, :wanted].clone(), vh[:wanted].T.clone(), sigma[:wanted].clone()
    following = float(sigma[wanted]) if sigma.numel() > wanted else None
    forward = torch.linalg.vector_norm(dense @ right - left * kept, dim=0)
    backward = torch.linalg.vector_norm(dense.T @ left - right * kept, dim=0)
    return TopVectors(left, kept, right, following, torch.hypot(forward, backward))
