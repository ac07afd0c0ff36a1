"""Random maps P: R^d → R^D with columns of unit norm, through which a model is trained in a subspace: θ = θ0 + P z.

One map stands over all trained parameters (1804.08838). Each kind is a function of (kind, D, d, seed) alone, the same
on every machine; `up` and `adjoint` are exact transposes of each other.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch

from analyzers.errors import ParameterError
from analyzers.linalg.hadamard import HadamardPlan
from analyzers.linalg.hashing import Permutation, signs

KINDS = ("one_hot", "fastfood", "dense", "sparse")
CACHED_ENTRIES = 64 * 2**20
"""Up to this D the one-hot map keeps its table (4 bytes an entry); above, it is hashed anew each time, in O(1)."""
WIDE_ENTRIES = 2**22
"""Up to this D the table has 8 bytes an entry: torch scatters by int64 almost twice as fast."""
BLOCK_ENTRIES = 2**19
"""Hashed at a time: some ten temporaries of 4 MB."""


class Projection(ABC):
    """A map P of shape (D, d). `shape` is (D, d)."""

    def __init__(self, n_full: int, n_sub: int, seed: int) -> None:
        if not 1 <= n_sub <= n_full:
            raise ParameterError(f"a subspace of {n_full} parameters has 1 to {n_full} dimensions, not {n_sub}")
        self.shape = (n_full, n_sub)
        self.seed = seed

    @abstractmethod
    def up(self, z: torch.Tensor) -> torch.Tensor:
        """P z: (d,) → (D,), float32, on z's device."""

    @abstractmethod
    def adjoint(self, g: torch.Tensor) -> torch.Tensor:
        """Pᵀ g: (D,) → (d,)."""


def projection(
    kind: str, n_full: int, n_sub: int, seed: int, device: torch.device | str = "cpu", cached: bool | None = None
) -> Projection:
    """The map of that kind. `cached` overrides whether a one-hot map keeps its table (same numbers either way).

    Raises `ParameterError` for an unknown kind or d outside 1..D.
    """
    on = torch.device(device)
    if kind == "one_hot":
        return OneHot(n_full, n_sub, seed, on, cached)
    makers: dict[str, type[Fastfood] | type[DenseProjection] | type[Sparse]] = {
        "fastfood": Fastfood,
        "dense": DenseProjection,
        "sparse": Sparse,
    }
    if kind not in makers:
        raise ParameterError(f"no projection is called {kind!r}; known: {', '.join(KINDS)}")
    return makers[kind](n_full, n_sub, seed, on)


