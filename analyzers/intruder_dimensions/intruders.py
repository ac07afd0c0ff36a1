"""The statistic behind every count: scores of the leading singular vectors of W against all of its base's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from analyzers import costs
from analyzers.contract import Context, Cost, MatrixInfo, Result, Scope, Statistic, Unit
from analyzers.costs import Work
from analyzers.errors import Unmeasurable
from analyzers.intruder_dimensions.hand_over import vectors_of_base, vectors_of_top
from analyzers.intruder_dimensions.pair import cached_base, identify, load_pair, refusal
from analyzers.intruder_dimensions.rounding import base_rounding, pair_rounding
from analyzers.linalg.adapter_work import RANK, adapter_work
from analyzers.linalg.certified_pairs import worthwhile
from analyzers.linalg.dense_work import dense_work
from analyzers.linalg.lowrank_update import Leading, top_vectors
from analyzers.linalg.scores import ScoredSide, scores_together
from analyzers.linalg.subspaces import BaseVectors, nested_angles_together
from analyzers.tracking.vectors import keep_vectors

SIDED = ("similarity", "index", "sigma_match", "error", "storage", "window", "window_size")
_TOGETHER = 1 << 17
"""Entries of W that are scored together: a dozen arrays of cosines of this size live at once, a few megabytes."""


@dataclass(frozen=True)
class Intruders(Statistic):
    """Of W against its base W0, for the `k_max` leading singular vectors, side 0 left and 1 right:

    `similarity` (2, k) max over all p base vectors of |cos|; `sigma` (k,) σ of W; `sigma_base` (k,) σ of W0;
    `index` (2, k) the best base vector, 0-based, −1 where there is none; `sigma_match` its σ⁰; `error` and `storage`
    (2, k) how far numerics and storage rounding can have moved the score; `window`, `window_size` (2, k) the windowed
    score and |C|; `angles` (2, k, k) principal angles (radians) between the leading r-dimensional subspaces, row r−1;
    `method` () how the vectors were found, a code of `analyzers.linalg.methods` (where a certified one is tried, 0 and
    1 are its fallbacks; −1: W = W0, nothing was to be found). All float64 but counts and codes (int64).
    NaN beyond p and beyond the rank of W. W = W0 scores 1 by definition, with no uncertainty, also inside clusters,
    where vectors of two separate factorizations would not agree.
    Raises `Unmeasurable` for entries that are not finite and for a base or a W of zeros. Source: 2410.21228.
    """

    k_max: int = 10

    name: ClassVar[str] = "intruders"
    version: ClassVar[int] = 3
    scope: ClassVar[Scope] = "pair"
    against: ClassVar[str | None] = "base"
    extent_field: ClassVar[str | None] = "k_max"

    def refuses(self, info: MatrixInfo, reference: MatrixInfo | None) -> str | None:
        """Circuits and shapes that differ are not compared."""
        return refusal(info, reference)

    def cost(self, infos: Sequence[MatrixInfo]) -> Cost:
        """Of an adapter what `adapter_work` says; of any other what `dense_work` does. A scan of both
        matrices; the base's SVD once, as memory."""
        work: list[Work] = []
        for info in infos:
            rank = info.rank or RANK
            if info.role == "delta" and worthwhile(min(info.shape), rank, self.k_max):
                work += adapter_work(*info.shape, self.k_max, rank)
            else:
                work += dense_work(*info.shape, self.k_max)
            work += [costs.scan(2.0 * info.shape[0] * info.shape[1]), costs.python(5e-3)]
        largest = max((i.shape[0] * i.shape[1] for i in infos), default=0)
        return Cost.of(work, memory_bytes=5 * 8 * largest)

    def compute(self, unit: Unit, context: Context) -> Result:
        """See the class."""
        found = self._found(unit, context)
        return _measured([found], self.k_max)[0] if isinstance(found, _Found) else found

    def compute_batch(self, units: Sequence[Unit], contexts: Sequence[Context]) -> list[Result | Exception]:
        """The vectors of each alone; small matrices of one shape are scored together."""
        outcomes: list[Result | Exception | None] = [None] * len(units)
        waiting: dict[tuple[object, ...], list[tuple[int, _Found]]] = {}
        for position, (unit, context) in enumerate(zip(units, contexts, strict=True)):
            try:
                found = self._found(unit, context)
                if not isinstance(found, _Found):
                    outcomes[position] = found
                    continue
                like = waiting.setdefault(found.alike, [])
                like.append((position, found))
                if len(like) * math.prod(found.base.shape) >= _TOGETHER:
                    _measure(like, self.k_max, outcomes)
                    like.clear()
            except Exception as error:  # each unit answers for itself: the caller records it with its traceback
                outcomes[position] = error
        for like in waiting.values():
            _measure(like, self.k_max, outcomes)
        return [outcome for outcome in outcomes if outcome is not None]

    def _found(self, unit: Unit, context: Context) -> Result | _Found:
        """What is to be scored, or the result where W = W0."""
        label, matrix, reference = identify(unit.only)
        base = cached_base(label, reference, context)  # before W is read: a factorization needs room
        pair = load_pair(unit.only)
        if pair.identical:
            keep_vectors(context, matrix.key, self.k_max, vectors_of_base(base, self.k_max))
            return _unchanged(base, self.k_max)
        top = top_vectors(pair.tuned, pair.reference, base, self.k_max)
        keep_vectors(context, matrix.key, self.k_max, vectors_of_top(top, pair, base, self.k_max))
        if not float(top.sigma[0]) > 0:
            raise Unmeasurable(f"{label}: the tuned matrix is all zeros, its base is not: it has no singular vectors")
        of_tuned, of_base = pair_rounding(pair, base_rounding(pair, reference, context))
        tiny = max(base.shape) * torch.finfo(torch.float64).eps * float(top.sigma[0])
        return _Found(base, top, int((top.sigma > tiny).sum()), of_tuned.rms, of_base.rms)


