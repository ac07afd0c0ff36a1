"""The leading singular vectors of one matrix, found once and shared through the cache by all that follow modes.

A statistic that has just found them hands them over with `keep_vectors`; one that compares steps asks for them with
`leading_vectors`, and finds them itself only where nobody has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from analyzers.contract import Context, LowRank, Matrix
from analyzers.errors import Unmeasurable
from analyzers.linalg.blocks import dense64, require_finite
from analyzers.linalg.lowrank_update import leading_triplets
from analyzers.linalg.spectra import svd

_NAME = "leading_vectors"


@dataclass(frozen=True)
class LeadingVectors:
    """left: (m, k'), right: (n, k'), float32, sigma: (k',) float64 descending, k' ≤ k; without those of σ = 0.

    A pair (u_j, v_j) is determined up to one common sign. Rounding to float32 moves an overlap by at most 1.2e-7.
    """

    left: torch.Tensor
    right: torch.Tensor
    sigma: torch.Tensor

    @staticmethod
    def of(left: torch.Tensor, sigma: torch.Tensor, right: torch.Tensor, k: int) -> LeadingVectors:
        """The first k of some triplets, without those whose σ ≤ N ε64 σ1: they are an arbitrary basis."""
        tiny = max(left.shape[0], right.shape[0]) * torch.finfo(torch.float64).eps * sigma[:1].double()
        kept = int((sigma[:k] > tiny).sum()) if sigma.numel() else 0
        u, v = (side[:, :kept].to(torch.float32).contiguous() for side in (left, right))
        return LeadingVectors(u, v, sigma[:kept].double().contiguous())

    def as_tensors(self) -> Mapping[str, torch.Tensor]:
        """For a cache."""
        return {"left": self.left, "right": self.right, "sigma": self.sigma}


def leading_vectors(matrix: Matrix, k: int, context: Context) -> LeadingVectors:
    """Of the k leading singular triplets. Those of thin factors are made anew, by QR; others are read from the cache or
    made (eigenvectors of the Gram) and kept. Raises `Unmeasurable` for entries that are not finite."""
    if matrix.info.role != "weight":
        content = matrix.content()
        if isinstance(content, LowRank):
            u, sigma, vh = svd(content)
            return LeadingVectors.of(u, sigma, vh.mT, k)
    tensors = context.cache(_NAME, _key(matrix.key, k), lambda: _made(matrix, k).as_tensors())
    return LeadingVectors(*(tensors[name].to(context.device) for name in ("left", "right", "sigma")))


def keep_vectors(context: Context, key: str, k: int, vectors: LeadingVectors) -> None:
    """Hands over what was found for the matrix of content key `key`, for the `leading_vectors` of others."""
    context.cache(_NAME, _key(key, k), vectors.as_tensors)


def _key(key: str, k: int) -> str:
    return f"{key}:{k}"


def _made(matrix: Matrix, k: int) -> LeadingVectors:
    content = matrix.content()
    try:
        require_finite(content)
    except Unmeasurable as error:
        raise Unmeasurable(f"{matrix.info.name}: {error}") from error
    top = leading_triplets(dense64(content), k)
    return LeadingVectors.of(top.left, top.sigma, top.right, k)
