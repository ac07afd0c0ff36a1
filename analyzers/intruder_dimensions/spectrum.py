"""The singular values of what training changed: all of them, or the r of an adapter, from its factors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from analyzers import costs
from analyzers.contract import Context, Cost, LowRank, MatrixInfo, Result, Scope, Statistic, Unit
from analyzers.intruder_dimensions.pair import load_pair, refusal
from analyzers.linalg.spectra import singular_values
from analyzers.linalg.spectrum_work import RANKS, spectrum_memory, spectrum_work


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

    def cost(self, infos: Sequence[MatrixInfo]) -> Cost:
        """As the spectrum of W, or of an adapter's factors; both are read and subtracted."""
        work = [one for info in infos for one in spectrum_work(info)]
        work += [costs.scan(4 * i.shape[0] * i.shape[1]) for i in infos if i.role != "delta"]
        memory = max((spectrum_memory(info) for info in infos), default=0)
        return Cost.of([*work, costs.python(5e-4 * len(infos))], memory, result_bytes=sum(_bytes(i) for i in infos))

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


def _bytes(info: MatrixInfo) -> int:
    return 8 * min(*info.shape, RANKS.get(info.role, 2**31)) + 64
