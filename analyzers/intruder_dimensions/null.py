"""The first control: what an update of the same singular values and no direction of its own would score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from analyzers.contract import Context, Cost, MatrixInfo, Result, Scope, Statistic, Unit
from analyzers.errors import ContractError
from analyzers.intruder_dimensions.pair import cached_base, identify, refusal
from analyzers.intruder_dimensions.spectrum import UpdateSpectrum
from analyzers.linalg.haar import null_similarities


@dataclass(frozen=True)
class IntruderNull(Statistic):
    """`similarity` (draws, 2, k): scores, left and right, of W0 + X diag(σ(Δ)) Yᵀ with Haar-random X and Y.

    Draw i has its own generator, seeded by (the unit's seed, i), so more draws contain fewer. Only the singular values
    of Δ (an input statistic) and of W0 (cached) are used; no matrix is read. A zero Δ scores 1. NaN beyond p.
    """

    draws: int = 20
    k: int = 10

    name: ClassVar[str] = "intruder_null"
    version: ClassVar[int] = 1
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
        """Per draw a frame, a Gram update and its leading eigenvectors, all on the smaller side."""
        seconds = self.draws * sum(1e-3 + 6e-10 * min(i.shape) ** 3 for i in infos)
        largest = max((i.shape[0] * i.shape[1] for i in infos), default=0)
        return Cost(seconds=seconds, memory_bytes=5 * 8 * largest)

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
        kept = min(self.k, sigma_base.size)
        if not np.any(sigma_update > 0):
            similarity = np.full((self.draws, 2, self.k), np.nan)
            similarity[:, :, :kept] = 1.0
            return {"similarity": similarity}
        generators = (np.random.default_rng((context.seed, draw)) for draw in range(self.draws))
        rows = [
            null_similarities(sigma_base, sigma_update, shape, self.k, generator, context.device)
            for generator in generators
        ]
        return {"similarity": np.stack(rows) if rows else np.zeros((0, 2, self.k))}
