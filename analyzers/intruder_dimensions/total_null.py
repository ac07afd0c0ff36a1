"""Draws for a verdict: of all matrices of a run's last step together, as many as the decision needs.

The null of each checkpoint has a few draws. Whether a run has more intruders than chance is decided by more of them, at
its last step only, in blocks that are added until the p of the whole sweep is clear (`max_t.next_total`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from analyzers.contract import (
    Context,
    Cost,
    IterativeStatistic,
    MatrixInfo,
    Observation,
    Result,
    Scope,
    Statistic,
    Trial,
    Unit,
)
from analyzers.errors import Unmeasurable
from analyzers.intruder_dimensions.counts import null_sums
from analyzers.intruder_dimensions.intruders import Intruders
from analyzers.intruder_dimensions.max_t import exceedances, next_total
from analyzers.intruder_dimensions.null import IntruderNull, null_of, null_scores
from analyzers.intruder_dimensions.pair import refusal
from analyzers.intruder_dimensions.spectrum import UpdateSpectrum


@dataclass(frozen=True)
class Sweep:
    """What the blocks of one run say together, M matrices.

    `observed`, `slack` (M, 2, k): scores, and how far error and storage can have moved them; `similarity`
    (draws, M, 2, k) the null's; `matrices` (M,) names; `step` the run's last.
    """

    observed: np.ndarray
    slack: np.ndarray
    similarity: np.ndarray
    matrices: np.ndarray
    step: int

    @property
    def draws(self) -> int:
        """How many there are."""
        return len(self.similarity)

    def exceeding(self, ks: Sequence[int], epsilons: Sequence[float], sure: bool = False) -> np.ndarray:
        """Draws with a T at least as large as the observed, (2,) more and fewer. `sure`: with every score that rounding
        leaves undetermined counted against the direction that is tested."""
        shift = self.slack if sure else np.zeros_like(self.slack)
        tested = [_summed(scores[None], ks, epsilons)[0] for scores in (self.observed + shift, self.observed - shift)]
        return exceedances(np.stack(tested), _summed(self.similarity, ks, epsilons))


@dataclass(frozen=True)
class TotalNull(IterativeStatistic):
    """One block of draws of all matrices of a run's last step. Fields: `similarity` (block, M, 2, k) float32: scores of
    W0 + X diag(σ(Δ)) Yᵀ with Haar X, Y; `matrices` (M,) names; `step` (). Block 0 holds the draws of `IntruderNull`,
    and `observed`, `slack` (M, 2, k): the scores of W and their uncertainty.

    Only matrices with a score and a null take part. Later blocks are seeded by (the trial's key, matrix, draw). `ks`,
    `epsilons` and `most` say when to stop, and are not in the key: another sweep uses the stored draws.
    """

    block: int = 20
    most: int = 400
    k: int = 10
    ks: tuple[int, ...] = (1, 2, 5, 10)
    epsilons: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

    name: ClassVar[str] = "intruder_total_null"
    version: ClassVar[int] = 2
    scope: ClassVar[Scope] = "run"
    over: ClassVar[Any] = "checkpoint"
    against: ClassVar[str | None] = "base"
    last_step_only: ClassVar[bool] = True

    def parameters(self) -> dict[str, Any]:
        """What a block's draws are a function of."""
        return {"block": self.block, "k": self.k}

    def inputs(self) -> tuple[Statistic, ...]:
        """The scores, σ(Δ), and the first draws."""
        return Intruders(k_max=self.k), UpdateSpectrum(), IntruderNull(draws=self.block, k=self.k)

    def refuses(self, info: MatrixInfo, reference: MatrixInfo | None) -> str | None:
        """As the scores."""
        return refusal(info, reference)

    def cost(self, infos: Sequence[MatrixInfo]) -> Cost:
        """A block of every matrix."""
        one = IntruderNull(draws=self.block, k=self.k).cost(infos)
        return replace(one, result_bytes=8 * self.block * self.k * len(infos))

    def propose(self, results: Sequence[tuple[Trial, Result | Unmeasurable]]) -> Sequence[Trial]:
        """The first block; then as many as `max_t.next_total` asks for."""
        if not results:
            return ({"block": 0},)
        sweep = sweep_of([(trial, value) for trial, value in results if not isinstance(value, Unmeasurable)])
        if sweep is None or sweep.draws < self.block * len(results):
            return ()
        total = next_total(sweep.exceeding(self.ks, self.epsilons), sweep.draws, self.most)
        return tuple({"block": number} for number in range(len(results), -(-total // self.block)))

    def further(self, results: Sequence[tuple[Trial, Result | Unmeasurable]], proposed: int) -> int:
        """Four blocks are the mean of runs without a verdict (docs/calibration.md)."""
        return max(0, min(4, self.most // self.block) - len(results) - proposed)

    def compute(self, unit: Unit, context: Context) -> Result:
        """See the class."""
        used = [observation for observation in unit.observations if _complete(observation, self.inputs())]
        if not used:
            raise Unmeasurable(f"{unit.observations[0].run}: no matrix of its last step has both a score and a null")
        number = int((unit.trial or {"block": 0})["block"])
        similarity = np.empty((self.block, len(used), 2, self.k), dtype=np.float32)
        if number:
            nulls = []
            for place, observation in enumerate(used):
                generators = [np.random.default_rng((context.seed, place, draw)) for draw in range(self.block)]
                nulls.append(null_of(observation, generators, context))
            for place, (drawn, _) in enumerate(null_scores(nulls, self.k, context.device)):
                similarity[:, place] = drawn
        else:
            for place, observation in enumerate(used):
                similarity[:, place] = observation.statistics[IntruderNull.name]["similarity"][: self.block]
        result: dict[str, np.ndarray] = {
            "similarity": similarity,
            "matrices": np.array([observation.info.name for observation in used if observation.info is not None]),
            "step": np.asarray(used[0].step, dtype=np.int64),
        }
        if number == 0:
            scores = [observation.statistics[Intruders.name] for observation in used]
            result["observed"] = np.stack([s["similarity"][:, : self.k] for s in scores])
            result["slack"] = np.stack([(s["error"] + s["storage"])[:, : self.k] for s in scores])
        return result


def sweep_of(trials: Sequence[tuple[Trial, Result]]) -> Sweep | None:
    """The blocks put together in their order; None where there is no first one."""
    blocks = {int(trial["block"]): value for trial, value in trials}
    if 0 not in blocks:
        return None
    first = blocks[0]
    similarity = np.concatenate([blocks[number]["similarity"] for number in sorted(blocks)])
    return Sweep(first["observed"], first["slack"], similarity, first["matrices"], int(first["step"]))


def _complete(observation: Observation, inputs: Sequence[Statistic]) -> bool:
    return observation.info is not None and all(one.name in observation.statistics for one in inputs)


def _summed(scores: np.ndarray, ks: Sequence[int], epsilons: Sequence[float]) -> np.ndarray:
    """Counts over matrices, (draws, cells), of scores (draws, M, 2, k)."""
    by_matrix = scores.swapaxes(0, 1)
    sums = null_sums(by_matrix, np.zeros(len(by_matrix), dtype=np.int64), 1, ks, epsilons)[0]
    return sums.reshape(len(sums), -1)
