"""The first control: what an update of the same singular values and no direction of its own would score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from analyzers.contract import Context, Cost, MatrixInfo, Result, Scope, Statistic, Unit
from analyzers.costs import Work
from analyzers.errors import ContractError
from analyzers.intruder_dimensions.pair import cached_base, identify, refusal
from analyzers.intruder_dimensions.spectrum import UpdateSpectrum
from analyzers.linalg.adapter_work import RANK, null_work
from analyzers.linalg.coordinate_null import coordinate_null, worthwhile
from analyzers.linalg.dense_work import full_null_work
from analyzers.linalg.haar import negligible, null_draws
from analyzers.linalg.haar_iteration import iterated_null, start_width


@dataclass(frozen=True)
class IntruderNull(Statistic):
    """`similarity` (draws, 2, k): scores, left and right, of W0 + X diag(σ(Δ)) Yᵀ with Haar-random X and Y.

    Draw i has its own generator, seeded by (the unit's seed, i), so more draws contain fewer. Only the singular values
    of Δ (an input statistic) and of W0 (cached) are used; no matrix is read. A zero Δ scores 1. NaN beyond p.
    `dense` () int64: draws that took the eigenvectors of a dense Gram: all of a small matrix, and those whose iteration
    was not proven complete (of a thin Δ in the base's coordinates, of any other by `haar_iteration`).
    """

    draws: int = 20
    k: int = 10

    name: ClassVar[str] = "intruder_null"
    version: ClassVar[int] = 2
    scope: ClassVar[Scope] = "pair"
    against: ClassVar[str | None] = "base"
    extent_field: ClassVar[str | None] = "draws"

    def inputs(self) -> tuple[Statistic, ...]:
        """σ(Δ)."""
        return (UpdateSpectrum(),)

    def refuses(self, info: MatrixInfo, reference: MatrixInfo | None) -> str | None:
        """As the statistic it is the control of."""
        return refusal(info, reference)

    def cost(self, infos: Sequence[MatrixInfo]) -> Cost:
        """Per draw of a thin adapter's null what `null_work` says; of any other what `full_null_work` does."""
        work: list[Work] = []
        for info in infos:
            rank = info.rank or RANK
            if info.role == "delta" and worthwhile(min(info.shape), rank, self.k):
                work += null_work(*info.shape, self.k, self.draws, rank)
            else:
                work += full_null_work(*info.shape, self.draws)
        largest = max((i.shape[0] * i.shape[1] for i in infos), default=0)
        return Cost.of(work, memory_bytes=5 * 8 * largest, result_bytes=16 * self.draws * self.k * len(infos))

    def compute(self, unit: Unit, context: Context) -> Result:
        """See the class."""
        label, _, reference = identify(unit.only)
        inputs = unit.only.statistics.get(UpdateSpectrum.name)
        if inputs is None:
            raise ContractError(f"{label}: {self.name} needs the result of {UpdateSpectrum.name}")
        sigma_update = np.asarray(inputs["sigma"], dtype=np.float64)
        base = cached_base(label, reference, context)
        shape, sigma_base = base.shape, base.sigma.cpu().numpy()
        del base  # its vectors are not needed
        generators = [np.random.default_rng((context.seed, draw)) for draw in range(self.draws)]
        similarity, dense = null_scores(sigma_base, sigma_update, shape, self.k, generators, context.device)
        return {"similarity": similarity, "dense": np.asarray(dense, dtype=np.int64)}


def null_scores(
    sigma_base: np.ndarray,
    sigma_update: np.ndarray,
    shape: tuple[int, int],
    k: int,
    generators: Sequence[np.random.Generator],
    device: torch.device | None = None,
) -> tuple[np.ndarray, int]:
    """Scores (draws, 2, k), left and right, of W0 + X diag(σ(Δ)) Yᵀ, one draw from each generator; and how many draws
    took a dense factorization: all, or those without a proof. A Δ of zero scores 1."""
    count = len(generators)
    similarity = np.full((count, 2, k), np.nan)
    if not np.any(sigma_update > 0):
        similarity[:, :, : min(k, sigma_base.size)] = 1.0
        return similarity, 0
    proven = np.zeros(count, dtype=bool)
    states = [generator.bit_generator.state for generator in generators]
    strengths = sigma_update[sigma_update > negligible(sigma_update, shape)]
    if worthwhile(min(shape), strengths.size, k):
        similarity, proven = coordinate_null(sigma_base, strengths, shape, k, generators, device)
    elif (width := start_width(sigma_base, float(strengths.max()), k)) is not None and count:
        return iterated_null(sigma_base, strengths, shape, k, width, generators)
    again = np.flatnonzero(~proven).tolist()
    for draw in again:
        generators[draw].bit_generator.state = states[draw]  # the same draw, by the other way
    unproven = [generators[draw] for draw in again]
    similarity[again] = null_draws(sigma_base, sigma_update, shape, k, unproven, device)
    return similarity, len(again)
