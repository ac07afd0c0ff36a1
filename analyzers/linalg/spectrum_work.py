"""What a spectrum costs: the operations behind the singular values of one matrix, and the memory they take."""

from __future__ import annotations

from analyzers import costs
from analyzers.contract import MatrixInfo
from analyzers.costs import Work

RANKS = {"delta": 16, "circuit_qk": 64, "circuit_ov": 64}
"""The inner dimension that is assumed of thin factors, which a `MatrixInfo` does not tell."""


def spectrum_work(info: MatrixInfo) -> list[Work]:
    """A Gram, its eigenvalues and two passes for a dense matrix; QR of both factors and a small SVD for thin ones."""
    m, n = info.shape
    p = min(m, n)
    rank = RANKS.get(info.role, p)
    if rank < p:
        return [costs.qr(m + n, rank), costs.svd(rank, rank), costs.python(3e-4)]
    return [costs.gram(m, n), costs.eigvalsh(p), costs.scan(m * n), costs.python(4e-4)]


def spectrum_memory(info: MatrixInfo) -> int:
    """Bytes: two float64 copies and the Gram, or three of the factors."""
    m, n = info.shape
    p = min(m, n)
    rank = RANKS.get(info.role, p)
    return 8 * 3 * (m + n) * rank if rank < p else 8 * (2 * m * n + p * p)
