"""How the leading singular vectors of a matrix overlap with those of one and of two steps before.

The k × k overlaps are stored, not the vectors: what is derived from them (tracks, births) costs no factorization.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch

from analyzers import costs
from analyzers.contract import Cache, Context, Cost, MatrixInfo, Observation, Result, Scope, Statistic, Unit
from analyzers.costs import Work
from analyzers.errors import ContractError
from analyzers.tracking.vectors import LeadingVectors, leading_vectors

ONE, TWO = "previous", "previous:2"
"""Against what overlaps are taken. Two steps back, so that a mode that is missed at one step can be found again."""
_MEMO_BYTES = 64 << 20


@dataclass(frozen=True)
class VectorOverlap(Statistic, ABC):
    """`overlap` (2, k, k) float32: entry [side, j, i] is ⟨u_j, u'_i⟩ (side 0, left) and ⟨v_j, v'_i⟩ (side 1, right) of
    the triplets of W_t (j) and of the earlier step (i), with σ descending. NaN beyond p and beyond the rank.

    Signed: a triplet's u and v share one arbitrary sign, so [0, j, i] · [1, j, i] has no arbitrary sign, and
    `joint_overlap` neither. A larger k contains a smaller one.
    """

    k: int = 10

    scope: ClassVar[Scope] = "pair"
    extent_field: ClassVar[str | None] = "k"

    def cost(self, infos: Sequence[MatrixInfo]) -> Cost:
        """As if half of the vectors were in the cache: of the others the vectors of a Gram, thin factors' by QR."""
        work: list[Work] = []
        for info in infos:
            p = min(info.shape)
            if info.role == "weight":
                work += [Work("gemm", 0.5 * info.shape[0] * info.shape[1] * p, p), Work("eigh", p**3, p)]
            work.append(costs.python(4e-4))
        largest = max((i.shape[0] * i.shape[1] + min(i.shape) ** 2 for i in infos), default=0)
        return Cost.of(work, 3 * 8 * largest, result_bytes=8 * self.k**2 * len(infos))

    def compute(self, unit: Unit, context: Context) -> Result:
        """See the class."""
        one = unit.only
        if one.matrix is None or one.reference is None:
            raise ContractError(f"{_label(one)}: {self.name} needs a matrix and that of an earlier step")
        now = leading_vectors(one.matrix, self.k, context)
        same = one.matrix.key == one.reference.key
        before = now if same else leading_vectors(one.reference, self.k, context)
        return {"overlap": overlaps(now, before, self.k)}

    def compute_batch(self, units: Sequence[Unit], contexts: Sequence[Context]) -> list[Result | Exception]:
        """Neighbouring steps share vectors: what a batch has read or made is at hand until it is done."""
        memo: dict[tuple[str, str], Mapping[str, torch.Tensor]] = {}
        remembering = [replace(context, cache=_remember(context.cache, memo)) for context in contexts]
        return super().compute_batch(units, remembering)


def overlaps(now: LeadingVectors, before: LeadingVectors, k: int) -> np.ndarray:
    """(2, k, k) float32, see `VectorOverlap`."""
    result = np.full((2, k, k), np.nan, dtype=np.float32)
    for side, (first, second) in enumerate(((now.left, before.left), (now.right, before.right))):
        product = (first[:, :k].T @ second[:, :k]).clamp(-1.0, 1.0).cpu().numpy()
        result[side, : product.shape[0], : product.shape[1]] = product
    return result


def joint_overlap(overlap: np.ndarray) -> np.ndarray:
    """(..., 2, k, k) → (..., k, k): |⟨u, u'⟩ + ⟨v, v'⟩| / 2, in [0, 1].

    The cosine of the eigenvectors (u, v)/√2 of [[0, W], [Wᵀ, 0]]: one number for a mode, whose sides must agree.
    """
    joint: np.ndarray = np.abs(overlap[..., 0, :, :] + overlap[..., 1, :, :]) / 2
    return joint


def _remember(cache: Cache, memo: dict[tuple[str, str], Mapping[str, torch.Tensor]]) -> Cache:
    def remembering(name: str, key: str, make: Callable[[], Mapping[str, torch.Tensor]]) -> Mapping[str, torch.Tensor]:
        if (name, key) not in memo:
            found = cache(name, key, make)
            size = sum(tensor.nbytes for tensor in found.values())
            while memo and len(memo) * size > _MEMO_BYTES:  # a batch is of one shape, so its entries are of one size
                del memo[next(iter(memo))]
            memo[name, key] = found
        return memo[name, key]

    return remembering


def _label(observation: Observation) -> str:
    name: Any = observation.info.name if observation.info else None
    return f"{observation.run}@{observation.step}, {name}"
