"""The null of intruder dimensions for updates of full rank, without ever drawing their rotations whole.

A few dozen products with W0 + X diag(σ(Δ)) Yᵀ give its leading vectors, and X and Y are drawn only as far as these
ask. The law is exactly that of the plain way (`haar.null_similarities`), the cost O(p (k + steps k)²).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from analyzers.linalg.haar_lazy import LazyHaar
from analyzers.linalg.krylov import RitzSpace, davidson, enclose, with_start

TOLERANCE = 1e-8
"""Residual over gap that is aimed at: a null is compared in counts, and its scores are good to 1e-7."""
FROM = 512
"""Smaller side from which this is cheaper than the dense Gram of a draw: 1.3× at 384, 5× at 1024 (measured)."""
_WIDEST = 0.2
"""Of p: a start block wider than that is no cheaper than all of the matrix."""

_WIDEST_AT_LAST = 0.5
"""Of p, once a draw has begun and not been proved from less."""
_CLEAR = 0.87
"""Of σ⁰_{k+1}: how far below it what is left must be for `enclose` to be sharp."""


@dataclass(frozen=True)
class RandomUpdate:
    """W = D + X diag(strengths) Yᵀ, (long, p) in the base's coordinates, D = diag(sigma); X (long, r) and Y (p, r)
    are Haar frames, the first r columns of Haar matrices of which only the asked part exists."""

    sigma: torch.Tensor
    strengths: torch.Tensor
    left: LazyHaar
    right: LazyHaar

    @staticmethod
    def draw(sigma: torch.Tensor, strengths: torch.Tensor, long: int, generator: np.random.Generator) -> RandomUpdate:
        """Of an operator `long` × p, p = len(sigma)."""
        p, r = sigma.numel(), strengths.numel()
        return RandomUpdate(
            sigma, strengths, LazyHaar(long, r, p, generator), LazyHaar(p, r, p, generator)
        )  # fmt: skip

    def apply(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """W x (p or more, b), of which the first p rows are coordinates along the base's vectors, and WᵀW x (p, b)."""
        r, strengths = self.strengths.numel(), self.strengths[:, None]
        image = self.left.forward(strengths * self.right.backward(x)[:r])
        image[: self.sigma.numel()] += self.sigma[:, None] * x
        back = self.right.forward(strengths * self.left.backward(image)[:r])
        return image, self.sigma[:, None] * image[: self.sigma.numel()] + back

    def gram(self, x: torch.Tensor) -> torch.Tensor:
        """WᵀW x."""
        return self.apply(x)[1]


def iterated_null(
    sigma_base: np.ndarray,
    strengths: np.ndarray,
    shape: tuple[int, int],
    k: int,
    width: int,
    generators: Sequence[np.random.Generator],
) -> tuple[np.ndarray, int]:
    """Scores (draws, 2, k), left and right, one draw from each generator, and how many took all of the matrix."""
    found = [iterated_scores(sigma_base, strengths, max(shape), k, width, generator) for generator in generators]
    scores = np.stack([draw for draw, _ in found])
    return (scores if shape[0] >= shape[1] else scores[:, ::-1].copy()), sum(not enough for _, enough in found)


def start_width(sigma: np.ndarray, strength: float, k: int) -> int | None:
    """How many of the base's vectors to start from, that what is left cannot hide a leading one; None: no such number.

    Least j ≥ 3k + 2 with σ⁰_{j+1} + σ1(Δ) ≤ min(σ⁰_{k+1} − 3 σ1(Δ), .87 σ⁰_{k+1}), at most p/5. A matter of singular
    values, known before anything is drawn, so that which way a draw goes does not depend on its outcome.
    """
    p = sigma.size
    if p < FROM:
        return None
    last = sigma[min(k, p - 1)]
    fitting = np.flatnonzero(sigma + strength <= min(last - 3 * strength, _CLEAR * last))
    if not fitting.size:
        return None
    wanted = max(int(fitting[0]), 3 * k + 2)
    return wanted if wanted <= _WIDEST * p else None


def iterated_scores(
    sigma_base: np.ndarray, strengths: np.ndarray, long: int, k: int, width: int, generator: np.random.Generator
) -> tuple[np.ndarray, bool]:
    """One draw's scores (2, k) [long side, short side], and whether the iteration was enough.

    Block Davidson from the base's `width` leading vectors, preconditioned by its σ. Outside of these W has at most
    the norm β = σ⁰_{width+1} + σ1(Δ), and `enclose` with β² shows that no leading vector is missing. Where it does not,
    the start is widened, and at last the rest of the same random matrix is drawn and all of it factorized: a draw is
    never replaced by another, which would favour those that are easy.
    """
    sigma = torch.from_numpy(sigma_base)
    operator = RandomUpdate.draw(sigma, torch.from_numpy(strengths), long, generator)
    p, strength = sigma.numel(), float(strengths.max())

    def precondition(residuals: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return residuals / torch.maximum(values - sigma[:, None] ** 2, 0.01 * values)

    space: RitzSpace | None = None
    done = 0
    while done < width <= _WIDEST_AT_LAST * p:
        space = davidson(operator.gram, _unit_vectors(p, done, width), k, precondition, space, TOLERANCE)
        if _proved(space, k, _unit_vectors(p, 0, width), (float(sigma[width]) + strength) ** 2):
            return _scores(operator, space.basis[:, :k]), True
        done, width = width, 2 * width
    whole = operator.gram(torch.eye(p, dtype=torch.float64))
    return _scores(operator, torch.linalg.eigh((whole + whole.T) / 2).eigenvectors.flip(1)[:, :k]), False


def _proved(space: RitzSpace, k: int, start: torch.Tensor, outside: float) -> bool:
    """Whether the enclosures of the leading values are far sharper than these are apart."""
    proved = with_start(space, start, 3 * k)
    above = enclose(proved, k, outside) - proved.values[: k + 1]
    steps = proved.values[:k] - proved.values[1 : k + 1]
    rounding = 1e-9 * float(proved.values[0])
    return bool((above[:k] <= 0.01 * steps + rounding).all()) and float(above[k]) <= 0.1 * float(steps[-1]) + rounding


def _scores(operator: RandomUpdate, vectors: torch.Tensor) -> np.ndarray:
    p = operator.sigma.numel()
    outer = operator.apply(vectors)[0]
    outer = outer[:p] / torch.linalg.vector_norm(outer, dim=0)
    return torch.stack([outer.abs().amax(dim=0), vectors.abs().amax(dim=0)]).clamp(max=1.0).numpy()


def _unit_vectors(p: int, first: int, last: int) -> torch.Tensor:
    return torch.eye(p, last, dtype=torch.float64)[:, first:]
