"""How many singular values of an updated base lie above a threshold, exactly: the proof that none was missed.

MᵀM = D² + U C Uᵀ with U = [K, D P] and C = [[1, 1], [1, 0]] in blocks of r; by Haynsworth's inertia additivity
n₊(MᵀM − θ) = n₊(D² − θ) + n₊(S) − r, S = −C⁻¹ − Uᵀ(D² − θ)⁻¹U of size 2r. The signs of S's eigenvalues are
decided when they exceed a bound of its rounding errors. Source: Haynsworth 1968; Sylvester's law.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from analyzers.linalg.base_coordinates import EPS, CoordinateUpdate
from analyzers.linalg.davidson import Pairs

_FRACTIONS = tuple(i / 16 for i in range(1, 16))
_ROOM = 4.0
"""What is computed in between (products, scaling, the bound itself) costs less than this factor."""


@dataclass(frozen=True)
class Inertia:
    """count (b,) int64: eigenvalues of MᵀM above θ. Where not `decided` (b,), the count says nothing."""

    count: torch.Tensor
    decided: torch.Tensor


@dataclass(frozen=True)
class Threshold:
    """theta (b,) between the `above`-th (b,) Ritz value and the next, as far as may be from both and from every σ⁰².

    `sound` (b,): so many distinct eigenvalues do lie above it. With `residual` (b, c), the Frobenius norm of the first
    c residuals, eigenvalues pair one to one with the first c Ritz values, each within it (Kahan 1967).
    """

    theta: torch.Tensor
    above: torch.Tensor
    sound: torch.Tensor
    residual: torch.Tensor


def count_above(update: CoordinateUpdate, theta: torch.Tensor) -> Inertia:
    """The count for each update of the batch; theta (b,) > 0."""
    return inertia_of(update_rows(update), update.strengths, update.sigma**2, theta)


def update_rows(update: CoordinateUpdate) -> torch.Tensor:
    """V0ᵀY = K/τ and D P by rows, (b, 2r, p)."""
    return torch.cat([(update.short / update.strengths[:, None, :]).mT, update.sigma * update.inside.mT], dim=1)


def inertia_of(rows: torch.Tensor, strengths: torch.Tensor, squares: torch.Tensor, theta: torch.Tensor) -> Inertia:
    """The same of `update_rows` (b, 2r, p), τ (b, r) and σ⁰² (p,) or (b, p)."""
    p, r = squares.shape[-1], strengths.shape[-1]
    distance = squares - theta[:, None]  # (b, p)
    at_pole = (distance == 0).any(dim=1)
    inverse = 1.0 / torch.where(distance == 0, 1.0, distance)
    # Columns of like size, a congruence that keeps the inertia: V0ᵀY · √θ, and D P.
    root = theta.sqrt()[:, None]
    scale = torch.cat([root.expand(-1, r), torch.ones_like(strengths)], dim=1)  # (b, 2r)
    core = -((rows * inverse[:, None, :]) @ rows.mT) * (scale[:, :, None] * scale[:, None, :])
    stretch = root / strengths
    upper, lower = torch.arange(r, device=core.device), torch.arange(r, 2 * r, device=core.device)
    core[:, upper, lower] -= stretch
    core[:, lower, upper] -= stretch
    core[:, lower, lower] += 1.0
    eigenvalues = torch.linalg.eigvalsh((core + core.mT) / 2)
    lengths = theta[:, None] * (rows[:, :r] ** 2).sum(dim=1) + (rows[:, r:] ** 2).sum(dim=1)
    bound = _rounding(lengths, distance, squares + theta[:, None]) + 2 * r * EPS * eigenvalues.abs().amax(dim=1)
    positive = (eigenvalues > 0).sum(dim=1)
    decided = (eigenvalues.abs().amin(dim=1) > _ROOM * bound) & ~at_pole & torch.isfinite(bound)
    return Inertia((squares > theta[:, None]).sum(dim=1) + positive - r, decided & (p > 0))


def place_threshold(squares: torch.Tensor, pairs: Pairs, least: int) -> Threshold:
    """Where the count is asked: in the widest gap of the Ritz values after the `least`-th, `least` < c. squares: σ⁰²
    descending, (p,) or (b, p)."""
    together = (pairs.residual**2).cumsum(dim=1).sqrt()
    high = (pairs.values - together)[:, least - 1 : -1].clamp(min=0).sqrt()
    low = (pairs.values + pairs.residual)[:, least:].clamp(min=0).sqrt()
    widest = (high - low).argmax(dim=1, keepdim=True)
    high, low = high.gather(1, widest) ** 2, low.gather(1, widest) ** 2  # (b, 1)
    fractions = torch.tensor(_FRACTIONS, dtype=high.dtype, device=high.device)
    candidates = low + (high - low) * fractions  # (b, f)
    ascending = squares.flip(-1).expand(len(candidates), -1).contiguous()
    place = torch.searchsorted(ascending, candidates.contiguous())
    room = torch.minimum(
        (candidates - ascending.gather(1, (place - 1).clamp(min=0))).abs(),
        (ascending.gather(1, place.clamp(max=ascending.shape[1] - 1)) - candidates).abs(),
    )
    room = torch.minimum(room, torch.minimum(candidates - low, high - candidates))
    theta = candidates.gather(1, room.argmax(dim=1, keepdim=True)).squeeze(1)
    return Threshold(theta, widest.squeeze(1) + least, (high > low).squeeze(1) & (theta < high.squeeze(1)), together)


def _rounding(lengths: torch.Tensor, distance: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """(b,): bound of ‖S − its computed value‖₂: p ε for the sum's accumulation, and ε (σ⁰² + θ)/|σ⁰² − θ| for each
    difference; all in the trace of |U|ᵀ|D² − θ|⁻¹|U|, which bounds the norm of what it weighs. lengths (b, p): of
    each row of U the square of its length."""
    away = distance.abs()
    weight = (lengths.shape[1] + 2.0 * size / away) * EPS / away
    return (weight * lengths).sum(dim=1)
