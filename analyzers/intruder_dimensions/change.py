"""What fine-tuning changed in one matrix, beside its intruders: sizes, subspaces, and the entries one by one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from analyzers import costs
from analyzers.contract import Context, Cost, MatrixInfo, Result, Scope, Statistic, Unit
from analyzers.intruder_dimensions.pair import Pair, cached_base, frobenius_norm, identify, load_pair, refusal
from analyzers.intruder_dimensions.rounding import Format, base_rounding, pair_rounding, ulps, update_noise_floor
from analyzers.linalg.blocks import BLOCK_BYTES, dense64, norm64
from analyzers.linalg.subspaces import subspace_shares

_BLOCK_ENTRIES = 1 << 16
"""A dozen temporaries of a block live at once: half a megabyte each is 6 ns an entry where 64 kB are 17."""


@dataclass(frozen=True)
class Change(Statistic):
    """Scalars of Δ = W − W0, float64: `norm_update`, `norm_base`, `norm_tuned` (Frobenius), `inner` ⟨W, W0⟩,
    `noise_floor` of Δ; of the entries: `unchanged` (share equal bit for bit), `changed_above_noise` (share with
    |Δ| > (ulp(w) + ulp(w0))/2, more than rounding can do), `sign_flips`, `top_share` (share of ‖Δ‖² in the
    `top_fraction` of the entries that changed most) and `top_share_above_noise` (those of them above the noise).
    `subspace_share` (2, len(subspace_ranks)): share of ‖Δ‖² inside W0's leading left and right singular vectors.
    `base_gap` (len(subspace_ranks),): σ_r − σ_{r+1} of W0, without which its top-r subspace is arbitrary.

    An adapter's W is taken as merged and rounded to the base's dtype where bits are compared. Shares are NaN for Δ = 0,
    and beyond p. A base of zeros has NaN subspace shares.
    """

    subspace_ranks: tuple[int, ...] = (1, 5, 10, 50)
    top_fraction: float = 0.01

    name: ClassVar[str] = "change"
    version: ClassVar[int] = 2
    scope: ClassVar[Scope] = "pair"
    against: ClassVar[str | None] = "base"

    def refuses(self, info: MatrixInfo, reference: MatrixInfo | None) -> str | None:
        """Circuits and shapes that differ are not compared."""
        return refusal(info, reference)

    def cost(self, infos: Sequence[MatrixInfo]) -> Cost:
        """Passes over the entries, and a product with some of the base's vectors."""
        ranks = max(self.subspace_ranks, default=0)
        entries = [i.shape[0] * i.shape[1] for i in infos]
        work = [costs.scan(25 * count) for count in entries] + [costs.gemm(*i.shape, ranks) for i in infos if ranks]
        return Cost.of([*work, costs.python(1e-3 * len(infos))], memory_bytes=5 * 8 * max(entries, default=0))

    def compute(self, unit: Unit, context: Context) -> Result:
        """See the class."""
        label, _, reference = identify(unit.only)
        pair = load_pair(unit.only)
        roundings = pair_rounding(pair, base_rounding(pair, reference, context))
        update = pair.delta()
        shares = torch.full((2, len(self.subspace_ranks)), torch.nan)
        gaps = np.full(len(self.subspace_ranks), np.nan)
        if not pair.identical and bool(pair.reference.any()):
            base = cached_base(label, reference, context, pair.reference)
            shares = subspace_shares(base, update, self.subspace_ranks)
            gaps = gaps_after(base.sigma.cpu().numpy(), self.subspace_ranks)
            del base
        norms = {
            "norm_update": 0.0 if pair.identical else frobenius_norm(update),
            "norm_base": norm64(pair.reference),
            "noise_floor": update_noise_floor(pair, roundings),
        }
        scalars = norms | entry_changes(
            pair, dense64(update), self.top_fraction, (roundings[0].format, roundings[1].format)
        )
        result = {name: np.asarray(value, dtype=np.float64) for name, value in scalars.items()}
        return result | {"subspace_share": shares.double().cpu().numpy(), "base_gap": gaps}