@dataclass(frozen=True)
class _Found:
    """The leading vectors of W, `kept` of them determined, beside its base's, and the rms rounding of both."""

    base: BaseVectors
    top: Leading
    kept: int
    rounding: float
    base_rounding: float

    @property
    def alike(self) -> tuple[object, ...]:
        """Of equal ones everything that is measured has one shape."""
        return self.kept, type(self.top), *self.scored(0).alike

    def scored(self, side: int) -> ScoredSide:
        """One side, for `scores_together`."""
        return ScoredSide(self.base, self.top, side, self.rounding, self.base_rounding)


def _measure(found: Sequence[tuple[int, _Found]], k_max: int, outcomes: list[Result | Exception | None]) -> None:
    """Writes the results of what is alike to their positions."""
    if not found:
        return
    try:
        results: Sequence[Result | Exception] = _measured([one for _, one in found], k_max)
    except Exception as error:  # the units of a group whose call fails are tried again alone by the caller
        results = [error] * len(found)
    for (position, _), result in zip(found, results, strict=True):
        outcomes[position] = result


def _measured(found: Sequence[_Found], k_max: int) -> Sequence[Result]:
    """The results of what is alike."""
    kept = found[0].kept
    results = [_empty(one.base, k_max) for one in found]
    for result, one in zip(results, found, strict=True):
        result["method"] = np.asarray(one.top.method, dtype=np.int64)
        result["sigma"][: one.top.sigma.numel()] = one.top.sigma.cpu().numpy()
    for side in range(2):
        for result, scores in zip(results, scores_together([one.scored(side) for one in found]), strict=True):
            for field in SIDED:
                result[field][side, :kept] = getattr(scores, field)[:kept].cpu().numpy()
        spans = [one.top.subspaces(one.base, side, k_max) for one in found]
        angles = nested_angles_together([(before, after[:, :kept]) for before, after in spans], k_max)
        for result, of_one in zip(results, angles.numpy(), strict=True):
            result["angles"][side] = of_one
    return results


def _unchanged(base: BaseVectors, k_max: int) -> Result:
    result = _empty(base, k_max)
    tiny = max(base.shape) * torch.finfo(torch.float64).eps * float(base.sigma[0])
    kept = int((base.sigma[:k_max] > tiny).sum())
    sigma = base.sigma.cpu().numpy()
    result["sigma"][: sigma[:k_max].size] = sigma[:k_max]
    result["similarity"][:, :kept] = 1.0
    result["window"][:, :kept] = 1.0
    result["error"][:, :kept] = result["storage"][:, :kept] = 0.0
    result["index"][:, :kept] = np.arange(kept)
    result["sigma_match"][:, :kept] = sigma[:kept]
    result["window_size"][:, :kept] = (np.abs(sigma[:, None] - sigma[:kept]) <= 0.02 * sigma[:kept]).sum(axis=0)
    for r in range(1, kept + 1):
        result["angles"][:, r - 1, :r] = 0.0
    return result


def _empty(base: BaseVectors, k_max: int) -> dict[str, np.ndarray]:
    result: dict[str, np.ndarray] = {field: np.full((2, k_max), np.nan) for field in SIDED}
    result["index"] = np.full((2, k_max), -1, dtype=np.int64)
    result["window_size"] = np.zeros((2, k_max), dtype=np.int64)
    result["sigma"], result["sigma_base"] = np.full(k_max, np.nan), np.full(k_max, np.nan)
    sigma = base.sigma[:k_max].cpu().numpy()
    result["sigma_base"][: sigma.size] = sigma
    result["angles"] = np.full((2, k_max, k_max), np.nan)
    result["method"] = np.asarray(-1, dtype=np.int64)
    return result
