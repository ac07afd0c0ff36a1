"""The leading singular triplets of a large dense matrix, warm-started from its base's, complete but for 1e-10.

W is read in its storage dtype, a few rows at a time; no float64 copy of it is made. Where the method cannot prove
what it found, it says so by returning nothing, and the caller factorizes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from analyzers.linalg.blocks import norm64
from analyzers.linalg.krylov import REACH, RESIDUAL, Precondition, RitzSpace, carried, davidson, enclose
from analyzers.linalg.norm_bound import MISS_PROBABILITY, deflated_bound, steps_wanted
from analyzers.linalg.subspaces import BaseVectors

FROM = 1000
"""Smaller side from which iterating beats the eigenvectors of a Gram matrix."""
_BLOCK_BYTES = 2 << 20
_DEVICE_BYTES = 512 << 20
"""On an accelerator, where few large products are better than many small ones."""
_MOST_BOUND_STEPS = 150
_LEAST_GAP = 1e-4
"""Relative distance, in λ, of the wanted values from those that are not, below which no bound comes in between."""
_ATTEMPTS = 2
_NORMAL = (1e-12, 1e12)
"""σ1 between which the squares of float32 products neither overflow nor vanish."""
_ORTHONORMAL = 1e-13
"""Of λ1: what Q lacks of orthonormality in float64."""
_SEED = 20210628


@dataclass(frozen=True)
class Blend:
    """W = Σ factor · tensor over `parts`, all (m, n), in their storage dtypes: a scaled update without its copy."""

    parts: tuple[tuple[float, torch.Tensor], ...]

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)"""
        return int(self.parts[0][1].shape[0]), int(self.parts[0][1].shape[1])

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.parts[0][1].device

    def dense(self) -> torch.Tensor:
        """(m, n) in float64, which need not be a copy."""
        (factor, first), *others = self.parts
        if factor == 1.0 and not others:
            return first.to(torch.float64)
        total = first.to(torch.float64) * factor
        step = max(1, _BLOCK_BYTES // (8 * self.shape[1]))
        for factor, other in others:
            for at in range(0, self.shape[0], step):
                total[at : at + step].add_(other[at : at + step].to(torch.float64), alpha=factor)
        return total

    def narrow(self) -> bool:
        """Whether float32 holds every part as it is stored."""
        return all(tensor.dtype != torch.float64 for _, tensor in self.parts)

    def entry_rounding(self, dtype: torch.dtype) -> float:
        """Bound of the norm of what `blocks` in `dtype` differs from W by: 0 where the entries are as they are stored.

        A product and a sum for every part, each off by u: in the Frobenius norm, without any assumption.
        """
        if len(self.parts) == 1 and self.parts[0][0] == 1.0:
            return 0.0
        unit = float(torch.finfo(dtype).eps)
        total = sum(abs(factor) * norm64(t) for factor, t in self.parts)
        return len(self.parts) * unit * total

    def blocks(self, dtype: torch.dtype) -> Iterator[tuple[slice, torch.Tensor]]:
        """Rows of the tall orientation, (c, p), with their places; each block is overwritten by the next."""
        m, n = self.shape
        wide = m < n
        length, width = (n, m) if wide else (m, n)
        step = max(1, (_BLOCK_BYTES if self.device.type == "cpu" else _DEVICE_BYTES) // (8 * width))
        single = len(self.parts) == 1 and self.parts[0][0] == 1.0 and self.parts[0][1].dtype == dtype
        step = min(step, length)
        # A wide matrix is cut along its columns, and its blocks are transposed views: BLAS takes them as they are.
        held = None if single else torch.empty((m, step) if wide else (step, n), dtype=dtype, device=self.device)
        for start in range(0, length, step):
            stop = min(start + step, length)
            place = (slice(None), slice(start, stop)) if wide else (slice(start, stop),)
            if held is None:
                block = self.parts[0][1][place]
            else:
                block = held[:, : stop - start] if wide else held[: stop - start]
                (factor, first), *others = self.parts
                block.copy_(first[place])
                if factor != 1.0:
                    block.mul_(factor)
                for factor, other in others:
                    block.add_(other[place].to(dtype), alpha=factor)
            yield slice(start, stop), (block.T if wide else block)

    def apply(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """W X and WᵀW X of the tall orientation, for X (p, b) in float64 or float32: (max(m, n), b), (p, b)."""
        image = x.new_empty((max(self.shape), x.shape[1]))
        rows = x.T.contiguous()  # rows in and out: BLAS is up to four times slower on a few columns
        total = torch.zeros_like(rows)
        for place, block in self.blocks(x.dtype):
            part = rows @ block.T
            image[place] = part.T
            _add_product(total, part, block)
        return image, total.T.contiguous()

    def gram(self, x: torch.Tensor) -> torch.Tensor:
        """WᵀW X alone."""
        rows = x.T.contiguous()
        total = torch.zeros_like(rows)
        for _, block in self.blocks(x.dtype):
            _add_product(total, rows @ block.T, block)
        return total.T.contiguous()


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """total += left @ right, in place."""
    if total.is_cuda and total.shape[0] == 1:
        # torch 2.11 takes a total of one row for a bias, and hands it to a cuBLAS routine that fails in float64.
        total.add_(left @ right)
    else:
        total.addmm_(left, right)


@dataclass(frozen=True)
class Certified:
    """Of the tall orientation: `long` (max(m, n), k), `sigma` (k,), `short` (p, k), float64; `following` ≥ σ_{k+1};
    `residual` (k,) measured."""

    long: torch.Tensor
    sigma: torch.Tensor
    short: torch.Tensor
    following: float
    residual: torch.Tensor


def certified_triplets(
    matrix: Blend, base: BaseVectors, k: int, start: torch.Tensor | None = None, miss: float = MISS_PROBABILITY
) -> Certified | None:
    """The k leading singular triplets of W, complete but for a probability `miss`; None where that cannot be shown.

    `start` (p, any): directions to begin from beside the base's leading ones. Block Davidson, preconditioned by the
    base's singular values, until √2 ‖r‖/gap ≤ 6e-8 (or ‖r‖ ≤ 1e-11 σ1); then `deflated_bound` and `enclose`. What the
    bound finds to be missing is added and tried once more.
    """
    m, n = matrix.shape
    p = min(m, n)
    vectors = base.side(0 if m < n else 1)
    leading = min(p // 8, max(4 * k + 8, 48))
    if leading < k + 2:
        return None
    begin = vectors[:, :leading].double()
    if start is not None:
        begin = torch.cat([start, begin], dim=1)
    space: RitzSpace | None = None
    for attempt in range(_ATTEMPTS):
        space = davidson(matrix.gram, begin, k, _preconditioner(base, vectors, leading), space)
        if not bool(torch.isfinite(space.values).all()) or not float(space.values[k]) > 0:
            return None
        upper, seen = _upper_bounds(matrix, space, k, leading, miss / _ATTEMPTS, _SEED + attempt)
        if _complete(space, upper, k):
            return _finished(matrix, space, math.sqrt(float(upper[k])), k)
        if not bool(torch.isfinite(seen).all()):
            return None
        begin = seen.double()
    return None


def _upper_bounds(
    matrix: Blend, space: RitzSpace, k: int, leading: int, miss: float, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    s = carried(space, k, leading)
    mu, edge = float(space.values[k]), float(space.values[s])
    if not mu - edge > _LEAST_GAP * mu:
        return space.values.new_full((k + 1,), math.inf), space.basis.new_full((1, 1), math.nan)
    kept = RitzSpace(space.basis[:, :s], space.values[:s], space.image[:, :s])
    largest = float(space.values[0])
    below = edge + REACH * (mu - edge)
    steps = min(_MOST_BOUND_STEPS, 2 * steps_wanted(min(matrix.shape), below / edge - 1.0 if edge > 0 else 1.0, miss))
    dtypes = [torch.float64]
    if matrix.narrow() and _NORMAL[0] < math.sqrt(largest) < _NORMAL[1]:
        dtypes.insert(0, torch.float32)
    for dtype in dtypes:
        outside, seen = deflated_bound(
            matrix.gram, kept.basis, below, steps, torch.Generator().manual_seed(seed),
            largest, max(matrix.shape), dtype, miss / len(dtypes),
        )  # fmt: skip
        entries = matrix.entry_rounding(dtype)
        outside += 2.0 * entries * math.sqrt(largest + outside) + entries**2 + _ORTHONORMAL * largest
        if outside < mu:
            break
    return enclose(kept, k, outside), seen


def _complete(space: RitzSpace, upper: torch.Tensor, k: int) -> bool:
    """Whether the enclosures of the first k leave no room for another value among them."""
    if not bool(torch.isfinite(upper).all()):
        return False
    sigma, above = space.values[: k + 1].clamp(min=0).sqrt(), upper.sqrt()
    steps = sigma[:-1] - sigma[1:]
    return bool((above[:k] - sigma[:k] <= torch.maximum(1e-3 * steps, 1e-9 * sigma[0])).all())


def _finished(matrix: Blend, space: RitzSpace, following: float, k: int) -> Certified | None:
    """Rayleigh–Ritz on W V itself, whose σ are good to ε σ1, and residuals from a product made anew."""
    v = space.basis[:, :k]
    image, gram = matrix.apply(v)
    long, sigma, turn = torch.linalg.svd(image, full_matrices=False)
    short = v @ turn.T
    residual = torch.linalg.vector_norm(gram @ turn.T / sigma - short * sigma, dim=0)
    gap = torch.minimum(
        torch.cat([sigma[:1], sigma[:-1] - sigma[1:]]),
        sigma - torch.cat([sigma[1:], sigma.new_tensor([following])]),
    )
    if not bool((residual <= torch.maximum(1e-7 * gap, 10 * RESIDUAL * sigma[0])).all()):
        return None
    return Certified(long, sigma, short, following, residual)


def _preconditioner(base: BaseVectors, vectors: torch.Tensor, leading: int) -> Precondition:
    squares = (base.sigma**2).to(vectors.dtype)

    def precondition(residuals: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """(λ − W0ᵀW0)⁻¹ r beyond the base's leading vectors, in the precision these are kept in."""
        size = torch.linalg.vector_norm(residuals, dim=0)
        inner = (residuals / size).T.to(vectors.dtype).contiguous() @ vectors  # rows, as in `Blend.gram`
        distance = values.to(vectors.dtype)[:, None] - squares[None]
        inner /= torch.maximum(distance, 0.01 * values.to(vectors.dtype)[:, None])
        inner[:, :leading] = 0.0
        return (inner @ vectors.T).T.double()

    return precondition
