"""A tuned matrix and its base as the statistics of this analyzer need them: W, W0, Δ, and the base's cached SVD.

An adapter's matrix (`role` "delta") is Δ itself; W is then its base plus Δ, kept as factors as long as they suffice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from analyzers.checks import require_entries, require_finite
from analyzers.contract import Content, Context, LowRank, Matrix, MatrixInfo, Observation, Sum
from analyzers.errors import ContractError, Unmeasurable
from analyzers.linalg.blocks import BLOCK_BYTES, dense64
from analyzers.linalg.subspaces import BaseVectors, base_vectors

Update = torch.Tensor | LowRank
"""Δ = W − W0: float64 (m, n), or an adapter's factors."""
_RANGE = (1e-60, 1e60)
"""Of a matrix' largest entry: fourth powers of σ stay far from the ends of float64. Every float32 is inside."""


@dataclass(frozen=True)
class Pair:
    """W and W0 of one observation, checked: finite, not empty, of one shape. `tuned` and `reference` in storage dtype.

    `update` is Δ where it is known without a subtraction (an adapter's factors, or its dense Δ), else None.
    `identical`: W equals W0 bit for bit, or its Δ is zero.
    """

    label: str
    tuned: Content
    reference: torch.Tensor
    update: Update | None
    identical: bool

    def delta(self) -> Update:
        """Δ; where it is a difference, a float64 tensor (m, n) made anew: W and W0 in float64 differ exactly."""
        if self.update is not None:
            return self.update
        dense = dense64(self.tuned)
        return add_scaled_(dense.clone() if dense is self.tuned else dense, self.reference, -1.0)


