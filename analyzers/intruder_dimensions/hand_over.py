"""The vectors that scoring has found, handed over to what follows them over the steps, so that none is found twice."""

from __future__ import annotations

import torch

from analyzers.contract import LowRank
from analyzers.intruder_dimensions.pair import Pair
from analyzers.linalg.adapter_vectors import CoordinateVectors
from analyzers.linalg.blocks import blocks64
from analyzers.linalg.lowrank_update import Leading
from analyzers.linalg.subspaces import BaseVectors
from analyzers.tracking.vectors import LeadingVectors


def vectors_of_base(base: BaseVectors, k: int) -> LeadingVectors:
    """Of a W that equals W0: the base's own, so that a cluster is not turned by a second factorization."""
    return LeadingVectors.of(base.left[:, :k], base.sigma[:k], base.right[:, :k], k)


def vectors_of_top(top: Leading, pair: Pair, base: BaseVectors, k: int) -> LeadingVectors:
    """Of a tuned W. Coordinates in the base's vectors are expanded: on the shorter side they are all of a vector; on
    the longer one what lies outside is known through W alone, u = W v/σ (two thin products and one pass over W0)."""
    if not isinstance(top, CoordinateVectors):
        return LeadingVectors.of(top.left, top.sigma, top.right, k)
    m, n = base.shape
    left, right = (_expanded(base, top, side) for side in range(2))
    if m > n:
        left = _image(pair, right.double(), transposed=False) / top.sigma
    elif n > m:
        right = _image(pair, left.double(), transposed=True) / top.sigma
    return LeadingVectors.of(left, top.sigma, right, k)


def _expanded(base: BaseVectors, top: CoordinateVectors, side: int) -> torch.Tensor:
    vectors = base.side(side)
    return vectors @ top.inside[side].to(vectors.dtype)


def _image(pair: Pair, vectors: torch.Tensor, transposed: bool) -> torch.Tensor:
    """W X or Wᵀ X in float64, W = W0 + Δ by its factors."""
    assert isinstance(pair.update, LowRank)  # only an adapter has coordinates
    b, a, scale = pair.update.b.double(), pair.update.a.double(), pair.update.scale
    if transposed:
        thin = a.T @ (b.T @ vectors)
        parts = [block.T @ vectors for block in blocks64(pair.reference, axis=1)]
    else:
        thin = b @ (a @ vectors)
        parts = [block @ vectors for block in blocks64(pair.reference, axis=0)]
    return torch.cat(parts).add_(thin, alpha=scale)
