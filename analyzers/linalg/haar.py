"""Haar-random orthonormal vectors, and the scores of an update that has them: the null of intruder dimensions.

A random rotation of Δ on both sides keeps its singular values and forgets its directions. Since U0ᵀX is Haar when X
is, the null lives in the base's singular coordinates and needs neither W0 nor its vectors: only σ(W0), σ(Δ), m and n.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from analyzers.linalg.lowrank_update import top_eigenvectors

_TALL = 4


def haar_frame(dimension: int, count: int, generator: np.random.Generator) -> np.ndarray:
    """(dimension, count) orthonormal columns, Haar-distributed: QR of a Gaussian with R's diagonal made positive."""
    q, r = np.linalg.qr(generator.standard_normal((dimension, count)))
    q *= np.where(np.diag(r) < 0, -1.0, 1.0)
    return q


def haar_rows(rows: int, dimension: int, count: int, generator: np.random.Generator) -> np.ndarray:
    """The first `rows` rows, (rows, count), of a Haar frame (dimension, count), without drawing the others.

    A Gaussian G = [G1; G2] has the frame G (GᵀG)^{-1/2} up to a rotation that Haar absorbs; of G2 only the Wishart
    matrix G2ᵀG2 enters, drawn by its Bartlett factor. An embedding of 30 522 rows costs what one of 384 does.
    """
    return haar_batch(rows, dimension, count, [generator])[0]


def haar_batch(rows: int, dimension: int, count: int, generators: Sequence[np.random.Generator]) -> np.ndarray:
    """`haar_rows` from each generator, (b, rows, count): the same numbers, and one call for all small factorizations.

    By Cholesky, which is as good as QR where a Gaussian is well-conditioned, that is much taller than wide (of 4 × the
    width κ is about 3); else each by QR.
    """
    hidden = dimension - rows
    if hidden < count and dimension < _TALL * count:
        return np.stack([haar_frame(dimension, count, generator)[:rows] for generator in generators])
    visible = np.empty((len(generators), dimension if hidden < count else rows, count))
    wishart = np.zeros((len(generators), count, count))
    for i, generator in enumerate(generators):
        generator.standard_normal(out=visible[i])
        if hidden >= count:
            bartlett = np.tril(generator.standard_normal((count, count)), -1)
            bartlett[np.diag_indices(count)] = np.sqrt(generator.chisquare(hidden - np.arange(count)))
            wishart[i] = bartlett @ bartlett.T
    gram = visible.transpose(0, 2, 1) @ visible + wishart
    # GᵀG = L Lᵀ: G L⁻ᵀ is orthonormal, and the Q of G's QR with a positive diagonal
    return (visible @ np.linalg.inv(np.linalg.cholesky(gram)).transpose(0, 2, 1))[:, :rows]


def negligible(sigma_update: np.ndarray, shape: tuple[int, int]) -> float:
    """max(m, n) ε σ1: singular values of Δ (r,) up to here are rounding."""
    return max(shape) * float(np.finfo(np.float64).eps) * float(sigma_update.max(initial=0.0))


def null_similarities(
    sigma_base: np.ndarray,
    sigma_update: np.ndarray,
    shape: tuple[int, int],
    k: int,
    generator: np.random.Generator,
    device: torch.device | None = None,
) -> np.ndarray:
    """One draw: scores (2, k) [left, right] of W0 + X diag(σ(Δ)) Yᵀ with Haar X (m, r), Y (n, r); NaN beyond p.

    In the base's coordinates W is D + X diag(σ(Δ)) Yᵀ with D = diag(σ⁰); singular vectors there *are* the cosines, of
    which the first p count. With m ≥ n its Gram is D² + Z Kᵀ + K Zᵀ, K = Y diag(σ(Δ)), Z = D X_p + K/2, where X_p are
    X's first p rows: the others enter only through XᵀX = 1. Wide shapes are transposed.
    """
    p, kept = min(shape), min(k, min(shape))
    strengths = sigma_update[sigma_update > negligible(sigma_update, shape)]
    long_rows = haar_rows(p, max(shape), strengths.size, generator)
    short = haar_frame(p, strengths.size, generator)
    short *= strengths
    base = torch.as_tensor(sigma_base, dtype=torch.float64, device=device)
    x = torch.as_tensor(long_rows, device=device)
    scaled = torch.as_tensor(short, device=device)  # K
    mixed = (base[:, None] * x).add_(scaled, alpha=0.5)  # Z
    gram = mixed @ scaled.T
    del mixed
    gram = gram + gram.T
    gram.diagonal().add_(base**2)
    values, inner = top_eigenvectors(gram, kept)
    sigma = values.clamp(min=0).sqrt()
    outer = (base[:, None] * inner + x @ (scaled.T @ inner)) / torch.where(sigma > 0, sigma, 1.0)
    scores = torch.stack([outer.abs().amax(dim=0), inner.abs().amax(dim=0)])  # long side, short side
    scores = torch.where(sigma > 0, scores, torch.nan).clamp(max=1.0)
    result = np.full((2, k), np.nan)
    result[:, :kept] = scores.cpu().numpy()
    return result if shape[0] >= shape[1] else result[::-1].copy()
