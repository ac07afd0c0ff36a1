"""Singular subspaces of a base matrix: its factorization as it is cached, cosines with it, angles, shares of an update.

Everything is per side: "left" vectors live in R^m (outputs), "right" vectors in R^n (inputs).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import scipy.linalg
import torch

from analyzers.contract import Content, LowRank
from analyzers.linalg.blocks import dense64, require_finite, shape_of
from analyzers.linalg.gram_vectors import ORTHONORMAL, gram_vectors
from analyzers.linalg.kept_precision import deviation, precision
from analyzers.linalg.spectra import svd

SIDES = ("left", "right")
LARGE = 1024
"""Smaller side from which the memory of a bidiagonal SVD matters beside that of a worker."""
_ROWS_AT_ONCE = 64
"""Of 4096 columns in float64, these stay in a core's cache."""
_DEVICE_NUMBERS = 1 << 26
"""Widened at once on an accelerator, where few large products are better than many small ones."""
_FLOAT32_ROUNDING = 2.0**-24
_BACKWARD = 8.0
"""A factorization is that of a matrix within so many p ε σ1 of the one given (LAPACK's bound, with room)."""


@dataclass(frozen=True)
class BaseVectors:
    """W0 = U diag(σ) Vᵀ. left: (m, p), sigma: (p,) float64 descending, right: (n, p), p = min(m, n).

    The vectors may be float32: a unit vector whose entries are rounded by 2⁻²⁴ relative moves by at most 2⁻²⁴, and
    so does its cosine with any other unit vector (`storage_error`). `precision` (3,) float64, where it was measured:
    bounds of ‖Û − U‖₂, left and right, and of what U and V lack of orthonormality (`kept_precision`).
    """

    left: torch.Tensor
    sigma: torch.Tensor
    right: torch.Tensor
    precision: torch.Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        return self.left.shape[0], self.right.shape[0]

    @property
    def storage_error(self) -> float:
        """Largest error of a cosine that comes from the precision the vectors are kept in."""
        return 0.0 if self.left.dtype == torch.float64 else _FLOAT32_ROUNDING

    def deviation(self, side: int) -> float:
        """Bound of ‖Û − U‖₂ of a side's vectors: how far the kept ones are from orthonormal ones, as matrices."""
        if self.precision is not None:
            return float(self.precision[side])
        lost = self.sigma.numel() * ORTHONORMAL if self.storage_error else 0.0  # of vectors by way of the Gram
        return math.sqrt(self.sigma.numel()) * self.storage_error + lost

    @property
    def backward_error(self) -> float:
        """Bound of ‖W0 − U diag(σ) Vᵀ‖₂/σ1 for orthonormal U and V near the vectors before they were rounded."""
        exact = _BACKWARD * self.sigma.numel() * torch.finfo(torch.float64).eps
        return exact + (float(self.precision[2]) if self.precision is not None else 0.0)

    @property
    def by_gram(self) -> bool:
        """Whether the vectors may come from a Gram, which knows a direction of small σ only to ε σ1/σ."""
        return self.storage_error > 0 and (self.precision is None or float(self.precision[2]) > 0)

    def side(self, side: int) -> torch.Tensor:
        """0: left, 1: right."""
        return self.right if side else self.left

    def as_tensors(self) -> dict[str, torch.Tensor]:
        """For a cache; the inverse of `from_tensors`."""
        tensors = {"left": self.left, "sigma": self.sigma, "right": self.right}
        return tensors if self.precision is None else tensors | {"precision": self.precision}

    @staticmethod
    def from_tensors(tensors: Mapping[str, torch.Tensor], device: torch.device | None = None) -> BaseVectors:
        """What `as_tensors` gave, moved to a device."""
        left, sigma, right = (tensors[name].to(device) for name in ("left", "sigma", "right"))
        return BaseVectors(left, sigma, right, tensors.get("precision"))


