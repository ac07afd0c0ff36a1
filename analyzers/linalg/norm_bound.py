"""An upper bound of the norm of a deflated operator from a random start, with a stated probability of being wrong.

Cheap where a deterministic bound costs a factorization: a dozen products with a block of sixteen vectors tell that no
large singular value hides in the part of a matrix that an iteration has not looked at.

Theorem. Let x be a unit eigenvector of M for λ and G an n × b standard Gaussian drawn independently of M. For
every polynomial p, ‖p(M)G‖_F ≥ |p(λ)| ‖xᵀG‖, and ‖xᵀG‖² is χ² with b degrees of freedom: but for one event of
probability P(χ²_b < c), the same for all p, |p(λ)| ≤ ‖p(M)G‖_F/√c. (Dixon 1983 and Kuczyński & Woźniakowski 1992
for one vector, Hochstenbach 2013 for the polynomials of Lanczos.) So p may be the best there is: with Lanczos'
recurrence in the Frobenius inner product, V_i = q_i(M)G, and p = Σ q_i(λ) q_i, ‖p(M)G‖_F ≤ √ν ‖q(λ)‖ where ν is
the norm of the Gram matrix of the V_i, which is measured: √c ‖q(λ)‖ ≤ √ν. The left side grows beyond the
recurrence's own eigenvalues, and the greatest λ that is possible is found by bisection. `_Recurrence.possible`
adds the rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.special import gammaincinv

MISS_PROBABILITY = 1e-10
"""That a matrix' leading vectors are declared complete while one is missing; for all attempts on it together."""
COLUMNS = 16
"""Gaussian vectors of a start: so many cost little more than one, and together they can hardly all miss."""
DEVIATIONS = 9.0
"""Of a sum of rounding errors: exceeded with probability 2 exp(−81/2) = 5e-18, over a thousand of them 5e-15."""
_HALVINGS = 40


def deflated_bound(
    gram: Callable[[torch.Tensor], torch.Tensor],
    deflated: torch.Tensor,
    below: float,
    steps: int,
    generator: torch.Generator,
    largest: float,
    length: int,
    dtype: torch.dtype = torch.float64,
    miss: float = MISS_PROBABILITY,
) -> tuple[float, torch.Tensor]:
    """Upper bound of the greatest eigenvalue λ of M = (1 − QQᵀ) A (1 − QQᵀ), A = WᵀW; wrong with probability ≤ `miss`.

    `gram`: X → Wᵀ(W X) on blocks (n, b) of `dtype`; `deflated`: Q (n, s) orthonormal, float64; `below`: what is wanted:
    it stops as soon as the bound is there, or sees that it cannot be, at the latest after `steps` products; `largest`:
    the greatest eigenvalue of QᵀAQ, 0 of none; `length`: rows of W. Also returned: a block (n, b) that is rich in what
    M has at its upper end. The bound is infinite where nothing was shown. The module says why it holds.
    """
    n = deflated.shape[0]
    basis = deflated.to(dtype)
    found = _Recurrence(
        math.sqrt(_least_length(miss)), float(torch.finfo(dtype).eps) / 2, (length, *deflated.shape), largest
    )

    def deflate(x: torch.Tensor) -> torch.Tensor:
        inside = basis.T @ x
        found.removed.append(_norm(inside))
        return x.sub_(basis @ inside)

    start = torch.randn((n, COLUMNS), generator=generator, dtype=dtype).to(deflated.device)
    start = deflate(deflate(start))
    found.beta.append(_norm(start))
    blocks = [start.div_(found.beta[0])]
    found.add(_inner_products(blocks))
    reached = 0.0
    for _ in range(steps):
        now = blocks[-1]
        following = gram(now)
        found.alpha.append(_inner(now, following))
        following.sub_(now, alpha=found.alpha[-1])
        if len(blocks) > 1:
            following.sub_(blocks[-2], alpha=found.beta[-1])
        size = _norm(deflate(following))
        if not math.isfinite(size) or not size > 0:  # out of the dtype's range, or all of M is known
            found.alpha.pop()
            break
        found.beta.append(size)
        blocks.append(following.div_(size))
        found.add(_inner_products(blocks))
        before, reached = reached, found.reached()
        if not found.possible(below) or found.hopeless(below) or below < reached < 1.001 * before:
            break
    return found.greatest(below), _peaked(blocks, found)


