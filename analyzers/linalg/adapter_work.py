"""What the adapter kernel takes, for plans: operations for one adapter, and for draws of its null."""

from __future__ import annotations

from analyzers import costs
from analyzers.costs import Work

RANK = 16
"""Taken where a rank is not known."""
_BLOCKS = 5
"""Of an iteration, its start included."""
_THIN = 4.0
"""Products with a dozen columns run at a quarter of the rate of square ones of their smaller side."""


def adapter_work(m: int, n: int, k: int, rank: int = RANK) -> list[Work]:
    """From factors to the scores of both sides: two thin products with the base's vectors (a third where m ≠ n), the
    iteration, the inertia count."""
    p = min(m, n)
    products = [costs.gemm(m, p, rank), costs.gemm(n, p, rank)]
    if m != n:
        products.append(costs.gemm(max(m, n), p, rank))
    # widening the float32 vectors to float64 costs as much as a pass over them
    return [*products, costs.scan(0.15 * (m + n) * p), *_iteration(p, k, rank), costs.python(1.5e-3)]


def null_work(m: int, n: int, k: int, draws: int, rank: int = RANK) -> list[Work]:
    """Frames of the adapter's rank and the iteration, for each draw; batches share what the interpreter takes."""
    p = min(m, n)
    one = [costs.qr(p, rank), costs.qr(p, rank), *_iteration(p, k, rank), costs.python(3e-4)]
    return [Work(part.kind, draws * part.operations, part.side) for part in one]


def _iteration(p: int, k: int, rank: int) -> list[Work]:
    width = k + 3
    basis = (_BLOCKS + 1) / 2 * width  # on average over the blocks
    thin = _BLOCKS * (8 * rank * width + 8 * basis * width + 4 * width * width) + 8 * rank * rank
    return [Work("gemm", _THIN * p * thin, 2 * width), Work("eigh", _BLOCKS * 9 * basis**3, int(basis))]
