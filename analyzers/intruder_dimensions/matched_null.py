"""The null of the second control: random directions at the norm that the runs have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from analyzers.contract import Context, Cost, MatrixInfo, Observation, Result, Scope, Statistic, Unit
from analyzers.intruder_dimensions.matched import geometric_mean, last_steps, members, update_sigma
from analyzers.intruder_dimensions.null import IntruderNull, null_of, null_scores
from analyzers.intruder_dimensions.pair import refusal
from analyzers.intruder_dimensions.spectrum import UpdateSpectrum
from analyzers.linalg.adapter_work import repeated
from analyzers.linalg.coordinate_null import Null

NORMS = ("frobenius", "spectral")


@dataclass(frozen=True)
class IntruderMatchedNull(Statistic):
    """Null scores of each run's Δ at its last step, rescaled to the geometric mean of the runs' norms.

    `similarity` (2, R, draws, 2, k) float32, ‖Δ‖_F first, then ‖Δ‖₂; NaN for a run with Δ = 0 and everywhere with one
    run. `members` (R,) as of `IntruderMatched`. Draw i of a run is seeded by (the unit's seed, run, i) for both norms:
    what differs between them is not the draw.
    """

    draws: int = 20
    k: int = 10

    name: ClassVar[str] = "intruder_matched_null"
    version: ClassVar[int] = 2
    scope: ClassVar[Scope] = "runs"
    against: ClassVar[str | None] = "base"
    last_step_only: ClassVar[bool] = True
    extent_field: ClassVar[str | None] = "draws"

    def inputs(self) -> tuple[Statistic, ...]:
        """σ(Δ)."""
        return (UpdateSpectrum(),)

    def refuses(self, info: MatrixInfo, reference: MatrixInfo | None) -> str | None:
        """As the counts."""
        return refusal(info, reference)

    def cost(self, infos: Sequence[MatrixInfo]) -> Cost:
        """Two norms, one null of each run."""
        single = IntruderNull(self.draws, self.k).cost(infos)
        size = 2 * 8 * self.draws * self.k * len(infos)
        return replace(
            Cost.of(repeated(single.work, 2), memory_bytes=single.memory_bytes, result_bytes=size), device=single.device
        )

    def compute(self, unit: Unit, context: Context) -> Result:
        """See the class."""
        last = last_steps(unit.observations)
        similarity = np.full((2, len(last), self.draws, 2, self.k), np.nan, dtype=np.float32)
        if len(last) > 1:
            places: list[tuple[int, int]] = []
            nulls: list[Null] = []
            for row, norms in enumerate(_norms(last)):
                common = geometric_mean(norms)
                for run in np.flatnonzero(norms > 0).tolist():
                    generators = [np.random.default_rng((context.seed, run, draw)) for draw in range(self.draws)]
                    nulls.append(null_of(last[run], generators, context, float(common / norms[run])))
                    places.append((row, run))
            for place, (scores, _) in zip(places, null_scores(nulls, self.k, context.device), strict=True):
                similarity[place] = scores
        return {"similarity": similarity, "members": members(last)}


def _norms(last: Sequence[Observation]) -> np.ndarray:
    """(2, R): ‖Δ‖_F and ‖Δ‖₂; 0 where σ(Δ) has no value."""
    sigmas = [update_sigma(observation) for observation in last]
    frobenius = [float(np.linalg.norm(sigma)) for sigma in sigmas]
    return np.array([frobenius, [float(sigma.max(initial=0.0)) for sigma in sigmas]])