@dataclass
class _Recurrence:
    """β_{i+1} V_{i+1} = M V_i − α_i V_i − β_i V_{i−1} + F_i as it was computed, ‖V_i‖ = 1, V_0 = G/β_0.

    `quantile` √c, `unit` roundoff u, `shape` (rows of W, n, s). `removed`: what was deflated, of the start twice and of
    each step; `products`: inner products of the V_i.
    """

    quantile: float
    unit: float
    shape: tuple[int, int, int]
    largest: float
    alpha: list[float] = field(default_factory=list)
    beta: list[float] = field(default_factory=list)
    removed: list[float] = field(default_factory=list)
    products: list[list[float]] = field(default_factory=list)
    # Eigenvalues by the number of steps: a bisection asks for the same ones eighty times.
    _reached: dict[int, float] = field(default_factory=dict)
    _nu: dict[int, float] = field(default_factory=dict)

    def add(self, products: list[float]) -> None:
        """The inner products of the newest block with all, itself last."""
        self.products.append(products)

    def possible(self, value: float) -> bool:
        """Whether M may have an eigenvalue λ ≥ `value` for all that was seen; True up to the recurrence's eigenvalues.

        F_j makes xᵀV_i = q_i(λ) xᵀG + Σ_j g_ij(λ) xᵀF_j, g_ij the same recurrence begun at j + 1. With φ ≥ ‖xᵀF_j‖,
        √c ≤ √ν/‖q(λ)‖ + φ(λ) max_i Σ_j g_ij/q_i (in p = Σ q_i(λ) q_i the i-th counts with weight q_i²). Zeros of g_ij
        and q_i interlace, so g/q falls with λ at least as 1/λ, and φ grows no faster: what is impossible at λ is so
        above it, too.
        """
        return self._sides(value) >= self.quantile

    def hopeless(self, value: float) -> bool:
        """Whether rounding alone makes everything possible, so that no further product helps."""
        return self._noise(value)[1] >= self.quantile

    def greatest(self, near: float) -> float:
        """The greatest λ that is possible, infinite if there is no such; `near` is about where to look."""
        if not self.alpha:
            return math.inf
        high = max(near, self.reached())
        for _ in range(_HALVINGS):
            if not self.possible(high):
                break
            high *= 1.5
        else:
            return math.inf
        low = self.reached()
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.possible(middle) else (low, middle)
        return high

    def _sides(self, value: float) -> float:
        if not value > self.reached():
            return math.inf
        length, noise = self._noise(value)
        return self._root_nu() / length + noise

    def reached(self) -> float:
        """Greatest eigenvalue of the recurrence: M has one that is hardly below it."""
        d = len(self.alpha)
        if not d:
            return math.inf
        if d not in self._reached:
            inner = np.array(self.beta[1:d])
            tridiagonal = np.diag(self.alpha) + np.diag(inner, 1) + np.diag(inner, -1)
            self._reached[d] = float(np.linalg.eigvalsh(tridiagonal)[-1])
        return self._reached[d]

    def _root_nu(self) -> float:
        """√ν with room for the inner products' own rounding, which is below (n b) u."""
        d = len(self.products)
        if d not in self._nu:
            gram = np.zeros((d, d))
            for i, row in enumerate(self.products):
                gram[i, : i + 1] = gram[: i + 1, i] = row
            self._nu[d] = float(np.linalg.eigvalsh(gram)[-1])
        room = d * self.shape[1] * COLUMNS * self.unit
        return math.sqrt(self._nu[d] + room)

    def values(self, value: float) -> list[float]:
        """q_i(λ)."""
        q = [1.0 / self.beta[0]]
        for i, alpha in enumerate(self.alpha):
            before, beta = (q[i - 1], self.beta[i]) if i else (0.0, 0.0)
            q.append(((value - alpha) * q[i] - beta * before) / self.beta[i + 1])
        return q

    def _noise(self, value: float) -> tuple[float, float]:
        """‖q(λ)‖ and φ max_i Σ_j g_ij/q_i, s_i = Σ_j g_ij by the recurrence of q_i, which
        begins once more at each step."""
        beta = self.beta
        q_before, q, s_before, s = 0.0, 1.0 / beta[0], 0.0, 0.0
        squares, greatest = 0 + q * q, s / q
        for i, alpha in enumerate(self.alpha):
            # One loop over plain numbers: a bisection comes here forty times.
            from_before, following, above = beta[i] if i else 0.0, beta[i + 1], value - alpha
            q_before, q = q, (above * q - from_before * q_before) / following
            s_before, s = s, (above * s - from_before * s_before + 1.0) / following
            squares += q * q
            greatest = max(greatest, s / q)
        phi = self._of_one_step(value)
        start = self.unit * math.sqrt(self.shape[2]) * (sum(self.removed[:2]) + beta[0] * self.unit)
        return math.sqrt(squares), start + phi * greatest

    def _of_one_step(self, value: float) -> float:
        """φ: bound of ‖xᵀF_j‖ for an eigenvector x of λ = `value`, with ‖V‖_F = 1.

        Each operation errs by a factor 1 + δ, |δ| ≤ u, δ of mean zero whatever came before (the model of Connolly,
        Higham & Mary 2021, who found it to hold for products). An inner product of l terms is then off by a martingale
        of steps of at most u ‖w‖‖y‖, l + 1 of that size, so by no more than DEVIATIONS √(l+1) u ‖w‖‖y‖ (Azuma); what
        leaves W V reaches x by W x, of norm √λ, what leaves Wᵀ by x itself, and sums over entries add in squares. Rows
        and columns of W are no longer than ω, ω² = largest + λ ≥ ‖W‖₂²; ‖W V‖² = α. Without any assumption: deflation
        by Q as the dtype holds it leaves u √s of what it removed, and x sees of that √(λ largest) ≥ |xᵀAQ| at most.
        """
        rows, n, s = self.shape
        omega = math.sqrt(self.largest + value)
        inner = math.sqrt((n + 1) * value) + math.sqrt((rows + 1) * max(*self.alpha, value))
        random = DEVIATIONS * self.unit * omega * (inner + math.sqrt(s + 8) * omega)
        removed, least = max(self.removed[2:], default=0.0), min(self.beta[1:], default=1.0)
        left = 5.0 * self.unit * math.sqrt(s + 8) * (1.0 + removed / least) if s else 0.0
        return random + self.unit * math.sqrt(s) * removed + math.sqrt(value * self.largest) * left


