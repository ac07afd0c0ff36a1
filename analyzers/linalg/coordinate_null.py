"""Scores of updates with given singular values and Haar-random vectors, many draws at once, in a base's coordinates.

U0ᵀX is Haar when X is, so that a draw costs O((m + n) r²) and no product with the base's vectors; the draws are those
of `haar.null_similarities`, and one whose inertia count does not confirm it is left to that.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from analyzers.linalg import certified_pairs
from analyzers.linalg.base_coordinates import EPS, CoordinateUpdate
from analyzers.linalg.haar import haar_batch

_NUMBERS_AT_ONCE = 1 << 17
"""Rows of all the draws that are iterated together: enough for BLAS, and little enough to stay near the core."""
_DEVICE_NUMBERS = 1 << 22
"""The same on an accelerator, which wants all draws at once."""
_TOLERANCE = 1e-5
"""Relative residual. The last block overshoots: scores of MiniLM's matrices were within 3e-7 of converged ones, where
one draw differs from the next by .1."""


def worthwhile(p: int, rank: int, k: int) -> bool:
    """Whether draws are cheaper this way: at half the rank of `certified_pairs`, since the dense Gram of a draw needs
    no second side."""
    return certified_pairs.worthwhile(p, 2 * rank, k)


def coordinate_null(
    sigma_base: np.ndarray,
    strengths: np.ndarray,
    shape: tuple[int, int],
    k: int,
    generators: Sequence[np.random.Generator],
    device: torch.device | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Scores (draws, 2, k), left and right, of W0 + X diag(strengths) Yᵀ, one draw from each generator, and which of
    the draws are proven (draws,) bool. strengths (r,) > 0, descending; the residual of a vector is 1e-5 σ1 at most."""
    p = min(shape)
    scores, proven = np.full((len(generators), 2, k), np.nan), np.zeros(len(generators), dtype=bool)
    base = torch.as_tensor(sigma_base, dtype=torch.float64, device=device)
    at_once = max(1, (_NUMBERS_AT_ONCE if base.device.type == "cpu" else _DEVICE_NUMBERS) // p)
    for start in range(0, len(generators), at_once):
        part = slice(start, start + at_once)
        update = draw_updates(base, strengths, shape, generators[part])
        found = certified_pairs.certified_pairs(update, k, _TOLERANCE)
        sigma = found.values.clamp(min=0).sqrt()
        long = update.long_vectors(found.vectors, sigma).abs().amax(dim=1)
        sides = torch.stack([long, found.vectors.abs().amax(dim=1)], dim=1).clamp(max=1.0)
        if shape[0] < shape[1]:
            sides = sides.flip(1)
        scores[part], proven[part] = sides.cpu().numpy(), found.proven.cpu().numpy()
    return scores, proven


def draw_updates(
    base: torch.Tensor, strengths: np.ndarray, shape: tuple[int, int], generators: Sequence[np.random.Generator]
) -> CoordinateUpdate:
    """One update with Haar-random vectors from each generator. base: (p,) σ⁰ on the device of the result."""
    p, r = min(shape), strengths.size
    inside = torch.as_tensor(haar_batch(p, max(shape), r, generators), device=base.device)
    short = torch.as_tensor(haar_batch(p, p, r, generators) * strengths, device=base.device)
    tau = torch.as_tensor(strengths, device=base.device).expand(len(generators), r)
    return CoordinateUpdate(base, tau, inside, short, base.new_full((len(generators),), p * EPS * float(strengths[0])))
