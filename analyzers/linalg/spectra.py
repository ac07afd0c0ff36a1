"""Singular values and vectors in float64, of dense matrices, low-rank products and adapters on their base.

    singular_values(content) -> Spectrum        # all σ; Gram where it is safe, SVD where it is not, QR for factors
    singular_values_batch(stack) -> [Spectrum]  # many small matrices of one shape
    svd(content) -> U, sigma, Vh

A float64 Gram matrix loses σ below √ε σ1, so it serves while κ = σ1/σp ≤ 1e5 (measured: error ≤ 1e-11 σ1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.linalg
import torch
from scipy.linalg.blas import dsyrk

from analyzers.contract import Content, LowRank
from analyzers.linalg.blocks import as_float64, blocks64, dense64, largest_entry, require_finite, shape_of

Method = Literal["gram", "svd", "qr"]
GRAM_CONDITION = 1e5
EPSILON = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Spectrum:
    """σ of an (m, n) matrix: `sigma` float64, descending, on the content's device.

    A dense matrix has all `size` = min(m, n) of them. A low-rank product of inner dimension r < size carries its r
    values; the other `size` − r are exact zeros and are not stored.
    """

    sigma: torch.Tensor
    method: Method
    shape: tuple[int, int]

    @property
    def size(self) -> int:
        """p = min(m, n)."""
        return min(self.shape)

    @property
    def condition(self) -> float:
        """κ = σ1/σp over the values carried; inf when the last is zero, NaN when there is none or σ1 = 0."""
        if not self.sigma.numel() or float(self.sigma[0]) == 0.0:
            return math.nan
        last = float(self.sigma[-1])
        return float(self.sigma[0]) / last if last else math.inf

    @property
    def rank_tolerance(self) -> float:
        """max(m, n) ε64 σ1: a σ at or below it is zero up to rounding."""
        return max(self.shape) * EPSILON * float(self.sigma[0]) if self.sigma.numel() else 0.0


def singular_values(content: Content, gram_condition: float = GRAM_CONDITION) -> Spectrum:
    """All σ of a matrix in float64, exact to 1e-10 σ1 (the Gram route; the SVD and QR routes are good to ε64).

    Dense (and `Sum`): `eigvalsh` of the float64 Gram matrix of the smaller side, formed in blocks from the storage
    dtype; where κ > `gram_condition`, or the rank is deficient, `svdvals` of a float64 copy. Peak memory stays under
    three float64 copies. `LowRank`: QR of both factors, then `svdvals` of the r × r core: r values.
    Raises `Unmeasurable` when entries are NaN, infinite or complex.
    """
    m, n = shape = shape_of(content)
    if isinstance(content, LowRank):
        if content.b.shape[1] < min(m, n):
            return _low_rank_values(content)
        content = content.dense(torch.float64)
    if 0 in shape:
        return Spectrum(_empty(content), "svd", shape)
    exponent = _exponent(content)
    if exponent == 0:
        sigma = _from_gram(_gram(content), gram_condition)
        if sigma is not None:
            return Spectrum(sigma, "gram", shape)
    return Spectrum(_svdvals(content, exponent), "svd", shape)


def singular_values_batch(stack: torch.Tensor, gram_condition: float = GRAM_CONDITION) -> list[Spectrum | None]:
    """The same of many small dense matrices at once; stack: (count, m, n), any storage dtype.

    None stands for a matrix with entries that are not finite or out of the Gram's range: ask `singular_values`.
    """
    count, m, n = stack.shape
    if 0 in (m, n):
        return [None] * count
    wide = as_float64(stack)
    gram = wide.mT @ wide if m >= n else wide @ wide.mT
    usable = torch.isfinite(gram).flatten(1).all(1) & (gram.diagonal(dim1=1, dim2=2).amax(1) > 1e-200)
    one = torch.eye(min(m, n), dtype=gram.dtype, device=gram.device)
    values = torch.linalg.eigvalsh(torch.where(usable[:, None, None], gram, one))
    kept = usable & (values[:, 0] > 0) & (values[:, -1] <= values[:, 0] * gram_condition**2)
    sigma = values.clamp_min(0).sqrt().flip(1)
    ill = (usable & ~kept).nonzero().flatten()
    if len(ill):
        sigma[ill] = torch.linalg.svdvals(wide[ill])
    answers: list[Spectrum | None] = []
    for index in range(count):
        method: Method = "gram" if bool(kept[index]) else "svd"
        answers.append(Spectrum(sigma[index], method, (m, n)) if bool(usable[index]) else None)
    return answers


def svd(content: Content) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Thin SVD in float64: U (m, k), sigma (k,) descending, Vh (k, n) with U · diag(sigma) · Vh = W.

    k = min(m, n); for a `LowRank` of inner dimension r < min(m, n), k = r, from the factors alone.
    Raises `Unmeasurable` when entries are NaN, infinite or complex.
    """
    m, n = shape_of(content)
    if isinstance(content, LowRank) and content.b.shape[1] < min(m, n):
        left, core, right = _core(content)
        U, sigma, Vh = torch.linalg.svd(core, full_matrices=False)
        return left @ U, sigma, Vh @ right.mT
    dense = dense64(content)
    require_finite(dense)
    exponent = _exponent(dense)
    U, sigma, Vh = torch.linalg.svd(_scaled(dense, -exponent), full_matrices=False)
    return U, _scaled(sigma, exponent), Vh