def _peaked(blocks: list[torch.Tensor], found: _Recurrence) -> torch.Tensor:
    """Σ q_i(θ) V_i = p(M)G, θ the recurrence's greatest eigenvalue: what M has there stands out as far as it can."""
    if not found.alpha:
        return blocks[-1]
    weights = found.values(found.reached())
    largest = max(abs(w) for w in weights)
    total = torch.zeros_like(blocks[0])
    for weight, block in zip(weights, blocks, strict=True):
        total.add_(block, alpha=weight / largest)
    return total


def _inner_products(blocks: list[torch.Tensor]) -> list[float]:
    return [_inner(block, blocks[-1]) for block in blocks]


def _inner(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.dot(a.flatten(), b.flatten()))


def _norm(block: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(block))


def steps_wanted(dimension: int, excess: float, miss: float = MISS_PROBABILITY) -> int:
    """Products by which the bound of an M below 1 is surely 1 + excess: Chebyshev's, with a little to spare."""
    size = math.sqrt(COLUMNS * dimension / _least_length(miss))
    return 4 + math.ceil(math.acosh(size) / math.acosh(1.0 + 2.0 * excess))


def _least_length(miss: float) -> float:
    """What the squared length of a Gaussian vector of `COLUMNS` entries falls below with probability `miss`."""
    return float(2 * gammaincinv(COLUMNS / 2, miss))
