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
_TOGETHER = 2**21
"""Bytes of the frames that are drawn at once."""


def haar_frame(dimension: int, count: int, generator: np.random.Generator) -> np.ndarray:
    """(dimension, count) orthonormal columns, Haar-distributed: QR of a Gaussian with R's diagonal made positive."""
    return haar_frames(dimension, count, [generator])[0]


def haar_frames(dimension: int, count: int, generators: Sequence[np.random.Generator]) -> np.ndarray:
    """`haar_frame` from each generator, (b, dimension, count): the same numbers by one call."""
    drawn = np.empty((len(generators), dimension, count))
    for frame, generator in zip(drawn, generators, strict=True):
        generator.standard_normal(out=frame)
    q, r = np.linalg.qr(drawn)
    q *= np.where(np.diagonal(r, axis1=1, axis2=2) < 0, -1.0, 1.0)[:, None]
    return np.asarray(q)


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
        return haar_frames(dimension, count, generators)[:, :rows]
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
    """One draw of `null_draws`: scores (2, k)."""
    return null_draws(sigma_base, sigma_update, shape, k, [generator], device)[0]


def null_draws(
    sigma_base: np.ndarray,
    sigma_update: np.ndarray,
    shape: tuple[int, int],
    k: int,
    generators: Sequence[np.random.Generator],
    device: torch.device | None = None,
) -> np.ndarray:
    """One draw from each generator: scores (draws, 2, k) [left, right] of W0 + X diag(σ(Δ)) Yᵀ with Haar X (m, r),
    Y (n, r); NaN beyond p.

    In the base's coordinates W is D + X diag(σ(Δ)) Yᵀ with D = diag(σ⁰); singular vectors there *are* the cosines, of
    which the first p count. With m ≥ n its Gram is D² + Z Kᵀ + K Zᵀ, K = Y diag(σ(Δ)), Z = D X_p + K/2, where X_p are
    X's first p rows: the others enter only through XᵀX = 1. Wide shapes are transposed.
    """
    kept = min(k, *shape)
    strengths = sigma_update[sigma_update > negligible(sigma_update, shape)]
    base = torch.as_tensor(sigma_base, dtype=torch.float64, device=device)
    result = np.full((len(generators), 2, k), np.nan)
    # What a draw of a small matrix takes is mostly the calls, not the arithmetic: several are drawn at once.
    step = max(1, _TOGETHER // (8 * max(shape) * max(strengths.size, 1)))
    for first in range(0, len(generators), step):
        some = slice(first, first + step)
        result[some, :, :kept] = _scores(base, strengths, shape, kept, generators[some], device)
    return result if shape[0] >= shape[1] else result[:, ::-1].copy()


def _scores(
    base: torch.Tensor,
    strengths: np.ndarray,
    shape: tuple[int, int],
    kept: int,
    generators: Sequence[np.random.Generator],
    device: torch.device | None,
) -> np.ndarray:
    """The scores (b, 2, kept) [long side, short side] of some draws."""
    p = min(shape)
    x = torch.as_tensor(haar_batch(p, max(shape), strengths.size, generators), device=device)
    short = haar_frames(p, strengths.size, generators)
    short *= strengths
    scaled = torch.as_tensor(short, device=device)  # K
    mixed = (base[:, None] * x).add_(scaled, alpha=0.5)  # Z
    values, outer, inner = [], [], []
    squares = base**2
    for draw in zip(mixed, scaled, x, strict=True):
        # A product rounds by where its factors lie in memory: copies make a draw the same in any company.
        z, k, rows = (part.clone() for part in draw)
        gram = z @ k.T
        gram = gram + gram.T
        gram.diagonal().add_(squares)
        largest, vectors = top_eigenvectors(gram, kept)
        values.append(largest)
        inner.append(vectors)
        outer.append(rows @ (k.T @ vectors))
    sigma, short_side = torch.stack(values).clamp(min=0).sqrt(), torch.stack(inner)
    long_side = (base[:, None] * short_side + torch.stack(outer)) / torch.where(sigma > 0, sigma, 1.0)[:, None]
    scores = torch.stack([long_side.abs().amax(dim=1), short_side.abs().amax(dim=1)], dim=1)
    return torch.where(sigma[:, None] > 0, scores, torch.nan).clamp(max=1.0).cpu().numpy()
