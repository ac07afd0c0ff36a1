"""What the adapter kernel takes, for plans: operations for one adapter, and for draws of its null.

The passes over thin arrays were fitted to p = 192 … 1536 and r = 2 … 64, on spectra that fall like a power law; on a
flat one, a matrix at its Gaussian start, the iteration takes two to four times as long.
"""

from __future__ import annotations

from collections.abc import Sequence

from analyzers import costs
from analyzers.costs import Work

RANK = 16
"""Taken where a rank is not known."""
_GUARDED = 3


def adapter_work(m: int, n: int, k: int, rank: int = RANK) -> list[Work]:
    """From factors to the scores of both sides: two thin products with the base's vectors (a third where m ≠ n), the
    iteration, the inertia count."""
    p = min(m, n)
    products = [costs.gemm(m, p, rank), costs.gemm(n, p, rank)]
    if m != n:
        products.append(costs.gemm(max(m, n), p, rank))
    passes = costs.scan(p * (1800 + 200 * rank + 5 * rank**2))
    # widening the float32 vectors to float64 costs as much as a pass over them
    return [*products, costs.scan(0.15 * (m + n) * p), *_iteration(p, k, rank, 5), passes, costs.python(1.5e-3)]


def null_work(m: int, n: int, k: int, draws: int, rank: int = RANK) -> list[Work]:
    """Frames of the adapter's rank, two condensed problems and the inertia count, for each draw (`condensed_pairs`);
    batches share what the interpreter takes."""
    p, exact = min(m, n), k + 6
    first, second = 2 * rank + exact, k + 3 + exact
    small = [Work("eigh", 8.0 * first**3, first), Work("eigh", 13.0 * second**3, second)]
    products = Work("gemm", p * (18.0 * rank**2 + 20.0 * k * rank), 2 * rank)
    one = [*small, products, costs.scan(p * (150 + 15 * rank)), costs.python(1e-4)]
    return repeated(one, draws)


def repeated(work: Sequence[Work], times: float) -> list[Work]:
    """The same work several times."""
    return [Work(part.kind, times * part.operations, part.side) for part in work]


def _iteration(p: int, k: int, rank: int, blocks: int) -> list[Work]:
    width = k + _GUARDED
    basis = (blocks + 1) / 2 * width  # on average over the blocks
    thin = blocks * 8 * width * (rank + basis) + 8 * rank**2
    return [Work("gemm", p * thin, 2 * width), Work("eigh", blocks * 9 * basis**3, int(basis))]
