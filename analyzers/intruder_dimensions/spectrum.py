"""The singular values of what training changed: all of them, or the r of an adapter, from its factors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from analyzers.contract import Context, LowRank, MatrixInfo, Result, Scope, Statistic, Unit
from analyzers.intruder_dimensions.pair import load_pair, refusal
from analyzers.linalg.spectra import singular_values


@dataclass(frozen=True)
class UpdateSpectrum(Statistic):
    """`sigma`: singular values of Δ = W − W0, float64, descending: p of them, or r for an adapter of rank r < p."""

    name: ClassVar[str] = "update_spectrum"
    version: ClassVar[int] = 1
    scope: ClassVar[Scope] = "pair"
    against: ClassVar[str | None] = "base"

    def refuses(self, info: MatrixInfo, reference: MatrixInfo | None) -> str | None:
        """Circuits and shapes that differ are not compared."""
        return refusal(info, reference)

    def compute(self, unit: Unit, context: Context) -> Result:
        """See the class."""
        pair = load_pair(unit.only)
        if pair.identical:
            update = pair.update
            rank = update.b.shape[1] if isinstance(update, LowRank) else min(pair.reference.shape)
            return {"sigma": np.zeros(min(rank, *pair.reference.shape))}
        update = pair.delta()
        del pair  # W and W0 need not stay beside the factorization
        return {"sigma": singular_values(update).sigma.double().cpu().numpy()}
