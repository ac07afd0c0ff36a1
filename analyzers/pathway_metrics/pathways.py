"""Pathways: which experts carry a sample through the layers (2506.21551).

Per sample and layer g is the mean routing weight per expert over the sample's tokens, brought to sum 1; the experts are
ranked by g (ties by id) and cut where the cumulative weight first reaches the threshold, that expert included. The
pathway is the concatenation over layers of (layer, expert) tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_REACHED = 1e-6
"""Float32 weights that sum to a threshold in exact arithmetic may fall this much short of it."""


@dataclass(frozen=True)
class Pathways:
    """N pathways as rows of `tokens` (N, T) int32, −1 after `lengths` (N,); a token is layer · E + expert."""

    tokens: np.ndarray
    lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.lengths)


def normalised(weight: np.ndarray) -> np.ndarray:
    """(N, L, E) mean routing weights → g, float64, each layer's sum 1; all 0 where nothing was routed."""
    weight = np.asarray(weight, dtype=np.float64)
    total = weight.sum(-1, keepdims=True)
    return np.divide(weight, total, out=np.zeros_like(weight), where=total > 0)


def ranked(g: np.ndarray) -> np.ndarray:
    """(N, L, E) expert ids by descending g, ties by id."""
    return np.argsort(-g, axis=-1, kind="stable")


def cut_by_weight(g: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Ranked experts (N, L, E) and how many of them are in the pathway (N, L): cumulative weight ≥ threshold."""
    order = ranked(g)
    reached = np.cumsum(np.take_along_axis(g, order, -1), -1) >= threshold - _REACHED
    count = np.where(reached.any(-1), reached.argmax(-1) + 1, (g > 0).sum(-1))
    return order, count


def cut_by_rank(g: np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """Ranked experts and how many are in the pathway: the first `top_k` that were used at all."""
    return ranked(g), np.minimum(top_k, (g > 0).sum(-1))


def concatenated(order: np.ndarray, count: np.ndarray) -> Pathways:
    """The pathways of ranked experts (N, L, E), of which the first count (N, L) belong to them."""
    samples, layers, experts = order.shape
    lengths = count.sum(1)
    tokens = np.full((samples, int(lengths.max(initial=0))), -1, dtype=np.int32)
    inside = np.arange(experts) < count[..., None]
    start = np.cumsum(count, 1) - count
    at = start[..., None] + np.arange(experts)
    named = order + np.arange(layers)[:, None] * experts
    row = np.broadcast_to(np.arange(samples)[:, None, None], inside.shape)
    tokens[row[inside], at[inside]] = named[inside]
    return Pathways(tokens, lengths.astype(np.int64))


def pathways_of(weight: np.ndarray, threshold: float, top_k: int | None = None) -> Pathways:
    """The pathways of mean routing weights (N, L, E): cut at `threshold`, or after `top_k` experts of each layer."""
    g = normalised(weight)
    return concatenated(*(cut_by_weight(g, threshold) if top_k is None else cut_by_rank(g, top_k)))


def routing_entropy(weight: np.ndarray, experts: np.ndarray) -> np.ndarray:
    """(N, L) entropy of g over ln(number of the layer's experts): 0 for one expert, 1 for all alike.

    weight: (N, L, E); experts: (L,), how many each layer has. NaN where nothing was routed.
    """
    g = normalised(weight)
    logs = np.log(g, out=np.zeros_like(g), where=g > 0)
    entropy = -(g * logs).sum(-1) / np.log(np.maximum(experts, 2))
    return np.where(g.sum(-1) > 0, entropy, np.nan)
