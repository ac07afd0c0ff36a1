"""The leading singular triplets of a tuned matrix, given its base.

One small function, `top_vectors`, stands between the analyzers and the method, so that a faster one that works in
the base's singular coordinates can take its place without touching them.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg.lapack import dsyevr, dsyevr_lwork

from analyzers.contract import Content, LowRank, Sum
from analyzers.linalg import methods
from analyzers.linalg.adapter_vectors import CoordinateVectors, adapter_vectors
from analyzers.linalg.blocks import BLOCK_BYTES, dense64
from analyzers.linalg.dense_top import FROM, Blend, certified_triplets
from analyzers.linalg.gaps import spectrum_gap
from analyzers.linalg.subspaces import BaseVectors, cosines

_RESIDUAL_WANTED = 1e-11
"""Relative to σ1: above it the Gram's rounding shows, and the full SVD is taken instead."""
_STEEP = 1e-3
"""Of σ1: what is above it a Gram gives as exactly as an SVD."""


@dataclass(frozen=True)
class TopVectors:
    """left: (m, k'), sigma: (k',) descending, right: (n, k'), float64, k' = min(k, p).

    `following` is σ_{k'+1} or a close upper bound of it, or None when all p are here. `residual` (k',):
    √(‖W v − σ u‖² + ‖Wᵀ u − σ v‖²), measured. `method`: a code of `analyzers.linalg.methods`.
    """

    left: torch.Tensor
    sigma: torch.Tensor
    right: torch.Tensor
    following: float | None
    residual: torch.Tensor
    method: int = methods.GRAM

    def side(self, side: int) -> torch.Tensor:
        """0: left, 1: right."""
        return self.right if side else self.left

    @property
    def gap(self) -> torch.Tensor:
        """(k',): distance of each σ to the nearest other singular value of W (to 0 too, where W is not square)."""
        return spectrum_gap(self.sigma, (self.left.shape[0], self.right.shape[0]), self.following)

    def cosines(self, base: BaseVectors, side: int) -> torch.Tensor:
        """(p, k'): cosines with all of the base's vectors of one side (0 left, 1 right)."""
        return cosines(base.side(side), self.side(side))

    def subspaces(self, base: BaseVectors, side: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The base's `count` leading vectors and these k', (d, count), (d, k')."""
        return base.side(side)[:, :count], self.side(side)


Leading = TopVectors | CoordinateVectors
"""The k leading triplets of W, as vectors or, of an adapter, as coordinates in the base's."""


def top_vectors(
    tuned: Content | Blend, reference: torch.Tensor, base: BaseVectors, k: int, start: torch.Tensor | None = None
) -> Leading:
    """The k leading singular triplets of W. Any float dtype in, float64 out.

    An adapter on `reference` itself: `adapter_vectors`. A dense W, and an adapter of which that proves nothing, whose
    smaller side is at least `FROM`: `certified_triplets`, begun from the base's vectors and from `start` (p, any), of
    the smaller side. Where that certifies nothing, and below: leading eigenvectors of the float64 Gram of the smaller
    side, other side by W; the residual is then measured, and where it exceeds 1e-11 σ1 (a steep
    spectrum) a full float64 SVD answers; of a large W, the Gram of what is left without the exact ones (`_below`).
    Which it was is the answer's `method`.
    """
    if isinstance(tuned, Sum) and tuned.base is reference:
        in_coordinates = adapter_vectors(tuned.delta, base, k)
        if in_coordinates is not None:
            return in_coordinates
    if not isinstance(tuned, Blend):
        tuned = Blend(((1.0, dense64(tuned) if isinstance(tuned, Sum | LowRank) else tuned),))
    if min(tuned.shape) >= FROM:
        found = certified_triplets(tuned, base, k, start)
        if found is not None:
            sides = (found.long, found.short) if tuned.shape[0] >= tuned.shape[1] else (found.short, found.long)
            return TopVectors(sides[0], found.sigma, sides[1], found.following, found.residual, methods.KRYLOV)
    return leading_triplets(tuned.dense(), k)


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
        good = _RESIDUAL_WANTED * sigma[0] >= residual
        sound = good & (sigma > _STEEP * sigma[0])
        exact = int(sound.cumprod(0).sum())
        if p < FROM or not exact or not bool((sigma[1:exact] <= sigma[: exact - 1]).all()):
            return _by_svd(dense, wanted)
        first = (left[:, :exact], sigma[:exact], right[:, :exact])
        return _below(dense, (first[2], first[1], first[0]) if wide else first, wanted)
    return (
        TopVectors(right, sigma, left, following, residual)
        if wide
        else TopVectors(left, sigma, right, following, residual)
    )


def _below(dense: torch.Tensor, first: tuple[torch.Tensor, torch.Tensor, torch.Tensor], wanted: int) -> TopVectors:
    """The `wanted` leading triplets where the `first` (left, sigma, right) are known: W without them is not steep.

    Subtracting U1 diag(σ1..) V1ᵀ errs by ε σ1, as an SVD does; of the rest the Gram knows the next three decades. One
    float64 copy of W more than the Gram takes, where an SVD takes six.
    """
    left, sigma, right = first
    rest = dense.clone()
    step = max(1, BLOCK_BYTES // (8 * rest.shape[1]))
    for start in range(0, rest.shape[0], step):
        rest[start : start + step].addmm_(left[start : start + step] * sigma, right.T, alpha=-1.0)
    below = leading_triplets(rest, wanted - sigma.numel())
    del rest
    left, right = _beside(left, below.left), _beside(right, below.right)
    sigma = torch.cat([sigma, below.sigma])
    forward = torch.linalg.vector_norm(dense @ right - left * sigma, dim=0)
    backward = torch.linalg.vector_norm(dense.T @ left - right * sigma, dim=0)
    return TopVectors(left, sigma, right, below.following, torch.hypot(forward, backward), below.method)


def _beside(first: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Both, `others` made orthogonal to `first` (which they are up to ε σ1/σ) and to each other again."""
    for _ in range(2):
        others = others - first @ (first.T @ others)
        q, r = torch.linalg.qr(others)
        others = q * torch.where(r.diagonal() < 0, -1.0, 1.0)
    return torch.cat([first, others], dim=1)


def top_eigenvectors(symmetric: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k greatest eigenvalues (k,), descending, and their vectors (n, k) of a symmetric float64 matrix (n, n).

    Overwrites its argument on the CPU, where LAPACK computes only the wanted ones (4× faster than all at n = 384).
    """
    n = symmetric.shape[0]
    if symmetric.device.type == "cpu":
        diagonal = symmetric.diagonal().clone()
        # .T: symmetric, and already in the column order that LAPACK overwrites without a copy
        values, vectors = _leading_by_lapack(symmetric.numpy().T, k)
        if len(values) == k:
            return torch.from_numpy(values).flip(0), torch.from_numpy(vectors).flip(1)
        # Of a cluster the subset driver can return fewer than were asked for. One triangle of its input is left.
        symmetric = symmetric.tril(-1)
        symmetric = symmetric + symmetric.T + torch.diag(diagonal)
    values, vectors = torch.linalg.eigh(symmetric)
    return values[n - k :].flip(0), vectors[:, n - k :].flip(1)


def _leading_by_lapack(symmetric: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Up to k greatest eigenvalues, ascending, and their vectors, of the lower triangle of a column-major (n, n).

    The call that `scipy.linalg.eigh` makes with its driver "evr", without what that does around it, which for a matrix
    of 32² takes half as long again.
    """
    n = len(symmetric)
    lwork, liwork = _workspace(n)
    values, vectors, count, _, info = dsyevr(
        symmetric, range="I", lower=1, il=n - k + 1, iu=n, lwork=lwork, liwork=liwork, overwrite_a=1
    )
    if info:
        raise np.linalg.LinAlgError(f"LAPACK's dsyevr found no eigenvectors of a matrix of {n}² (info {info})")
    return values[:count], vectors[:, :count]


@functools.lru_cache(maxsize=1024)
def _workspace(n: int) -> tuple[int, int]:
    """Numbers and integers that dsyevr wants to work in."""
    lwork, liwork, _ = dsyevr_lwork(n, lower=1)
    return int(lwork), int(liwork)


def _by_svd(dense: torch.Tensor, wanted: int) -> TopVectors:
    u, sigma, vh = torch.linalg.svd(dense, full_matrices=False)
    left, right, kept = u[:, :wanted].clone(), vh[:wanted].T.clone(), sigma[:wanted].clone()
    following = float(sigma[wanted]) if sigma.numel() > wanted else None
    forward = torch.linalg.vector_norm(dense @ right - left * kept, dim=0)
    backward = torch.linalg.vector_norm(dense.T @ left - right * kept, dim=0)
    return TopVectors(left, kept, right, following, torch.hypot(forward, backward), methods.SVD)
