"""Scores of updates with given singular values and Haar-random vectors, many draws at once, in a base's coordinates.

U0ᵀX is Haar when X is, so that a draw costs O((m + n) r²) and no product with the base's vectors; the draws are those
of `haar.null_similarities`, and one whose inertia count does not confirm it is left to that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from analyzers.linalg import certified_pairs
from analyzers.linalg.base_coordinates import EPS, CoordinateUpdate
from analyzers.linalg.condensed_pairs import MOST, RowUpdates, condensed_scores
from analyzers.linalg.haar import haar_batch

_NUMBERS_AT_ONCE = 1 << 15
"""Rows of all draws of a batch: its 150 calls cost some ms, and its arrays should not leave the core's caches."""
_DEVICE_NUMBERS = 1 << 22
"""The same on an accelerator, which wants all draws at once."""
_TOLERANCE = 3e-5
"""Relative residual, one step before the scores: those of MiniLM's matrices were within 4e-6 of converged ones, where
one draw differs from the next by .1."""
_ITERATED = 1e-5
"""The same of the draws that are iterated, whose last block overshoots: within 3e-7."""


def worthwhile(p: int, rank: int, k: int) -> bool:
    """Whether draws are cheaper this way: at half the rank of `certified_pairs`, since the dense Gram of a draw needs
    no second side."""
    return certified_pairs.worthwhile(p, 2 * rank, k)


@dataclass(frozen=True)
class Null:
    """What draws are made of: σ(W0) (p,), strengths σ(Δ) (r,) > 0 descending, W0's shape, a generator for each draw."""

    sigma_base: np.ndarray
    strengths: np.ndarray
    shape: tuple[int, int]
    generators: Sequence[np.random.Generator]

    @property
    def unit(self) -> float:
        """What σ(W0) and σ(Δ) are divided by, a power of two near the larger: scores do not depend on it."""
        return float(2.0 ** np.floor(np.log2(max(float(self.sigma_base[0]), float(self.strengths[0])))))


def coordinate_null(
    sigma_base: np.ndarray,
    strengths: np.ndarray,
    shape: tuple[int, int],
    k: int,
    generators: Sequence[np.random.Generator],
    device: torch.device | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """`coordinate_nulls` of a single base and update."""
    return coordinate_nulls([Null(sigma_base, strengths, shape, generators)], k, device)[0]


def coordinate_nulls(
    nulls: Sequence[Null], k: int, device: torch.device | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each null scores (draws, 2, k), left and right, of W0 + X diag(strengths) Yᵀ, one draw from each generator,
    and which of the draws are proven (draws,) bool. The residual of a vector is 1e-4 σ1 at most.

    Nulls of one p and r go through the same products: what a batch takes beside its arithmetic is 1 to 5 ms.
    """
    results = [(np.full((len(n.generators), 2, k), np.nan), np.zeros(len(n.generators), dtype=bool)) for n in nulls]
    alike: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for place, null in enumerate(nulls):
        key = (min(null.shape), null.strengths.size)
        alike.setdefault(key, []).extend((place, draw) for draw in range(len(null.generators)))
    budget = _DEVICE_NUMBERS if device is not None and device.type != "cpu" else _NUMBERS_AT_ONCE
    for (p, _), draws in alike.items():
        at_once = max(1, budget // p)
        for start in range(0, len(draws), at_once):
            batch = draws[start : start + at_once]
            scores, proven = _batch_scores([(nulls[place], draw) for place, draw in batch], k, device)
            for (place, draw), score, done in zip(batch, scores, proven, strict=True):
                results[place][0][draw], results[place][1][draw] = score, done
    return results


def _batch_scores(
    draws: Sequence[tuple[Null, int]], k: int, device: torch.device | None
) -> tuple[np.ndarray, np.ndarray]:
    """Scores (b, 2, k), left and right, and which are proven (b,), of draws whose p and r are the same."""
    updates = draw_updates(draws, device)
    if updates.strengths.shape[1] <= MOST:
        sides, proven = condensed_scores(updates, k, _TOLERANCE)
    else:
        sides = updates.sigma.new_full((len(draws), 2, k), torch.nan)
        proven = torch.zeros(len(draws), dtype=torch.bool, device=sides.device)
    for slow in (~proven).nonzero().squeeze(1).tolist():
        sides[slow], proven[slow] = _by_iteration(updates, slow, k)
    scores = sides.cpu().numpy()
    wide = np.array([null.shape[0] < null.shape[1] for null, _ in draws])
    scores[wide] = scores[wide, ::-1]
    return scores, proven.cpu().numpy()


def _by_iteration(updates: RowUpdates, draw: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores (2, k) [long side, short side] of one draw and whether they are proven, by the adapters' own kernel."""
    update = as_columns(updates, slice(draw, draw + 1))
    found = certified_pairs.certified_pairs(update, k, _ITERATED)
    long = update.long_vectors(found.vectors, found.values.clamp(min=0).sqrt()).abs().amax(dim=1)
    return torch.cat([long, found.vectors.abs().amax(dim=1)]).clamp(max=1.0), found.proven[0]


def as_columns(updates: RowUpdates, of: slice) -> CoordinateUpdate:
    """Draws of one base as `certified_pairs` takes them."""
    base, tau = updates.sigma[of.start], updates.strengths[of]
    short = (tau[:, :, None] * updates.own[of]).mT.contiguous()
    slack = base.numel() * EPS * tau[:, 0]
    return CoordinateUpdate(base, tau, updates.inside[of].mT.contiguous(), short, slack)


def draw_updates(draws: Sequence[tuple[Null, int]], device: torch.device | None = None) -> RowUpdates:
    """One update with Haar-random vectors for each draw, in units of `Null.unit`; p and r are the same for all."""
    p, r = min(draws[0][0].shape), draws[0][0].strengths.size
    generators = [null.generators[draw] for null, draw in draws]
    inside, own = np.empty((len(draws), r, p)), np.empty((len(draws), r, p))
    longer = np.array([max(null.shape) for null, _ in draws])
    for long in np.unique(longer).tolist():
        of = np.flatnonzero(longer == long)
        inside[of] = haar_batch(p, long, r, [generators[draw] for draw in of]).transpose(0, 2, 1)
    own[:] = haar_batch(p, p, r, generators).transpose(0, 2, 1)
    sigma, tau = np.empty((len(draws), p)), np.empty((len(draws), r))
    for row, (null, _) in enumerate(draws):
        sigma[row], tau[row] = null.sigma_base / null.unit, null.strengths / null.unit
    return RowUpdates(*(torch.as_tensor(part, device=device) for part in (sigma, tau, own, inside)))
