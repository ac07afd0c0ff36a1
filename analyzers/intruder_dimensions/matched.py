"""The second control: the runs compared, with Δ of each rescaled to one size, matrix by matrix."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from analyzers import costs
from analyzers.contract import (
    Content,
    Context,
    Cost,
    LowRank,
    MatrixInfo,
    Observation,
    Result,
    Scope,
    Statistic,
    Sum,
    Unit,
)
from analyzers.costs import Work
from analyzers.intruder_dimensions.pair import Pair, cached_base, frobenius_norm, identify, load_pair, refusal
from analyzers.intruder_dimensions.spectrum import UpdateSpectrum
from analyzers.linalg.blocks import blocks64, dense64
from analyzers.linalg.dense_top import Blend
from analyzers.linalg.dense_work import dense_work
from analyzers.linalg.lowrank_update import Leading, TopVectors, top_vectors
from analyzers.linalg.scores import side_scores


@dataclass(frozen=True)
class IntruderMatched(Statistic):
    """Scores of W0 + c Δ at each run's last step, c chosen so that ‖c Δ‖_F is the norm to match. R runs, in the order
    of the unit; the norms matched to are those of the R runs and, last, the geometric mean of those that are not 0.

    `similarity`, `error` (R, R+1, 2, k_max): left and right; NaN where a norm is 0, beyond p, and everywhere with
    one run, which leaves nothing to match. `norm` (R+1,): ‖Δ‖_F per run, and the common one. `method` (R, R+1) int64:
    how the vectors were found, a code of `analyzers.linalg.methods`, −1 where none were. `members` (R,) int64
    fingerprints of what was compared.
    """

    k_max: int = 10

    name: ClassVar[str] = "intruder_matched"
    version: ClassVar[int] = 3
    scope: ClassVar[Scope] = "runs"
    against: ClassVar[str | None] = "base"
    extent_field: ClassVar[str | None] = "k_max"

    def refuses(self, info: MatrixInfo, reference: MatrixInfo | None) -> str | None:
        """Circuits and shapes that differ are not compared."""
        return refusal(info, reference)

    def cost(self, infos: Sequence[MatrixInfo]) -> Cost:
        """R (R+1) times the leading vectors, R taken as 2; `infos` has one entry per observation, of which the last
        ones count."""
        largest = max((i.shape for i in infos), key=lambda s: s[0] * s[1], default=(0, 0))
        work = [*dense_work(*largest, self.k_max), costs.scan(4.0 * largest[0] * largest[1]), costs.python(5e-3)]
        six = [Work(one.kind, 6 * one.operations, one.side) for one in work]
        return Cost.of(six, memory_bytes=5 * 8 * largest[0] * largest[1])

    def compute(self, unit: Unit, context: Context) -> Result:
        """See the class."""
        last = last_steps(unit.observations)
        norms = np.array([self.norm(observation) for observation in last])
        targets = np.append(norms, geometric_mean(norms))
        shape = (len(last), len(last) + 1, 2, self.k_max)
        result = {"similarity": np.full(shape, np.nan), "error": np.full(shape, np.nan), "norm": targets}
        result["members"] = members(last)
        result["method"] = np.full(shape[:2], -1, dtype=np.int64)
        if len(last) < 2:
            return result
        for row, observation in enumerate(last):
            if norms[row] == 0:
                continue
            label, _, reference = identify(observation)
            pair = load_pair(observation)
            base = cached_base(label, reference, context, pair.reference)
            start: torch.Tensor | None = None
            for column in sorted(
                range(len(targets)), key=lambda c: c != row
            ):  # its own norm first: the others begin there
                if targets[column] == 0:
                    continue
                top = top_vectors(
                    rescaled(pair, float(targets[column] / norms[row])), pair.reference, base, self.k_max, start
                )
                start = leading_of(top) if start is None else start
                result["method"][row, column] = top.method
                for side in range(2):
                    scores = side_scores(base, top, side)
                    kept = scores.similarity.numel()
                    result["similarity"][row, column, side, :kept] = scores.similarity.cpu().numpy()
                    result["error"][row, column, side, :kept] = scores.error.cpu().numpy()
        return result

    def norm(self, observation: Observation) -> float:
        """‖Δ‖_F."""
        return _frobenius(observation)


@dataclass(frozen=True)
class IntruderMatchedSpectral(IntruderMatched):
    """The same with ‖Δ‖₂, the largest singular value of Δ, which is what lifts a vector into the top k.

    Equal ‖Δ‖_F favours low rank: rank 1 has all of its norm in one direction.
    """

    name: ClassVar[str] = "intruder_matched_spectral"
    version: ClassVar[int] = 1
    last_step_only: ClassVar[bool] = True

    def inputs(self) -> tuple[Statistic, ...]:
        """σ(Δ)."""
        return (UpdateSpectrum(),)

    def norm(self, observation: Observation) -> float:
        """‖Δ‖₂; 0 where σ(Δ) has no value."""
        return float(update_sigma(observation).max(initial=0.0))


def update_sigma(observation: Observation) -> np.ndarray:
    """σ(Δ) among the inputs of an observation, float64; empty where it has no value."""
    spectrum = observation.statistics.get(UpdateSpectrum.name)
    return np.zeros(0) if spectrum is None else np.asarray(spectrum["sigma"], dtype=np.float64)


def last_steps(observations: Sequence[Observation]) -> list[Observation]:
    """The observation of the greatest step of each run, runs in the order they come."""
    last: dict[str, Observation] = {}
    for observation in observations:
        if observation.matrix is not None and (
            observation.run not in last or observation.step >= last[observation.run].step
        ):
            last[observation.run] = observation
    return list(last.values())


def members(observations: Sequence[Observation]) -> np.ndarray:
    """(R,) int64: a fingerprint of each run's pair, by which a derivation tells one group of runs from another."""
    keys = [identify(observation)[1:] for observation in observations]
    digests = (hashlib.blake2b(f"{own.key}|{base.key}".encode(), digest_size=8).digest() for own, base in keys)
    return np.array([int.from_bytes(digest, "little", signed=True) for digest in digests], dtype=np.int64)


def geometric_mean(norms: np.ndarray) -> float:
    """Of the norms above 0; 0 where there is none."""
    positive = norms[norms > 0]
    return float(np.exp(np.log(positive).mean())) if positive.size else 0.0


def rescaled(pair: Pair, factor: float) -> Content | Blend:
    """W0 + factor · Δ, never added up: an adapter's stays a sum with factors, a dense one is read as a blend."""
    if isinstance(pair.update, LowRank):
        return Sum(pair.reference, LowRank(pair.update.b, pair.update.a, pair.update.scale * factor))
    if pair.update is not None:
        return Blend(((1.0, pair.reference), (factor, pair.update)))
    tuned = pair.tuned if isinstance(pair.tuned, torch.Tensor) else dense64(pair.tuned)
    return Blend(((1.0 - factor, pair.reference), (factor, tuned)))


def leading_of(top: Leading) -> torch.Tensor | None:
    """The found vectors of the smaller side, (p, k), where they are at hand."""
    if not isinstance(top, TopVectors):
        return None
    return top.right if top.left.shape[0] >= top.right.shape[0] else top.left


def _frobenius(observation: Observation) -> float:
    pair = load_pair(observation)
    if pair.identical:
        return 0.0
    if pair.update is not None or not isinstance(pair.tuned, torch.Tensor):
        return frobenius_norm(pair.delta())
    total = 0.0
    for own, base in zip(blocks64(pair.tuned), blocks64(pair.reference), strict=True):
        total += float(torch.linalg.vector_norm(own - base)) ** 2
    return math.sqrt(total)
