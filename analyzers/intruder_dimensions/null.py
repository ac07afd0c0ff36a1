"""The first control: what an update of the same singular values and no direction of its own would score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from analyzers.contract import Context, Cost, MatrixInfo, Observation, Result, Scope, Statistic, Unit
from analyzers.costs import Work
from analyzers.errors import ContractError
from analyzers.intruder_dimensions.pair import cached_base_sigma, identify, refusal
from analyzers.intruder_dimensions.spectrum import UpdateSpectrum
from analyzers.linalg.adapter_work import RANK, null_work
from analyzers.linalg.coordinate_null import Null, coordinate_nulls, worthwhile
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
    version: ClassVar[int] = 3
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
        outcome = self.compute_batch([unit], [context])[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def compute_batch(self, units: Sequence[Unit], contexts: Sequence[Context]) -> list[Result | Exception]:
        """Thin updates of matrices of one size are drawn together."""
        outcomes: list[Result | Exception] = []
        nulls: list[Null] = []
        for unit, context in zip(units, contexts, strict=True):
            try:
                generators = [np.random.default_rng((context.seed, draw)) for draw in range(self.draws)]
                nulls.append(null_of(unit.only, generators, context))
                outcomes.append({})
            except Exception as error:  # each unit answers for itself: the caller records it with its traceback
                outcomes.append(error)
        drawn = iter(null_scores(nulls, self.k, contexts[0].device) if nulls else [])
        for place, outcome in enumerate(outcomes):
            if not isinstance(outcome, Exception):
                similarity, dense = next(drawn)
                outcomes[place] = {"similarity": similarity, "dense": np.asarray(dense, dtype=np.int64)}
        return outcomes


def null_of(
    observation: Observation, generators: Sequence[np.random.Generator], context: Context, factor: float = 1.0
) -> Null:
    """The null of a pair whose σ(Δ) is among its inputs, Δ scaled by `factor`."""
    label, _, reference = identify(observation)
    inputs = observation.statistics.get(UpdateSpectrum.name)
    if inputs is None:
        raise ContractError(f"{label}: {IntruderNull.name} needs the result of {UpdateSpectrum.name}")
    strengths = factor * np.asarray(inputs["sigma"], dtype=np.float64)
    m, n = reference.info.shape
    return Null(cached_base_sigma(label, reference, context), strengths, (m, n), generators)


def null_scores(nulls: Sequence[Null], k: int, device: torch.device | None = None) -> list[tuple[np.ndarray, int]]:
    """Of each null scores (draws, 2, k), left and right, of W0 + X diag(σ(Δ)) Yᵀ, one draw from each generator; and how
    many draws took a dense factorization: all, or those without a proof. A Δ of zero scores 1.

    `strengths` of a null are all σ(Δ), zeros and rounding among them. Those of thin updates are drawn together.
    """
    results = [_dense_or_iterated(null, k, device) for null in nulls]
    thin = [place for place, result in enumerate(results) if result is None]
    together = [replace(nulls[place], strengths=_significant(nulls[place])) for place in thin]
    states = [[generator.bit_generator.state for generator in null.generators] for null in together]
    for place, start, (scores, proven) in zip(thin, states, coordinate_nulls(together, k, device), strict=True):
        null = nulls[place]
        again = np.flatnonzero(~proven).tolist()
        for draw in again:
            null.generators[draw].bit_generator.state = start[draw]  # the same draw, by the other way
        unproven = [null.generators[draw] for draw in again]
        scores[again] = null_draws(null.sigma_base, null.strengths, null.shape, k, unproven, device)
        results[place] = scores, len(again)
    return [result for result in results if result is not None]


def _dense_or_iterated(null: Null, k: int, device: torch.device | None) -> tuple[np.ndarray, int] | None:
    """The answer for one null, or None where its draws are for `coordinate_nulls`."""
    count = len(null.generators)
    similarity = np.full((count, 2, k), np.nan)
    if not np.any(null.strengths > 0):
        similarity[:, :, : min(k, null.sigma_base.size)] = 1.0
        return similarity, 0
    strengths = _significant(null)
    if worthwhile(min(null.shape), strengths.size, k):
        return None
    if (width := start_width(null.sigma_base, float(strengths.max()), k)) is not None and count:
        return iterated_null(null.sigma_base, strengths, null.shape, k, width, null.generators)
    return null_draws(null.sigma_base, null.strengths, null.shape, k, null.generators, device), count


def _significant(null: Null) -> np.ndarray:
    """The singular values of Δ that are more than rounding."""
    return null.strengths[null.strengths > negligible(null.strengths, null.shape)]
