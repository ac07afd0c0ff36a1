"""All singular vectors of a large matrix in about three float64 copies of it, where a bidiagonal SVD takes seven.

Eigenvectors of the float64 Gram of the smaller side give one side, the matrix itself the other. What a Gram loses,
the directions of small σ, is found again by a small SVD; orthonormality is then measured, and without it there is no
answer: the caller falls back to LAPACK's SVD.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import scipy.linalg
import torch

from analyzers.contract import Content
from analyzers.linalg.blocks import blocks64, shape_of
from analyzers.linalg.kept_precision import deviation, precision

SMALL = 1e-3
"""Below this share of σ1 a direction is found anew: a Gram knows it only to ε (σ1/σ)²."""
ORTHONORMAL = 2.0**-26
"""Largest |UᵀU − I| that is taken: a quarter of what rounding the vectors to float32 does to a cosine."""
_COLUMNS_AT_ONCE = 256


def gram_vectors(content: Content) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor] | None:
    """left (m, p) float32, sigma (p,) float64 descending, right (n, p) float32, and their precision (`precision`).

    None where it is not certified.

    W V = U diag(σ) holds to rounding by construction, and V is orthonormal to rounding. When U is orthonormal too this
    is an SVD of W up to a backward error of about ε p σ1 (σ1/σ) in each direction, p = min(m, n). CPU only.
    """
    m, n = shape_of(content)
    wide = m < n
    p = min(m, n)
    gram = torch.zeros((p, p), dtype=torch.float64)
    for block in _tall_blocks(content, wide):
        gram.addmm_(block.T, block)
    # Symmetric, so .T is the same matrix in the column order that LAPACK overwrites without a copy.
    values, eigenvectors = scipy.linalg.eigh(gram.numpy().T, overwrite_a=True, check_finite=False, driver="evr")
    del gram
    if not values[-1] > 0:
        return None
    v = torch.from_numpy(eigenvectors)  # ascending
    small = int((values < SMALL**2 * values[-1]).sum())
    if small > p // 8:
        return None
    if small:
        image = torch.cat([block @ v[:, :small] for block in _tall_blocks(content, wide)])
        mixing = torch.linalg.svd(image, full_matrices=False).Vh
        v[:, :small] = v[:, :small] @ mixing.T.flip(1)
        del image
    u = torch.empty((max(m, n), p), dtype=torch.float64)  # filled in place: torch.cat would hold it twice
    filled = 0
    for block in _tall_blocks(content, wide):
        torch.mm(block, v, out=u[filled : filled + len(block)])
        filled += len(block)
    sigma = torch.linalg.vector_norm(u, dim=0)
    if not bool((sigma > p * torch.finfo(torch.float64).eps * sigma.max()).all()):
        return None
    u /= sigma
    lost = _nonorthonormality(u)
    if lost is None:
        return None
    order = torch.argsort(sigma, descending=True)
    tall_side, other_side = _narrowed(u, order), _narrowed(v, order)
    of_tall, of_other = deviation(u, tall_side, order), deviation(v, other_side, order)
    if wide:
        return other_side, sigma[order], tall_side, precision(of_other, of_tall, lost)
    return tall_side, sigma[order], other_side, precision(of_tall, of_other, lost)


def _tall_blocks(content: Content, wide: bool) -> Iterator[torch.Tensor]:
    """Row blocks of W, or of Wᵀ when W is wide: (rows, p) float64."""
    for block in blocks64(content, axis=1 if wide else 0):
        yield block.T if wide else block


def _nonorthonormality(u: torch.Tensor) -> float | None:
    """‖UᵀU − I‖_F, None where an entry exceeds `ORTHONORMAL`; a block of columns at a time."""
    total = 0.0
    for start in range(0, u.shape[1], _COLUMNS_AT_ONCE):
        product = u.T @ u[:, start : start + _COLUMNS_AT_ONCE]
        columns = torch.arange(product.shape[1])
        product[start + columns, columns] -= 1.0
        if not float(product.abs_().max()) <= ORTHONORMAL:  # NaN is refused, too
            return None
        total += float((product**2).sum())
    return math.sqrt(total)


def _narrowed(vectors: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Columns in this order as float32, without a second float64 copy."""
    found = torch.empty(vectors.shape, dtype=torch.float32)
    for start in range(0, len(order), _COLUMNS_AT_ONCE):
        chosen = order[start : start + _COLUMNS_AT_ONCE]
        found[:, start : start + len(chosen)] = vectors[:, chosen].to(torch.float32)
    return found