def base_vectors(content: Content, dtype: torch.dtype = torch.float32) -> BaseVectors:
    """Full thin SVD of W0 in float64; the vectors are then rounded to `dtype` to be kept.

    From `LARGE` on, vectors that are kept in float32 come from the Gram where that is certified, for its memory.
    """
    on_cpu = isinstance(content, torch.Tensor) and content.device.type == "cpu"
    if on_cpu and dtype == torch.float32 and min(shape_of(content)) >= LARGE:
        require_finite(content)
        certified = gram_vectors(content)
        if certified is not None:
            return BaseVectors(*certified)
    narrow = (torch.float32, torch.bfloat16, torch.float16)  # of these, dense64 makes a copy that is ours to overwrite
    if isinstance(content, torch.Tensor) and content.dtype in narrow and content.device.type == "cpu":
        return _in_place(dense64(content), dtype)
    u, sigma, vh = svd(content)
    left, right = u.to(dtype).contiguous(), vh.T.to(dtype).contiguous()  # rows together, as `widened` reads them
    measured = precision(deviation(u, left), deviation(vh.T, right)) if u.dtype == torch.float64 else None
    return BaseVectors(left, sigma.double(), right, measured)


def _in_place(dense: torch.Tensor, dtype: torch.dtype) -> BaseVectors:
    """`base_vectors` of a float64 copy that LAPACK may overwrite, one or two copies less than torch takes.

    A row-major W is a column-major Wᵀ = V diag(σ) Uᵀ, so nothing is transposed on the way in.
    """
    v, sigma, uh = scipy.linalg.svd(
        dense.contiguous().numpy().T, full_matrices=False, overwrite_a=True, check_finite=False
    )
    exact = torch.from_numpy(uh.T)
    left = exact.to(dtype).contiguous()
    of_left = deviation(exact, left)
    del uh, exact
    exact = torch.from_numpy(v)
    right = exact.to(dtype).contiguous()
    return BaseVectors(left, torch.from_numpy(sigma), right, precision(of_left, deviation(exact, right)))