def _gram(content: Content) -> torch.Tensor:
    """Float64 Gram matrix of the smaller side, (p, p); on the CPU only its upper triangle is filled."""
    m, n = shape_of(content)
    axis = 0 if m >= n else 1
    total: torch.Tensor | None = None
    lower: np.ndarray | None = None
    for block in blocks64(content, axis):
        if block.device.type == "cpu":
            # dsyrk wants a column-major argument (p, block): the transpose of a row-major block of rows.
            columns = np.asfortranarray((block.mT if axis == 0 else block).numpy())
            zero = np.zeros((len(columns), len(columns)), order="F") if lower is None else lower
            lower = dsyrk(1.0, columns, beta=1.0, c=zero, lower=1, overwrite_c=1)
        else:
            product = block.mT @ block if axis == 0 else block @ block.mT
            total = product if total is None else total.add_(product)
    if lower is not None:
        return torch.from_numpy(lower.T)
    assert total is not None
    return total


def _from_gram(gram: torch.Tensor, gram_condition: float) -> torch.Tensor | None:
    """σ descending from the upper triangle of a Gram matrix, which is overwritten.

    None where κ is too large for it, or it is not finite.
    """
    # The diagonal holds sums of squares: an entry that is not finite shows there, and bounds all others.
    largest = float(gram.diagonal().max())
    if not math.isfinite(largest) or largest < 1e-200:
        return None
    if gram.device.type == "cpu":  # in place, on the column-major lower triangle
        values = torch.from_numpy(
            scipy.linalg.eigh(
                gram.numpy().T, lower=True, eigvals_only=True, overwrite_a=True, check_finite=False, driver="ev"
            )
        )
    else:
        values = torch.linalg.eigvalsh(gram)
    smallest = float(values[0])
    if smallest <= 0 or float(values[-1]) > smallest * gram_condition**2:
        return None
    return values.sqrt().flip(0)


def _svdvals(content: Content, exponent: int) -> torch.Tensor:
    dense = dense64(content)
    require_finite(dense)
    own = _scaled(dense, -exponent)
    if own.device.type != "cpu":
        return _scaled(torch.linalg.svdvals(own), exponent)
    # In place, which torch does not offer: a column-major view of a copy that nobody else holds.
    if isinstance(content, torch.Tensor) and own.data_ptr() == content.data_ptr():
        own = own.clone(memory_format=torch.contiguous_format)
    del dense
    values = scipy.linalg.svd(own.contiguous().numpy().T, compute_uv=False, overwrite_a=True, check_finite=False)
    return _scaled(torch.from_numpy(values), exponent)


def _low_rank_values(content: LowRank) -> Spectrum:
    _, core, _ = _core(content)
    sigma = torch.linalg.svdvals(core) if core.numel() else core.new_zeros(0)
    return Spectrum(sigma, "qr", shape_of(content))


def _core(content: LowRank) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Orthonormal Q_b (m, r) and Q_a (n, r), and the core C (r, r), with scale · b @ a = Q_b C Q_aᵀ."""
    require_finite(content)
    if not math.isfinite(content.scale):
        require_finite(torch.tensor([[content.scale]]))
    left, r_left = torch.linalg.qr(as_float64(content.b))
    right, r_right = torch.linalg.qr(as_float64(content.a).mT)
    return left, content.scale * (r_left @ r_right.mT), right


def _exponent(content: Content) -> int:
    """The power of two to divide by so that squares neither overflow nor vanish; 0 wherever that cannot happen.

    Only float64 entries reach such sizes: the square of the smallest float32 is 1e-90.
    """
    if not isinstance(content, torch.Tensor) or content.dtype != torch.float64:
        return 0
    largest = largest_entry(content)
    if largest == 0.0 or not math.isfinite(largest) or 1e-90 < largest < 1e90:
        return 0
    return math.frexp(largest)[1]


def _scaled(values: torch.Tensor, exponent: int) -> torch.Tensor:
    """values · 2^exponent, exactly; in two steps, because 2^1074 alone is not a float64."""
    half = exponent // 2
    return values * 2.0**half * 2.0 ** (exponent - half) if exponent else values


def _empty(content: Content) -> torch.Tensor:
    tensor = content if isinstance(content, torch.Tensor) else dense64(content)
    return torch.zeros(0, dtype=torch.float64, device=tensor.device)
