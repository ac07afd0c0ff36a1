"""Scores of intruder dimensions: the greatest cosine of a tuned singular vector with all vectors of the base.

With each score: which base vector, how far numerics and storage rounding can have moved it, and its windowed form.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.integrate
import scipy.special
import torch

from analyzers.linalg.gaps import spectrum_gap
from analyzers.linalg.lowrank_update import Leading
from analyzers.linalg.subspaces import BaseVectors

WINDOW = 0.02
_EPS = torch.finfo(torch.float64).eps
_DEVIATIONS = 4.0


@dataclass(frozen=True)
class Scores:
    """Of one side, each (k',). `similarity` max_i |cos(u_j, u⁰_i)|, `index` that i, `sigma_match` σ⁰_i.

    `error`: bound of the numerical error. `storage`: what the rounding of the stored entries can have moved it by.
    `window`: ‖U0_Cᵀ u_j‖ with C = {i : |σ⁰_i − σ⁰_i*| ≤ .02 σ⁰_i*}, `window_size` |C|.
    """

    similarity: torch.Tensor
    index: torch.Tensor
    sigma_match: torch.Tensor
    error: torch.Tensor
    storage: torch.Tensor
    window: torch.Tensor
    window_size: torch.Tensor


def side_scores(
    base: BaseVectors, top: Leading, side: int, rounding: float = 0.0, base_rounding: float = 0.0
) -> Scores:
    """Scores of the leading vectors of W on one side (0 left, 1 right) against all p vectors of W0.

    `rounding`, `base_rounding`: rms rounding error s_E of one entry of W and of W0 as they are stored.

    error = √2 ‖r_j‖/gap_j (the tuned vector, residual measured) + √2 p ε64 σ⁰_1 (σ⁰_1/σ⁰_i*)/gap⁰_i* (the base vector,
    the Gram's backward error) + the rounding of cached vectors; at most 1. Base vectors of σ⁰ ≤ N ε64 σ⁰_1 are an
    arbitrary basis of the null space: all that lies there could be one vector, so the error reaches from the best of
    the determined cosines to the norm of the whole undetermined part.
    """
    cosine = top.cosines(base, side).clamp(-1.0, 1.0)  # (p, k')
    magnitude = cosine.abs()
    similarity, index = magnitude.max(dim=0)
    matched = base.sigma[index]
    error = _numerical_error(base, top, index) + base.storage_error
    determined = base.sigma > max(base.shape) * _EPS * base.sigma[0]
    if not bool(determined.all()):
        squares = torch.where(determined[:, None], cosine**2, 0.0)
        least = squares.amax(dim=0).sqrt()
        most = torch.maximum(least, (1.0 - squares.sum(dim=0)).clamp(min=0).sqrt())
        into_null = ~determined[index]
        error = torch.where(into_null, 0.0, error) + torch.maximum(most - similarity, similarity - least).clamp(min=0)
    inside = (base.sigma[:, None] - matched).abs() <= WINDOW * matched  # (p, k')
    window = torch.where(inside, cosine**2, 0.0).sum(dim=0).sqrt().clamp(max=1.0)
    storage = _storage_uncertainty(base, top, cosine, index, side, rounding, base_rounding)
    return Scores(similarity, index, matched, error.clamp(max=1.0), storage, window, inside.sum(dim=0))


def _numerical_error(base: BaseVectors, top: Leading, index: torch.Tensor) -> torch.Tensor:
    """(k',): √2 residual / gap of the tuned vector + √2 p ε64 σ⁰_1 (σ⁰_1/σ⁰_i*) / gap of the matched base vector.

    The factor σ⁰_1/σ⁰_i* is what vectors by way of the Gram lose (`gram_vectors`); a bidiagonal SVD does not need it.
    """
    floor = torch.finfo(torch.float64).tiny
    base_gap = spectrum_gap(base.sigma, base.shape)[index]
    matched = base.sigma[index].clamp(min=floor)
    from_base = base.sigma.numel() * _EPS * base.sigma[0] * (base.sigma[0] / matched) / base_gap.clamp(min=floor)
    return np.sqrt(2.0) * (top.residual / top.gap.clamp(min=floor) + from_base)


def _mixing(sigma: torch.Tensor, others: torch.Tensor, rounding: float) -> torch.Tensor:
    """E α², α the amplitude that independent entry noise of rms `rounding` mixes vector `others` into vector `sigma`.

    First-order perturbation: α = (σ_a uᵀ_l E v_a + σ_l v_lᵀ Eᵀ u_a)/(σ_a² − σ_l²), so E α² = s² (σ_a² + σ_l²)/(σ_a² −
    σ_l²)². At most 1: inside a cluster the vectors mix completely.
    """
    distance = (sigma**2 - others**2) ** 2
    return (rounding**2 * (sigma**2 + others**2) / distance.clamp(min=torch.finfo(torch.float64).tiny)).clamp(max=1.0)


def _storage_uncertainty(
    base: BaseVectors,
    top: Leading,
    cosine: torch.Tensor,
    index: torch.Tensor,
    side: int,
    rounding: float,
    base_rounding: float,
) -> torch.Tensor:
    """(k',): four standard deviations of the score under the rounding of the stored entries, plus the mean loss.

    Rounding is taken as independent noise of rms s_E per entry. It mixes each vector with the others by `_mixing`, and
    the score u⁰_i*ᵀ u_j moves by Σ_l α_l c_l with the cosines c_l towards the vectors mixed in: for the base these
    are all known; of W the leading ones are, and what remains of u⁰_i* is taken at the nearest σ it can have,
    σ_{k'+1}. To second order a vector that mixes also loses length: ½ Σ α² of it. Where an adapter's W shares the
    base's rounding, the two parts partly cancel; they are added all the same.
    """
    kept = cosine.shape[1]
    score = cosine.gather(0, index[None]).squeeze(0).abs()
    matched = base.sigma[index]
    complement = 0.0 * matched  # the base's vectors outside its p: σ = 0, in R^d only if d > p
    own = torch.zeros_like(cosine, dtype=torch.bool).scatter_(0, index[None], True)
    mixed = torch.where(own, 0.0, _mixing(matched, base.sigma[:, None], base_rounding))  # (p, k')
    onto_complement = _mixing(matched, complement, base_rounding)
    outside = (1.0 - (cosine**2).sum(dim=0)).clamp(min=0)
    variance = (mixed * cosine**2).sum(dim=0) + outside * onto_complement
    hidden = base.shape[side] - base.sigma.numel()
    loss = 0.5 * (mixed.sum(dim=0) + hidden * onto_complement)

    among = cosine[index].mT  # (k' tuned l, k' scored j): u⁰_i*(j) · u_l
    mixed = _mixing(top.sigma, top.sigma[:, None], rounding).fill_diagonal_(0.0)
    rest = (1.0 - (among**2).sum(dim=0)).clamp(min=0)
    nearest = top.following if top.following is not None else 0.0
    onto_rest = _mixing(top.sigma, torch.full_like(top.sigma, nearest), rounding)
    variance = variance + (mixed * among**2).sum(dim=0) + rest * onto_rest
    beyond = base.sigma[kept:, None].clamp(max=nearest)  # the base's spectrum stands in for W's unknown tail
    onto_complement = _mixing(top.sigma, complement, rounding)
    tail = _mixing(top.sigma, beyond, rounding).sum(dim=0)
    loss = loss + 0.5 * (mixed.sum(dim=0) + tail + hidden * onto_complement)
    return (_DEVIATIONS * variance.sqrt() + score * loss).clamp(max=1.0)


def chance_similarity(dimension: int, count: int) -> float:
    """E max_{i ≤ count} |x_i| for x uniform on the unit sphere of R^dimension: the score of a random vector.

    Exact: a Gaussian vector's norm and direction are independent, so it is E max|g_i| / E‖g‖, with
    E max|g_i| = ∫ (1 − erf(t/√2)^count) dt and E‖g‖ = √2 Γ((d+1)/2)/Γ(d/2).
    """
    if dimension < 1 or not 1 <= count <= dimension:
        raise ValueError(f"chance_similarity wants 1 ≤ count ≤ dimension, not count={count}, dimension={dimension}")
    reach = np.sqrt(2.0 * np.log(2.0 * count)) + 12.0  # beyond it the integrand is below 1e-30
    grid = np.linspace(0.0, reach, 20001)
    greatest = scipy.integrate.simpson(
        -np.expm1(count * np.log(np.maximum(scipy.special.erf(grid / np.sqrt(2)), 1e-300))), x=grid
    )
    log_norm = scipy.special.gammaln((dimension + 1) / 2) - scipy.special.gammaln(dimension / 2)
    return float(greatest / (np.sqrt(2.0) * np.exp(log_norm)))
