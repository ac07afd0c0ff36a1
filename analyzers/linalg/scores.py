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
_TINY = torch.finfo(torch.float64).tiny
_TOGETHER = 1e-3
"""Error of a base vector against its neighbour from which on the two are taken together."""
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

    error: √2 (‖r_j‖ + p ε64 σ1)/gap_j for the tuned vector, whose residual is measured, plus how far the maximum over
    the base's vectors can be from that over exact ones (`base_reach`), plus the rounding of cached vectors; at most 1.
    """
    cosine = top.cosines(base, side).clamp(-1.0, 1.0)  # (p, k')
    similarity, index = cosine.abs().max(dim=0)
    matched = base.sigma[index]
    least, most = base_reach(base, cosine)
    reach = torch.maximum(most - similarity, similarity - least).clamp(min=0)
    error = _of_tuned(top, base) + reach + base.storage_error
    inside = (base.sigma[:, None] - matched).abs() <= WINDOW * matched  # (p, k')
    window = torch.where(inside, cosine**2, 0.0).sum(dim=0).sqrt().clamp(max=1.0)
    storage = _storage_uncertainty(base, top, cosine, index, side, rounding, base_rounding)
    return Scores(similarity, index, matched, error.clamp(max=1.0), storage, window, inside.sum(dim=0))


def _of_tuned(top: Leading, base: BaseVectors) -> torch.Tensor:
    """(k',): ‖u_j − exact u_j‖ ≤ √2 ‖r_j‖/gap_j, with p ε σ1 for what the residual's own rounding hides."""
    floor = base.sigma.numel() * _EPS * top.sigma[:1]
    return 2.0**0.5 * (top.residual + floor) / top.gap.clamp(min=_TINY)


def base_reach(base: BaseVectors, cosine: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Between what max_i |⟨u_j, u⁰_i⟩| lies for the exact singular vectors of W0, (k',) each; cosine (p, k') with those
    at hand.

    A vector at hand is within √2 p ε σ⁰_1/gap_i of the exact one (by way of the Gram σ⁰_1/σ⁰_i times that). Where that
    says little, σ⁰ that stand so close are taken together: ‖U_Cᵀ u‖ is known as well as C is apart from the others, and
    the greatest of |C| cosines lies between ‖U_Cᵀ u‖/√|C| and ‖U_Cᵀ u‖, however the basis of the cluster is turned. Of
    σ⁰ ≤ N ε σ⁰_1 the vectors are any basis in the null space: all of u that is not in the determined part could be one.
    """
    sigma, p = base.sigma, base.sigma.numel()
    backward = p * _EPS * sigma[0].expand(p)
    if base.by_gram:
        backward = backward * sigma[0] / sigma.clamp(min=_TINY)
    single = 2.0**0.5 * backward / spectrum_gap(sigma, base.shape).clamp(min=_TINY)
    apart = 2.0**0.5 * backward[:-1] <= _TOGETHER * (sigma[:-1] - sigma[1:])
    determined = sigma > max(base.shape) * _EPS * sigma[0]
    magnitude = cosine.abs()
    if bool(apart.all()) and bool(determined[-1]):  # as of most matrices: every vector stands for itself
        least, most = ((magnitude + sign * single[:, None]).amax(dim=0) for sign in (-1.0, 1.0))
        return least.clamp(min=0.0), most.clamp(max=1.0)
    label = torch.cat([apart.new_zeros(1), apart]).cumsum(0)  # (p,): which cluster
    clusters = int(label[-1]) + 1
    arbitrary = torch.zeros(clusters, dtype=torch.bool, device=sigma.device)
    arbitrary[label[~determined]] = True

    def of_clusters(values: torch.Tensor, reduce: str) -> torch.Tensor:
        start = values.new_zeros((clusters, *values.shape[1:]))
        where = label.reshape(-1, *[1] * (values.ndim - 1)).expand_as(values)
        return start.scatter_reduce(0, where, values, reduce, include_self=False)

    size = of_clusters(torch.ones_like(sigma), "sum")
    highest, lowest = of_clusters(sigma, "amax"), of_clusters(sigma, "amin")
    gap = torch.full_like(highest, torch.inf) if base.shape[0] == base.shape[1] else lowest.clone()
    if clusters > 1:
        steps = lowest[:-1] - highest[1:]
        gap[:-1] = torch.minimum(gap[:-1], steps)
        gap[1:] = torch.minimum(gap[1:], steps)
    whole = 2.0**0.5 * (of_clusters(backward, "amax") / gap.clamp(min=_TINY))[:, None]
    length = of_clusters(cosine**2, "sum").sqrt()
    most = torch.minimum(of_clusters(magnitude + single[:, None], "amax"), length + whole)
    least = torch.maximum(of_clusters(magnitude - single[:, None], "amax"), length / size.sqrt()[:, None] - whole)
    if bool(arbitrary.any()):
        known = torch.where(arbitrary[:, None], 0.0, length**2).sum(dim=0)
        beyond = lowest[~arbitrary].amin() - highest[arbitrary].amax()
        turned = 2.0**0.5 * backward[~arbitrary[label]].amax() / beyond.clamp(min=_TINY)
        hidden = (1.0 - known).clamp(min=0).sqrt() + turned
        most = torch.where(arbitrary[:, None], hidden, most)
        least = torch.where(arbitrary[:, None], 0.0, least)
    return least.amax(dim=0).clamp(min=0.0), most.amax(dim=0).clamp(max=1.0)


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
