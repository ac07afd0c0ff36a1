"""Bases and adapters that are hard for the adapter kernel: clustered, flat, steep and deficient spectra; updates that
lie along the base's leading vectors, in its null space, repeat themselves or nearly vanish."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st

from analyzers.contract import LowRank
from analyzers.linalg.subspaces import BaseVectors

SPECTRA = ("power", "steep", "clustered", "flat", "deficient", "gaussian")
UPDATES = (
    "random",
    "strong",
    "tiny",
    "along the top",
    "against the top",
    "null space",
    "repeated",
    "one sided",
    "zero columns",
    "cancelling",
)


@dataclass(frozen=True)
class Case:
    """W0 with its exact SVD, and Δ. `decades`: log10 of the condition number of a steep spectrum. `magnitude`: what
    both are multiplied with; `strength` the update alone."""

    shape: tuple[int, int]
    rank: int
    spectrum: str
    update: str
    decades: int
    seed: int
    magnitude: float = 1.0
    strength: float = 1.0

    def build(self) -> tuple[torch.Tensor, BaseVectors, LowRank]:
        """W0 (m, n) float64, its factorization in float64, and the update."""
        (m, n), p, r = self.shape, min(self.shape), self.rank
        draw = np.random.default_rng(self.seed)
        u, v = (np.linalg.qr(draw.standard_normal((d, p)))[0] for d in (m, n))
        sigma = self._sigma(p, draw) * self.magnitude
        b, a = draw.standard_normal((m, r)) / m**0.5, draw.standard_normal((r, n)) / n**0.5
        low = slice(p - r, p)
        if self.update == "along the top":
            b, a = u[:, :r], v[:, :r].T
        elif self.update == "against the top":
            b, a = -u[:, :r] * (sigma[:r] / self.magnitude) * draw.uniform(0.3, 1.0, r), v[:, :r].T
        elif self.update == "null space":
            b, a = u[:, low] * draw.uniform(0.5, 2.0, r), v[:, low].T
        elif self.update == "repeated":
            b = np.repeat(b[:, :1], r, axis=1)
        elif self.update == "one sided":
            b = u[:, :r]
        elif self.update == "zero columns":
            b[:, ::2], a[-1] = 0.0, 0.0
        elif self.update == "cancelling":  # all but one of the columns take each other back, to rounding
            b[:, 1::2], a[1::2] = -b[:, 0 : 2 * (r // 2) : 2], a[0 : 2 * (r // 2) : 2]
        scale = {"strong": 30.0, "tiny": 1e-7}.get(self.update, 0.7)
        scale *= self.magnitude * self.strength
        delta = LowRank(torch.from_numpy(b.copy()), torch.from_numpy(np.ascontiguousarray(a)), scale)
        base = BaseVectors(*(torch.from_numpy(x.copy()) for x in (u, sigma, v)))
        return torch.from_numpy((u * sigma) @ v.T), base, delta

    def _sigma(self, p: int, draw: np.random.Generator) -> np.ndarray:
        index = np.arange(1, p + 1)
        if self.spectrum == "steep":
            return np.geomspace(1.0, 10.0**-self.decades, p)
        if self.spectrum == "clustered":
            return np.sort(np.repeat(1.0 / np.arange(1, p // 3 + 2), 3)[:p] * (1 + 1e-9 * draw.random(p)))[::-1].copy()
        if self.spectrum == "flat":
            return np.ones(p)
        if self.spectrum == "deficient":
            return np.where(index <= max(1, p // 4), 1.0 / index, 0.0)
        if self.spectrum == "gaussian":
            return np.linalg.svd(draw.standard_normal((p, p)) / p**0.5, compute_uv=False)
        return index**-0.5


def cases(least: int = 20, most: int = 48, ranks: int = 16) -> st.SearchStrategy[Case]:
    """Square, tall and wide, smaller side in [least, most], rank 1 … ranks."""
    side = st.integers(least, most)
    shapes = st.tuples(side, side, st.sampled_from((1, 2))).map(_shaped)
    return st.builds(
        Case,
        shapes,
        st.integers(1, ranks),
        st.sampled_from(SPECTRA),
        st.sampled_from(UPDATES),
        st.integers(0, 14),
        st.integers(0, 10_000),
        st.sampled_from((1.0, 1e-12, 1e12)),
        st.sampled_from((1.0, 1e-12, 1e12)),
    )


def _shaped(drawn: tuple[int, int, int]) -> tuple[int, int]:
    first, second, stretch = drawn
    if stretch == 1 and first % 3 == 0:
        return first, first
    return (first, stretch * second) if first % 2 else (stretch * first, second)