def cosines(basis: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """basisᵀ vectors in float64, (p, k), for basis (d, p) and vectors (d, k) float64 of unit columns.

    A float32 basis is widened a few rows at a time, so that the peak stays far below a second copy of it.
    """
    if basis.dtype == torch.float64:
        return basis.mT @ vectors
    # Rows out: the wide factor is read as it lies, three times as fast as with columns out (d = p = 4096, k = 16).
    found = vectors.new_zeros((vectors.shape[1], basis.shape[1]))
    rows_of_vectors = vectors.mT.contiguous()
    for start, wide in widened(basis):
        found.addmm_(rows_of_vectors[:, start : start + len(wide)], wide)
    return found.mT.contiguous()


def widened(basis: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """Blocks of rows of `basis` in float64, each with the row it starts at, overwritten by the next one."""
    at_once = _ROWS_AT_ONCE if basis.device.type == "cpu" else max(1, _DEVICE_NUMBERS // max(1, basis.shape[1]))
    buffer = basis.new_empty((min(at_once, basis.shape[0]), basis.shape[1]), dtype=torch.float64)
    for start in range(0, basis.shape[0], at_once):
        part = basis[start : start + at_once]
        yield start, buffer[: len(part)].copy_(part)


def principal_angles(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Angles in radians, ascending, (r,), between the spans of orthonormal columns (d, r) and (d, r).

    From cosines where they are small and from sines where those are (Knyazev & Argentati 2002), so that angles of
    1e-7 are as exact as angles near π/2.
    """
    return _angles(*_cosines_and_sines([(first.double(), second.double())]))[0]


def _cosines_and_sines(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Both (b, r), of ascending angles, of b pairs of one shape."""
    # Each alone: LAPACK and BLAS round by where a matrix lies in memory, so that in a stack it depends on its place.
    overlaps = [first.T @ second for first, second in pairs]
    rest = [second - first @ overlap for (first, second), overlap in zip(pairs, overlaps, strict=True)]
    # svdvals are descending: as cosines they belong to ascending angles
    cosine, sine = (torch.stack([torch.linalg.svdvals(one) for one in each]) for each in (overlaps, rest))
    return cosine, sine.flip(1)


def _angles(cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    cosine, sine = cosine.clamp(max=1.0), sine.clamp(max=1.0)
    return torch.where(cosine**2 >= 0.5, torch.arcsin(sine), torch.arccos(cosine))


def nested_angles(first: torch.Tensor, second: torch.Tensor, k: int) -> torch.Tensor:
    """Principal angles between the leading r columns of both for all r ≤ k: (k, k), row r−1 has r of them, then NaN."""
    return nested_angles_together([(first, second)], k)[0]


def nested_angles_together(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]], k: int) -> torch.Tensor:
    """`nested_angles` of each of b pairs of one shape, (b, k, k): the same numbers by fewer calls."""
    angles = torch.full((len(pairs), k, k), torch.nan, dtype=torch.float64)
    count = min(k, pairs[0][0].shape[1], pairs[0][1].shape[1])
    if count:
        wide = [(first.double(), second.double()) for first, second in pairs]
        leading = ([(first[:, :r], second[:, :r]) for first, second in wide] for r in range(1, count + 1))
        cosine, sine = (torch.cat(parts, dim=1) for parts in zip(*map(_cosines_and_sines, leading), strict=True))
        rows, columns = torch.tril_indices(count, count)
        angles[:, rows, columns] = _angles(cosine, sine).cpu()
    return angles


def subspace_shares(base: BaseVectors, update: torch.Tensor | LowRank, ranks: Sequence[int]) -> torch.Tensor:
    """Share of ‖Δ‖_F² inside W0's leading r left and right singular subspaces, (2, len(ranks)).

    ‖U0_rᵀ Δ‖² / ‖Δ‖² and ‖Δ V0_r‖² / ‖Δ‖². A random Δ has r/m and r/n. NaN where r > p or Δ = 0.
    Factors are not expanded: U0_rᵀ B A has the norm of U0_rᵀ B R with A = R Q.
    """
    shares = torch.full((2, len(ranks)), torch.nan, dtype=torch.float64)
    widest = max((r for r in ranks if r <= base.sigma.numel()), default=0)
    for side in range(2):
        basis = base.side(side)[:, :widest]
        if isinstance(update, LowRank):
            outer, inner = (update.b, update.a) if side == 0 else (update.a.T, update.b.T)
            core = torch.linalg.qr(inner.double().T, mode="r").R.T  # the factor of `inner` that carries its norm
            projected, whole = cosines(basis, outer.double()) @ core, outer.double() @ core
        else:
            whole = update if side == 0 else update.T
            projected = cosines(basis, whole)
        total = float(torch.linalg.vector_norm(whole)) ** 2
        if total > 0:
            energy = (projected**2).sum(dim=1).cumsum(0) / total
            for position, r in enumerate(ranks):
                if r <= widest:
                    shares[side, position] = energy[r - 1]
    return shares


def phi(first: torch.Tensor, second: torch.Tensor, ranks: Sequence[int]) -> torch.Tensor:
    """φ(i, j) = ‖U_first[:, :i]ᵀ U_second[:, :j]‖_F² / min(i, j) for i, j in `ranks`: (len, len), NaN beyond a rank.

    `first` (r1, d) and `second` (r2, d) are adapters' A; U_· are their right singular vectors (Hu et al. 2021, §7.2,
    eq. 4). In [0, 1]; two random subspaces of R^d have max(i, j)/d.
    """
    bases = [_row_space(a) for a in (first, second)]
    squares = (bases[0].T @ bases[1]) ** 2
    sums = squares.cumsum(0).cumsum(1)
    result = torch.full((len(ranks), len(ranks)), torch.nan, dtype=torch.float64)
    for row, i in enumerate(ranks):
        for column, j in enumerate(ranks):
            if i <= sums.shape[0] and j <= sums.shape[1]:
                result[row, column] = sums[i - 1, j - 1] / min(i, j)
    return result


def _row_space(a: torch.Tensor) -> torch.Tensor:
    """Right singular vectors (d, rank) of `a` (r, d), strongest first, without those of σ = 0."""
    _, sigma, vh = torch.linalg.svd(a.double(), full_matrices=False)
    kept = sigma > max(a.shape) * torch.finfo(torch.float64).eps * sigma[:1]
    return vh[kept].T
