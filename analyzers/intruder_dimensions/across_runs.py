"""How alike the runs' updates of one matrix are: task-vector cosines, where the great changes fall, LoRA subspaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from analyzers import costs
from analyzers.contract import Context, Cost, LowRank, MatrixInfo, Observation, Result, Scope, Statistic, Unit
from analyzers.intruder_dimensions.change import top_entries
from analyzers.intruder_dimensions.matched import last_steps, members
from analyzers.intruder_dimensions.pair import Pair, Update, frobenius_norm, identify, load_pair, refusal
from analyzers.intruder_dimensions.rounding import Format, base_rounding, pair_rounding
from analyzers.linalg.blocks import dense64, shape_of
from analyzers.linalg.subspaces import phi


@dataclass(frozen=True)
class ChangeAcrossRuns(Statistic):
    """Of the R runs' Δ at their last steps, in the order of the unit:

    `cosine` (R, R) of vec Δ; `mask_iou`, `mask_iou_above_noise` (R, R): intersection over union of the sets of the
    `top_fraction` entries of greatest |Δ|, and of those of them that are more than rounding; `phi` (R, R, q, q): φ of
    the adapters' A at i, j in `phi_ranks`, NaN for a run that is no adapter and beyond a rank. NaN for Δ = 0 and
    between shapes that differ. `members` (R,) int64: fingerprints of what was compared.
    """

    top_fraction: float = 0.01
    phi_ranks: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)

    name: ClassVar[str] = "change_across_runs"
    version: ClassVar[int] = 1
    scope: ClassVar[Scope] = "runs"
    against: ClassVar[str | None] = "base"

    def refuses(self, info: MatrixInfo, reference: MatrixInfo | None) -> str | None:
        """Circuits and shapes that differ are not compared."""
        return refusal(info, reference)

    def cost(self, infos: Sequence[MatrixInfo]) -> Cost:
        """Each update is read once per run it is compared with."""
        largest = max((i.shape[0] * i.shape[1] for i in infos), default=0)
        return Cost.of([costs.scan(70 * largest), costs.python(2e-3)], memory_bytes=5 * 8 * largest)

    def compute(self, unit: Unit, context: Context) -> Result:
        """See the class."""
        last = last_steps(unit.observations)
        count, grid = len(last), len(self.phi_ranks)
        result = {name: np.full((count, count), np.nan) for name in ("cosine", "mask_iou", "mask_iou_above_noise")}
        result["phi"] = np.full((count, count, grid, grid), np.nan)
        result["members"] = members(last)
        masks: list[tuple[np.ndarray, np.ndarray]] = []
        for row, observation in enumerate(last):
            pair = load_pair(observation)
            update = pair.delta()
            norm = 0.0 if pair.identical else frobenius_norm(update)
            masks.append(
                top_masks(pair, update, self.top_fraction, formats_of(observation, pair, context))
                if norm
                else _no_masks()
            )
            del pair
            for column in range(row + 1):
                other = update if column == row else load_pair(last[column]).delta()
                if norm and shape_of(other) == shape_of(update):
                    values = _alike(update, norm, other, masks[row], masks[column])
                    for name, value in values.items():
                        result[name][row, column] = result[name][column, row] = value
                if isinstance(update, LowRank) and isinstance(other, LowRank) and update.a.shape[1] == other.a.shape[1]:
                    grid_values = phi(update.a, other.a, self.phi_ranks).cpu().numpy()
                    result["phi"][row, column], result["phi"][column, row] = grid_values, grid_values.T
        return result


def formats_of(observation: Observation, pair: Pair, context: Context) -> tuple[Format, Format]:
    """The effective formats of W and W0."""
    _, _, reference = identify(observation)
    of_tuned, of_base = pair_rounding(pair, base_rounding(pair, reference, context))
    return of_tuned.format, of_base.format


def top_masks(
    pair: Pair, update: Update, fraction: float, formats: tuple[Format, Format]
) -> tuple[np.ndarray, np.ndarray]:
    """Flat indices of the entries that changed most: all of them, and those that changed by more than rounding."""
    top, above = top_entries(pair, dense64(update), fraction, formats)
    return top.cpu().numpy(), top[above].cpu().numpy()


def inner_product(first: Update, second: Update) -> float:
    """⟨Δ1, Δ2⟩_F; factors are contracted, never expanded: tr(A1ᵀ B1ᵀ B2 A2) = Σ (B1ᵀB2) ∘ (A1 A2ᵀ)."""
    if isinstance(first, LowRank) and isinstance(second, LowRank):
        outer = first.b.double().T @ second.b.double()
        return first.scale * second.scale * float((outer * (first.a.double() @ second.a.double().T)).sum())
    if isinstance(first, LowRank):
        assert isinstance(second, torch.Tensor)
        return first.scale * float(((first.b.double().T @ second) * first.a.double()).sum())
    if isinstance(second, LowRank):
        return inner_product(second, first)
    return float(torch.dot(first.flatten(), second.flatten()))


def _alike(
    update: Update,
    norm: float,
    other: Update,
    masks: tuple[np.ndarray, np.ndarray],
    other_masks: tuple[np.ndarray, np.ndarray],
) -> dict[str, float]:
    other_norm = frobenius_norm(other)
    if other_norm == 0:
        return {}
    return {
        "cosine": min(1.0, max(-1.0, inner_product(update, other) / (norm * other_norm))),
        "mask_iou": intersection_over_union(masks[0], other_masks[0]),
        "mask_iou_above_noise": intersection_over_union(masks[1], other_masks[1]),
    }


def intersection_over_union(first: np.ndarray, second: np.ndarray) -> float:
    """|A ∩ B| / |A ∪ B| of two sets of unique indices; NaN where both are empty."""
    common = np.intersect1d(first, second, assume_unique=True).size
    union = first.size + second.size - common
    return common / union if union else float("nan")


def _no_masks() -> tuple[np.ndarray, np.ndarray]:
    empty = np.zeros(0, dtype=np.int64)
    return empty, empty