def add_scaled_(dense: torch.Tensor, other: torch.Tensor, factor: float) -> torch.Tensor:
    """dense += factor · other in place, (m, n) float64 and any dtype, with temporaries of a few rows only."""
    step = max(1, BLOCK_BYTES // (8 * max(1, dense.shape[1])))
    for start in range(0, dense.shape[0], step):
        dense[start : start + step].add_(other[start : start + step].to(torch.float64), alpha=factor)
    return dense


def refusal(info: MatrixInfo, reference: MatrixInfo | None) -> str | None:
    """Why a matrix is not compared with its base, or None."""
    if info.role.startswith("circuit"):
        return "an attention circuit is a product of thin factors: it has no update of its own to find intruders in"
    if 0 in info.shape:
        return f"it has no entries (shape {info.shape})"
    if reference is not None and reference.shape != info.shape:
        return f"its shape {info.shape} differs from its base's {reference.shape}"
    return None


def load_pair(observation: Observation) -> Pair:
    """Reads both. Raises `Unmeasurable`, naming the matrix, where entries are not finite or none, or shapes differ."""
    label, matrix, reference = identify(observation)
    base = _dense_storage(reference)
    content = matrix.content()
    for part, where in ((content, label), (base, f"the base of {label}")):
        _require_usable(part, where)
    shape = tuple(base.shape)
    if matrix.info.shape != shape:
        raise Unmeasurable(f"{label}: shape {matrix.info.shape} is not the base's {shape}")
    update: Update | None = None
    if matrix.info.role == "delta":
        if isinstance(content, Sum):
            raise ContractError(f"{label}: role 'delta' holds a sum with a base; it must be Δ alone")
        tuned: Content
        if isinstance(content, LowRank):
            update, tuned = content, Sum(base, content)
        else:
            update = content.to(torch.float64)
            tuned = update + base.to(torch.float64)
        identical = _is_zero(content)
    elif isinstance(content, LowRank):
        tuned, identical = content.dense(), False
    else:
        tuned = content
        if isinstance(content, Sum) and (content.base is base or _bit_equal(content.base, base)):
            tuned = Sum(base, content.delta)
            update, identical = content.delta, _is_zero(content.delta)
        else:
            identical = matrix.key == reference.key or (isinstance(content, torch.Tensor) and _bit_equal(content, base))
    return Pair(label, tuned, base, update, identical)


def identify(observation: Observation) -> tuple[str, Matrix, Matrix]:
    """("run@step, matrix", its matrix, its base's). Raises `ContractError` where the unit is not a pair."""
    if observation.info is None or observation.matrix is None or observation.reference is None:
        raise ContractError(f"{observation.run}@{observation.step}: a pair needs a matrix and its base's")
    return f"{observation.run}@{observation.step}, {observation.info.name}", observation.matrix, observation.reference


def cached_base(label: str, reference: Matrix, context: Context, loaded: torch.Tensor | None = None) -> BaseVectors:
    """The base's SVD, made once per store: float64 inside, vectors kept in float32 (cosines good to 6e-8).

    Raises `Unmeasurable` where the base is all zeros: it has no directions to compare with.
    """

    def make() -> dict[str, torch.Tensor]:
        content = _dense_storage(reference) if loaded is None else loaded
        _require_usable(content, f"the base of {label}")
        return base_vectors(content).as_tensors()

    base = BaseVectors.from_tensors(context.cache("svd", reference.key, make), context.device)
    if not base.sigma.numel() or float(base.sigma[0]) == 0.0:
        raise Unmeasurable(f"the base of {label} is all zeros: it has no singular vectors to compare with")
    return base


def cached_base_sigma(label: str, reference: Matrix, context: Context) -> np.ndarray:
    """σ of the base's cached SVD, (p,) float64, in an entry of its own: reading the vectors, too, takes a thousand
    times as many bytes. Raises as `cached_base`."""

    def make() -> dict[str, torch.Tensor]:
        return {"sigma": cached_base(label, reference, context).sigma.cpu()}

    sigma: np.ndarray = context.cache("svd-sigma", reference.key, make)["sigma"].numpy()
    return sigma


def frobenius_norm(update: Update) -> float:
    """‖Δ‖_F; of factors by ‖R_b R_aᵀ‖, without expanding them."""
    if isinstance(update, LowRank):
        r_b = torch.linalg.qr(update.b.double(), mode="r").R
        r_a = torch.linalg.qr(update.a.double().T, mode="r").R
        return abs(update.scale) * float(torch.linalg.matrix_norm(r_b @ r_a.T))
    return float(torch.linalg.vector_norm(update))


def _dense_storage(matrix: Matrix) -> torch.Tensor:
    content = matrix.content()
    return content if isinstance(content, torch.Tensor) else dense64(content)


def _require_usable(content: Content, where: str) -> None:
    if isinstance(content, Sum):
        _require_usable(content.base, where)
        _require_usable(content.delta, where)
    elif isinstance(content, LowRank):
        require_finite(content.b, f"{where}: the adapter's factor B")
        require_finite(content.a, f"{where}: the adapter's factor A")
        of_b, of_a = _largest(content.b), _largest(content.a)
        if not abs(content.scale) * of_b * of_a <= _RANGE[1]:  # a NaN scale, too; a Δ that is too small is none
            raise Unmeasurable(
                f"{where}: the adapter's scale {content.scale} with factors up to {of_b:.3g} and {of_a:.3g} leaves the "
                "range in which float64 can square twice; check alpha and the saved factors"
            )
    else:
        require_entries(tuple(content.shape), where)
        require_finite(content, where)
        largest = _largest(content) if content.dtype == torch.float64 else 1.0
        if largest and not _RANGE[0] <= largest <= _RANGE[1]:
            raise Unmeasurable(
                f"{where}: entries up to {largest:.3g}, which float64 cannot square twice; scores do not depend on "
                "units, so scale it and its base by one factor"
            )


def _largest(tensor: torch.Tensor) -> float:
    """max |entry|, 0 of none; complex numbers are refused elsewhere."""
    if tensor.is_complex() or not tensor.numel():
        return 0.0
    return max(abs(float(end)) for end in torch.aminmax(tensor.double()))


def _is_zero(content: torch.Tensor | LowRank) -> bool:
    if isinstance(content, LowRank):
        parts_zero = content.scale == 0 or not bool(content.b.any()) or not bool(content.a.any())
        return parts_zero or frobenius_norm(content) == 0.0
    return not bool(content.any())


def _bit_equal(first: torch.Tensor, second: torch.Tensor) -> bool:
    if first.dtype != second.dtype:
        return torch.equal(first.double(), second.double())
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[first.dtype.itemsize]
    return torch.equal(first.contiguous().view(whole), second.contiguous().view(whole))