class OneHot(Projection):
    """Each parameter i moves with one coordinate: (P z)_i = s_i z_{h(i)} / √n_{h(i)}, an exact isometry PᵀP = 1.

    h(i) = π(i) mod d with a hashed permutation π of 0..D−1, so that coordinate j moves n_j = ⌊D/d⌋ or ⌈D/d⌉
    parameters; s_i = ±1 is hashed too. In the table the sign is folded into the index: 2d targets, (z, −z).
    """

    def __init__(self, n_full: int, n_sub: int, seed: int, device: torch.device, cached: bool | None = None) -> None:
        super().__init__(n_full, n_sub, seed)
        self._permutation = Permutation(n_full, seed)
        counts = n_full // n_sub + (torch.arange(n_sub) < n_full % n_sub).to(torch.int64)
        self.scale = counts.to(torch.float32).rsqrt().to(device)
        keep = n_full <= CACHED_ENTRIES if cached is None else cached
        self.table = self._indices(0, n_full, device) if keep else None

    def _indices(self, start: int, stop: int, device: torch.device) -> torch.Tensor:
        """(stop − start,) integers in 0..2d−1: the coordinate, plus d where the sign is −1."""
        d = self.shape[1]
        wide = self.shape[0] <= WIDE_ENTRIES
        made = torch.empty(stop - start, dtype=torch.int64 if wide else torch.int32, device=device)
        for first in range(start, stop, BLOCK_ENTRIES):
            positions = torch.arange(first, min(first + BLOCK_ENTRIES, stop), device=device)
            target = self._permutation(positions) % d
            target += d * signs(positions, self.seed)
            made[first - start : first - start + len(positions)] = target
        return made

    def up(self, z: torch.Tensor) -> torch.Tensor:
        """P z: one gather."""
        scaled = z * self.scale
        both = torch.cat((scaled, -scaled))
        if self.table is not None:
            return both.index_select(0, self.table)
        out = torch.empty(self.shape[0], dtype=z.dtype, device=z.device)
        for first, last in self._blocks():
            torch.index_select(both, 0, self._indices(first, last, z.device), out=out[first:last])
        return out

    def adjoint(self, g: torch.Tensor) -> torch.Tensor:
        """Pᵀ g: one scatter-add."""
        d = self.shape[1]
        both = torch.zeros(2 * d, dtype=g.dtype, device=g.device)
        if self.table is not None:
            _scatter(both, self.table, g)
        else:
            for first, last in self._blocks():
                _scatter(both, self._indices(first, last, g.device), g[first:last])
        return (both[:d] - both[d:]) * self.scale

    def _blocks(self) -> list[tuple[int, int]]:
        return [(a, min(a + BLOCK_ENTRIES, self.shape[0])) for a in range(0, self.shape[0], BLOCK_ENTRIES)]


def _scatter(target: torch.Tensor, index: torch.Tensor, values: torch.Tensor) -> None:
    if index.dtype == torch.int64:
        target.scatter_add_(0, index, values)
    else:
        target.index_add_(0, index, values)


class Fastfood(Projection):
    """Δθ = (H G Π H B [z; 0])[:D] / √(D Σ G²) with the unnormalised Walsh–Hadamard H of order L = 2^p ≥ D
    (1408.3060; 1804.08838, appendix). O(D) memory, O(D log D) time; columns have unit norm exactly where L = D."""

    def __init__(self, n_full: int, n_sub: int, seed: int, device: torch.device) -> None:
        super().__init__(n_full, n_sub, seed)
        draw = torch.Generator().manual_seed(seed)
        self._transform = HadamardPlan(max(n_full, 2), device)
        length = self._transform.length
        self._b = (torch.randint(0, 2, (n_sub,), generator=draw) * 2 - 1).to(torch.float32).to(device)
        self._pi = torch.randperm(length, generator=draw).to(device)
        gauss = torch.randn(length, generator=draw)
        self._g = (gauss / math.sqrt(n_full * float(gauss.double().square().sum()))).to(device)

    def up(self, z: torch.Tensor) -> torch.Tensor:
        """P z by two fast transforms."""
        padded = torch.zeros(self._transform.length, dtype=z.dtype, device=z.device)
        padded[: self.shape[1]] = self._b * z
        mixed = self._transform(padded).index_select(0, self._pi)
        return self._transform(self._g * mixed)[: self.shape[0]]

    def adjoint(self, g: torch.Tensor) -> torch.Tensor:
        """Pᵀ g: the same steps backwards (H is symmetric)."""
        padded = torch.zeros(self._transform.length, dtype=g.dtype, device=g.device)
        padded[: self.shape[0]] = g
        weighted = self._g * self._transform(padded)
        back = torch.empty_like(weighted)
        back[self._pi] = weighted
        return self._b * self._transform(back)[: self.shape[1]]


class DenseProjection(Projection):
    """Gaussian columns, normalised. 4 D d bytes: for small models, and as the yardstick of the others."""

    def __init__(self, n_full: int, n_sub: int, seed: int, device: torch.device) -> None:
        super().__init__(n_full, n_sub, seed)
        draw = torch.Generator().manual_seed(seed)
        matrix = torch.randn(n_full, n_sub, generator=draw)
        matrix /= torch.linalg.vector_norm(matrix, dim=0)
        self._matrix = matrix.to(device)

    def up(self, z: torch.Tensor) -> torch.Tensor:
        """P z: a product with the stored matrix."""
        return self._matrix @ z

    def adjoint(self, g: torch.Tensor) -> torch.Tensor:
        """Pᵀ g."""
        return self._matrix.T @ g


