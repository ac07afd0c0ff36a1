"""What arithmetic takes: operations by kind, and the rates that turn them into seconds.

A statistic lists its `Work`; `cost_of` makes a `Cost` of it at the rates of the reference machine, and a plan prices
the same work again at the rates that were measured where it will run.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["gemm", "eigvalsh", "eigh", "svd", "qr", "scan", "python"]
Rates = Mapping[str, Mapping[int, float]]
"""Kind → side of the matrix → operations per second of one thread; between sides by the logarithm."""


@dataclass(frozen=True)
class Work:
    """`operations` of one kind on matrices whose smaller side is `side` (rates depend on it; 0 where they do not).

    Floating-point operations for "gemm" to "qr"; entries passed over for "scan"; for "python" (interpreter, short
    arrays) seconds of the reference machine.
    """

    kind: Kind
    operations: float
    side: int = 0


REFERENCE: Rates = {
    "gemm": {64: 3.6e10, 128: 4.6e10, 256: 5.0e10, 1024: 5.0e10},
    "eigvalsh": {64: 3.9e9, 128: 7.1e9, 256: 9.6e9, 512: 1.27e10, 1024: 1.62e10, 2048: 2.16e10},
    "eigh": {64: 9.2e9, 128: 1.55e10, 256: 2.16e10, 512: 2.84e10, 1024: 3.51e10},
    "svd": {64: 1.77e10, 128: 2.81e10, 256: 3.99e10, 512: 4.57e10, 1024: 5.78e10},
    "qr": {64: 1.37e10, 128: 1.74e10, 256: 2.05e10, 512: 2.57e10, 1024: 2.95e10},
    "scan": {0: 5e8},
    "python": {0: 1.0},
}
"""Float64, one thread of a server core (Zen 5, 2.6 GHz, AVX-512), torch 2.13 with MKL: what plans use until
`varve plan --calibrate` has measured the machine they are made on."""


def rate(rates: Rates, kind: str, side: int) -> float:
    """Operations per second, linear in the logarithms between the sides that were measured, constant beyond them."""
    known = sorted(rates[kind].items())
    if side <= known[0][0]:
        return known[0][1]
    for (low, slow), (high, fast) in itertools.pairwise(known):
        if side <= high:
            share = math.log(side / max(1, low)) / math.log(high / max(1, low))
            return math.exp((1 - share) * math.log(slow) + share * math.log(fast))
    return known[-1][1]


def seconds(work: Iterable[Work], rates: Rates = REFERENCE) -> float:
    """Of one thread."""
    return sum(one.operations / rate(rates, one.kind, one.side) for one in work)


def gemm(m: int, k: int, n: int) -> Work:
    """A product (m, k) @ (k, n): 2mkn."""
    return Work("gemm", 2.0 * m * k * n, min(m, k, n))


def gram(m: int, n: int) -> Work:
    """AᵀA or AAᵀ of the smaller side p, one triangle: mnp."""
    return Work("gemm", 1.0 * m * n * min(m, n), min(m, n))


def eigvalsh(p: int) -> Work:
    """Eigenvalues of a symmetric (p, p): 4/3 p³."""
    return Work("eigvalsh", 4 / 3 * p**3, p)


def eigh(p: int) -> Work:
    """Eigenvalues and vectors of a symmetric (p, p): 22/3 p³ (tridiagonal, divide and conquer, back)."""
    return Work("eigh", 22 / 3 * p**3, p)


def svd(m: int, n: int) -> Work:
    """Thin SVD with vectors: 6 m p² + 20 p³ with m the larger side (Golub and Van Loan, 8.6)."""
    p = min(m, n)
    return Work("svd", 6.0 * max(m, n) * p**2 + 20.0 * p**3, p)


def qr(m: int, n: int) -> Work:
    """Q and R of (m, n), m ≥ n: 4 m n² − 4/3 n³."""
    return Work("qr", 4.0 * m * n**2 - 4 / 3 * n**3, n)


def scan(entries: float) -> Work:
    """Passes over entries: one operation per entry and pass."""
    return Work("scan", float(entries))


def python(reference_seconds: float) -> Work:
    """Interpreter and short arrays: seconds measured on the reference machine."""
    return Work("python", reference_seconds)
