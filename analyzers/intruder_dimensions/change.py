"""What fine-tuning changed in one matrix, beside its intruders: sizes, subspaces, and the entries one by one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from analyzers.contract import Context, Cost, MatrixInfo, Result, Scope, Statistic, Unit
from analyzers.intruder_dimensions.pair import Pair, cached_base, frobenius_norm, identify, load_pair, refusal
from analyzers.intruder_dimensions.rounding import base_rounding, ulps, update_noise_floor
from analyzers.linalg.blocks import dense64
from analyzers.linalg.subspaces import subspace_shares


@dataclass(frozen=True)
class Change(Statistic):
    """Scalars of Δ = W − W0, float64: `norm_update`, `norm_base`, `norm_tuned` (Frobenius), `inner` ⟨W, W0⟩,
    `noise_floor` of Δ; of the entries: `unchanged` (share equal bit for bit), `changed_above_noise` (share with
    |Δ| > (ulp(w) + ulp(w0))/2, more than rounding can do), `sign_flips`, `top_share` (share of ‖Δ‖² in the
    `top_fraction` of the entries that changed most) and `top_share_above_noise` (those of them above the noise).
    `subspace_share` (2, len(subspace_ranks)): share of ‖Δ‖² inside W0's leading left and right singular vectors.

    An adapter's W is taken as merged and rounded to the base's dtype where bits are compared. Shares are NaN for Δ = 0,
    and beyond p. A base of zeros has NaN subspace shares.
    """

    subspace_ranks: tuple[int, ...] = (1, 5, 10, 50)
    top_fraction: float = 0.01

    name: ClassVar[str] = "change"
    version: ClassVar[int] = 1
    scope: ClassVar[Scope] = "pair"
    against: ClassVar[str | None] = "base"

    def refuses(self, info: MatrixInfo, reference: MatrixInfo | None) -> str | None:
        """Circuits and shapes that differ are not compared."""
        return refusal(info, reference)

    def cost(self, infos: Sequence[MatrixInfo]) -> Cost:
        """Passes over the entries, and a product with some of the base's vectors."""
        ranks = max(self.subspace_ranks, default=0)
        entries = [i.shape[0] * i.shape[1] for i in infos]
        seconds = sum(count * (1e-7 + 2e-10 * ranks) + 2e-3 for count in entries)
        return Cost(seconds=seconds, memory_bytes=5 * 8 * max(entries, default=0))

    def compute(self, unit: Unit, context: Context) -> Result:
        """See the class."""
        label, _, reference = identify(unit.only)
        pair = load_pair(unit.only)
        of_base = base_rounding(pair, reference, context)
        update = pair.delta()
        shares = torch.full((2, len(self.subspace_ranks)), torch.nan)
        if not pair.identical and bool(pair.reference.any()):
            base = cached_base(label, reference, context, pair.reference)
            shares = subspace_shares(base, update, self.subspace_ranks)
            del base
        norms = {
            "norm_update": 0.0 if pair.identical else frobenius_norm(update),
            "norm_base": float(torch.linalg.vector_norm(pair.reference, dtype=torch.float64)),
            "noise_floor": update_noise_floor(pair, of_base),
        }
        scalars = norms | entry_changes(pair, dense64(update), self.top_fraction)
        result = {name: np.asarray(value, dtype=np.float64) for name, value in scalars.items()}
        return result | {"subspace_share": shares.double().cpu().numpy()}


def entry_changes(pair: Pair, update: torch.Tensor, top_fraction: float) -> dict[str, float]:
    """The scalars of `Change` that need every entry. update: Δ (m, n) float64."""
    base = pair.reference
    tuned = update + base
    stored = pair.tuned if isinstance(pair.tuned, torch.Tensor) and pair.update is None else tuned.to(base.dtype)
    above = update.abs() > exceeds(stored, base)
    result = {
        "norm_tuned": float(torch.linalg.vector_norm(tuned)),
        "inner": float((tuned * base).sum()),
        "unchanged": float(same_bits(stored, base).double().mean()),
        "changed_above_noise": float(above.double().mean()),
        "sign_flips": float((torch.sign(tuned) * torch.sign(base.double()) < 0).double().mean()),
        "top_share": math.nan,
        "top_share_above_noise": math.nan,
    }
    total = float((update**2).sum())
    if total > 0:
        top = top_entries(update, top_fraction)
        energy = update.flatten()[top] ** 2
        result["top_share"] = float(energy.sum()) / total
        result["top_share_above_noise"] = float(energy[above.flatten()[top]].sum()) / total
    return result


def top_entries(update: torch.Tensor, fraction: float) -> torch.Tensor:
    """Flat indices of the ⌈fraction · m n⌉ entries of greatest |Δ|."""
    count = max(1, math.ceil(fraction * update.numel()))
    return torch.topk(update.abs().flatten(), count, sorted=False).indices


def exceeds(stored: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """(m, n): the greatest |Δ| that rounding both numbers to nearest can make out of none, half an ulp of each."""
    return (ulps(stored) + ulps(base)) / 2


def same_bits(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """(m, n) bool: equal bit for bit; of two dtypes, equal in value."""
    if first.dtype != second.dtype:
        return first.double() == second.double()
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[first.dtype.itemsize]
    return first.contiguous().view(whole) == second.contiguous().view(whole)
