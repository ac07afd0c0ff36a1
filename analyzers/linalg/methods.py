"""How the leading singular vectors of a matrix were found: the codes that a statistic stores in its field `method`.

The first two factorize the whole matrix; a fallback of a certified method to them is therefore counted by its code.
"""

from __future__ import annotations

SVD = 0
"""A full float64 SVD."""
GRAM = 1
"""Leading eigenvectors of the float64 Gram matrix of the smaller side."""
ADAPTER = 2
"""Block Davidson in the base's singular coordinates, complete by an inertia count."""
KRYLOV = 3
"""Block Krylov iteration from the base's vectors, complete up to a stated miss probability."""

NAMES: dict[int, str] = {
    SVD: "full SVD",
    GRAM: "eigenvectors of the Gram",
    ADAPTER: "adapter kernel",
    KRYLOV: "Krylov",
}
