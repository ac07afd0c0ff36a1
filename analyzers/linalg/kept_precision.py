"""How far singular vectors that are kept in float32 are from the exact ones, as whole matrices rather than by column.

Coordinates of an adapter in the kept vectors are off by this much; √p times one column's rounding would be the only
bound without it, thirty times the truth at p = 384 and a hundred times at 4096.
"""

from __future__ import annotations

import math

import torch

from analyzers.linalg.norm_bound import deflated_bound

_ROWS_AT_ONCE = 256
_STEPS = 24
_CLOSE = 1.4
"""A bound so much above what independent roundings of this size have is good enough."""


def deviation(exact: torch.Tensor, kept: torch.Tensor, order: torch.Tensor | None = None) -> float:
    """Upper bound of ‖kept − exact‖₂ for exact (d, p) float64 and kept (d, p) float32; 0.0 where they are equal.

    `order` (p,): the columns of `exact` that `kept` holds. From a random start of fixed seed, wrong with a probability
    of 1e-10 (`norm_bound`). Differences are formed a few rows at a time.
    """
    if kept.dtype == torch.float64 or not kept.numel():
        return 0.0
    d, p = kept.shape

    def difference(start: int) -> torch.Tensor:
        rows = slice(start, start + _ROWS_AT_ONCE)
        before = exact[rows] if order is None else exact[rows][:, order]
        return (kept[rows].double() - before).mul_(2.0**24)

    total = sum(float((difference(start) ** 2).sum()) for start in range(0, d, _ROWS_AT_ONCE))
    if total == 0.0:
        return 0.0

    def gram(x: torch.Tensor) -> torch.Tensor:
        image = torch.zeros_like(x)
        for start in range(0, d, _ROWS_AT_ONCE):
            part = difference(start)
            image.addmm_(part.mT, part @ x)
        return image

    cut = total / (d * p) * (math.sqrt(d) + math.sqrt(p)) ** 2
    generator = torch.Generator().manual_seed(d * 1_000_003 + p)
    bound, _ = deflated_bound(gram, exact.new_zeros((p, 0)), _CLOSE**2 * cut, _STEPS, generator, 0.0, d)
    return math.sqrt(min(bound, total)) * 2.0**-24


def precision(left: float, right: float, lost: float = 0.0) -> torch.Tensor:
    """(3,) float64: bounds of ‖Û − U‖₂ for orthonormal U, left and right, and of ‖U − Ũ‖₂ before rounding.

    `left`, `right`: what `deviation` says. `lost`: ‖UᵀU − 1‖_F; the nearest orthonormal Ũ is no farther than that.
    """
    return torch.tensor([left + lost, right + lost, 2.0 * lost], dtype=torch.float64)
