"""What the leading vectors of a dense matrix cost, in the words of `analyzers.costs`: for orders of size and plans."""

from __future__ import annotations

from analyzers import costs
from analyzers.costs import Work
from analyzers.linalg import dense_top, haar_iteration

_COLUMNS, _PRODUCTS = 330, 29
"""Of WᵀW on a matrix of ordinary spectrum: columns it is applied to, iteration and bound together, and how often W is
widened on the way (measured at 2048 and 4096)."""
_ASKED = 400
"""Questions to each Haar matrix of a null's draw (262 to 684 measured)."""


def dense_work(m: int, n: int, k: int) -> list[Work]:
    """The leading triplets and the scores of both sides: the certified iteration, below `FROM` a Gram's vectors."""
    p = min(m, n)
    scores = costs.gemm(p, m + n, k)
    if p < dense_top.FROM:
        return [costs.gram(m, n), Work("eigh", 2.0 * p**3, p), scores, costs.python(1e-3)]
    products = Work("gemm", 4.0 * m * n * _COLUMNS, 16)
    return [products, costs.scan(2.0 * m * n * _PRODUCTS), scores, costs.python(2e-2)]


def full_null_work(m: int, n: int, draws: int) -> list[Work]:
    """Draws of the null of a full-rank update: iterated, below `FROM` a dense Gram each. Fitted to whole
    analyses, where a draw at p = 128, 384 and 768 took 3, 27 and 160 ms."""
    p = min(m, n)
    if p < haar_iteration.FROM:
        one = [costs.qr(p, p), costs.qr(p, p), costs.gemm(p, p, p), Work("eigh", 4.0 * p**3, p), costs.python(1.2e-3)]
    else:
        one = [Work("gemm", 27.0 * p * _ASKED**2, 64), costs.python(2e-2)]
    return [Work(part.kind, draws * part.operations, part.side) for part in one]