class Sparse(Projection):
    """Very sparse ±1 columns, density 1/√D (Li, Hastie & Church 2006), normalised; no column is empty."""

    def __init__(self, n_full: int, n_sub: int, seed: int, device: torch.device) -> None:
        super().__init__(n_full, n_sub, seed)
        draw = torch.Generator().manual_seed(seed)
        each = max(1, round(math.sqrt(n_full)))
        rows = _distinct(n_full, n_sub, each, draw)
        sign = (torch.randint(0, 2, rows.shape, generator=draw) * 2 - 1).to(torch.float32)
        self._rows = rows.flatten().to(device)
        self._columns = torch.arange(n_sub).repeat_interleave(each).to(device)
        self._values = (sign.flatten() / math.sqrt(each)).to(device)

    def up(self, z: torch.Tensor) -> torch.Tensor:
        """P z: a scatter-add of the non-zero entries."""
        out = torch.zeros(self.shape[0], dtype=z.dtype, device=z.device)
        return out.index_add_(0, self._rows, self._values * z[self._columns])

    def adjoint(self, g: torch.Tensor) -> torch.Tensor:
        """Pᵀ g: a gather and row sums."""
        return (self._values * g[self._rows]).view(self.shape[1], -1).sum(dim=1)


def _distinct(n_full: int, n_sub: int, each: int, draw: torch.Generator) -> torch.Tensor:
    """(n_sub, each) row numbers, distinct within each line: one from each of `each` equal strata of 0..n_full−1."""
    edges = torch.linspace(0, n_full, each + 1, dtype=torch.float64).round().to(torch.int64)
    width = (edges[1:] - edges[:-1]).to(torch.float64)
    within = (torch.rand(n_sub, each, generator=draw, dtype=torch.float64) * width).to(torch.int64)
    return edges[:-1] + within


class Stacked:
    """Several maps of one shape side by side, for an ensemble trained at once: z (E, d) ↔ θ (E, D)."""

    def __init__(self, maps: Sequence[Projection]) -> None:
        self.maps = tuple(maps)
        tables = [one.table for one in maps if isinstance(one, OneHot) and one.table is not None]
        self._table: torch.Tensor | None = None
        if tables and len(tables) == len(maps) and len(maps) > 1:
            d = maps[0].shape[1]
            offset = 2 * d * torch.arange(len(maps), device=tables[0].device, dtype=torch.int64)
            self._table = (torch.stack(tables).to(torch.int64) + offset[:, None]).flatten()
            first = maps[0]
            assert isinstance(first, OneHot)
            self._scale = first.scale

    def up(self, z: torch.Tensor) -> torch.Tensor:
        """(E, d) → (E, D)."""
        if self._table is None:
            return torch.stack([one.up(row) for one, row in zip(self.maps, z, strict=True)])
        scaled = z * self._scale
        both = torch.cat((scaled, -scaled), dim=1)
        return both.flatten().index_select(0, self._table).view(len(self.maps), -1)

    def adjoint(self, g: torch.Tensor) -> torch.Tensor:
        """(E, D) → (E, d)."""
        if self._table is None:
            return torch.stack([one.adjoint(row) for one, row in zip(self.maps, g, strict=True)])
        d = self.maps[0].shape[1]
        both = torch.zeros(len(self.maps) * 2 * d, dtype=g.dtype, device=g.device)
        _scatter(both, self._table, g.flatten())
        both = both.view(len(self.maps), 2 * d)
        return (both[:, :d] - both[:, d:]) * self._scale