def gaps_after(sigma: np.ndarray, ranks: Sequence[int]) -> np.ndarray:
    """σ_r − σ_{r+1} for each of the ranks, float64; σ_{p+1} is 0, and beyond p it is NaN. sigma: (p,) descending."""
    gaps = sigma - np.append(sigma[1:], 0.0)
    return np.array([gaps[r - 1] if r <= sigma.size else np.nan for r in ranks], dtype=np.float64)


def entry_changes(
    pair: Pair, update: torch.Tensor, top_fraction: float, formats: tuple[Format, Format]
) -> dict[str, float]:
    """The scalars of `Change` that need every entry, in one pass over blocks of rows. update: Δ (m, n) float64."""
    squares = inner = 0.0
    counts = dict.fromkeys(("unchanged", "changed_above_noise", "sign_flips"), 0)
    rows, columns = update.shape
    step = max(1, _BLOCK_ENTRIES // columns)
    for start in range(0, rows, step):
        part = slice(start, start + step)
        delta, base = update[part], pair.reference[part]
        wide = base.double()
        tuned = delta + wide
        # An adapter's W as it would be stored: merged, and rounded to the base's dtype.
        stored = (
            pair.tuned[part] if isinstance(pair.tuned, torch.Tensor) and pair.update is None else tuned.to(base.dtype)
        )
        product = tuned * wide  # entries are in a range whose products keep their sign (`load_pair`)
        squares += float(torch.linalg.vector_norm(tuned)) ** 2
        inner += float(product.sum())
        noisy = ulps(stored, formats[0]).add_(ulps(wide, formats[1]))
        counts["unchanged"] += int(same_bits(stored, base).count_nonzero())
        counts["changed_above_noise"] += int((delta.abs().mul_(2) > noisy).count_nonzero())
        counts["sign_flips"] += int((product < 0).count_nonzero())
    sums = {"norm_tuned": math.sqrt(squares), "inner": inner}
    sums |= {name: count / update.numel() for name, count in counts.items()}
    total = float(torch.linalg.vector_norm(update)) ** 2
    if total == 0:
        return sums | {"top_share": math.nan, "top_share_above_noise": math.nan}
    top, above = top_entries(pair, update, top_fraction, formats)
    energy = update.flatten()[top] ** 2
    shares = float(energy.sum()) / total, float(energy[above].sum()) / total
    return sums | dict(zip(("top_share", "top_share_above_noise"), shares, strict=True))


def top_entries(
    pair: Pair, update: torch.Tensor, fraction: float, formats: tuple[Format, Format]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Flat indices of the ⌈fraction · m n⌉ entries of greatest |Δ|, and which of them changed by more than rounding."""
    top = greatest_entries(update, max(1, math.ceil(fraction * update.numel())))
    base = pair.reference.flatten()[top]
    delta = update.flatten()[top]
    stored = pair.tuned.flatten()[top] if isinstance(pair.tuned, torch.Tensor) else delta + base.double()
    return top, delta.abs() > by_rounding(stored, base, formats)


def greatest_entries(update: torch.Tensor, count: int) -> torch.Tensor:
    """Flat indices, ascending, of the `count` entries of greatest |Δ|, compared in float32 of |Δ|/max; first of ties.

    torch.topk would take two float64 copies of the matrix more; this takes one.
    """
    largest = float(torch.linalg.vector_norm(update, ord=math.inf))
    rows = max(1, BLOCK_BYTES // (8 * update.shape[1]))
    magnitude = torch.cat([(block.abs() / largest).float().flatten() for block in update.split(rows)]).cpu().numpy()
    threshold = np.partition(magnitude, magnitude.size - count)[magnitude.size - count]
    above = np.flatnonzero(magnitude > threshold)
    tied = np.flatnonzero(magnitude == threshold)[: count - above.size]
    return torch.from_numpy(np.sort(np.concatenate([above, tied]))).to(update.device)


def by_rounding(stored: torch.Tensor, base: torch.Tensor, formats: tuple[Format, Format]) -> torch.Tensor:
    """The greatest |Δ| that rounding both numbers to nearest can make out of none, half an ulp of each; same shape."""
    return (ulps(stored, formats[0]) + ulps(base, formats[1])) / 2


def same_bits(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """(m, n) bool: equal bit for bit; of two dtypes, equal in value."""
    if first.dtype != second.dtype:
        return first.double() == second.double()
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[first.dtype.itemsize]
    return first.contiguous().view(whole) == second.contiguous().view(whole)
