"""Scores of intruder dimensions: the greatest cosine of a tuned singular vector with all vectors of the base.

With each score: which base vector, how far numerics and storage rounding can have moved it, and its windowed form.
"""

from __future__ import annotations

from collections.abc import Sequence
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


@dataclass(frozen=True)
class ScoredSide:
    """What one side's scores are made of. `rounding`, `base_rounding`: rms rounding error s_E of one entry of W and of
    W0 as they are stored."""

    base: BaseVectors
    top: Leading
    side: int
    rounding: float = 0.0
    base_rounding: float = 0.0

    @property
    def alike(self) -> tuple[object, ...]:
        """Sides of one kind are scored together."""
        base, top = self.base, self.top
        return base.shape, base.storage_error, base.by_gram, self.side, top.sigma.numel(), top.following is None


def side_scores(
    base: BaseVectors, top: Leading, side: int, rounding: float = 0.0, base_rounding: float = 0.0
) -> Scores:
    """Scores of the leading vectors of W on one side (0 left, 1 right) against all p vectors of W0.

    error: √2 (‖r_j‖ + p ε64 σ1)/gap_j for the tuned vector, whose residual is measured, plus how far the maximum over
    the base's vectors can be from that over exact ones (`base_reach`), plus the rounding of cached vectors; at most 1.
    """
    return scores_together([ScoredSide(base, top, side, rounding, base_rounding)])[0]


def scores_together(sides: Sequence[ScoredSide]) -> list[Scores]:
    """`side_scores` of each of some sides that are `alike`: the same numbers, in as many calls as one takes."""
    base = sides[0].base
    cosine = torch.stack([one.top.cosines(one.base, one.side).clamp(-1.0, 1.0) for one in sides])  # (b, p, k')
    known = _Known(
        sigma=torch.stack([one.base.sigma for one in sides]),
        top=torch.stack([one.top.sigma for one in sides]),
        nearest=cosine.new_tensor([one.top.following or 0.0 for one in sides]),
        noise=cosine.new_tensor([one.rounding**2 for one in sides])[:, None, None],
        base_noise=cosine.new_tensor([one.base_rounding**2 for one in sides])[:, None, None],
        hidden=base.shape[sides[0].side] - base.sigma.numel(),
    )
    similarity, index = cosine.abs().max(dim=1)
    matched = known.sigma.gather(1, index)
    least, most = _reach([one.base for one in sides], known.sigma, cosine)
    reach = torch.maximum(most - similarity, similarity - least).clamp(min=0)
    error = _of_tuned([one.top for one in sides], base.sigma.numel()) + reach + base.storage_error
    inside = (known.sigma[:, :, None] - matched[:, None]).abs() <= WINDOW * matched[:, None]  # (b, p, k')
    window = torch.where(inside, cosine**2, 0.0).sum(dim=1).sqrt().clamp(max=1.0)
    storage = _storage_uncertainty(known, cosine, index)
    fields = (similarity, index, matched, error.clamp(max=1.0), storage, window, inside.sum(dim=1))
    return [Scores(*values) for values in zip(*fields, strict=True)]


def _of_tuned(tops: Sequence[Leading], p: int) -> torch.Tensor:
    """(b, k'): ‖u_j − exact u_j‖ ≤ √2 ‖r_j‖/gap_j, with p ε σ1 for what the residual's own rounding hides."""
    residual, sigma, gap = (torch.stack([getattr(t, name) for t in tops]) for name in ("residual", "sigma", "gap"))
    return 2.0**0.5 * (residual + p * _EPS * sigma[:, :1]) / gap.clamp(min=_TINY)


def _reach(
    bases: Sequence[BaseVectors], sigma: torch.Tensor, cosine: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """`base_reach` of each, (b, k') twice. Of most matrices every vector stands for itself."""
    single, apart, determined = _single(bases[0], sigma)
    magnitude = cosine.abs()
    least, most = ((magnitude + sign * single[:, :, None]).amax(dim=1) for sign in (-1.0, 1.0))
    least, most = least.clamp(min=0.0), most.clamp(max=1.0)
    for at in (~(apart.all(dim=1) & determined[:, -1])).nonzero().flatten().tolist():
        least[at], most[at] = _clustered_reach(bases[at], cosine[at])
    return least, most


def _single(base: BaseVectors, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of bases like this one with singular values `sigma` (b, p): how far a vector at hand can be from the exact one
    (b, p), which neighbours are apart (b, p − 1), and which σ are more than rounding (b, p)."""
    backward = _backward(base, sigma)
    single = 2.0**0.5 * backward / spectrum_gap(sigma, base.shape).clamp(min=_TINY)
    apart = 2.0**0.5 * backward[:, :-1] <= _TOGETHER * (sigma[:, :-1] - sigma[:, 1:])
    return single, apart, sigma > max(base.shape) * _EPS * sigma[:, :1]


def _backward(base: BaseVectors, sigma: torch.Tensor) -> torch.Tensor:
    backward = sigma.shape[-1] * _EPS * sigma[..., :1].expand_as(sigma)
    return backward * sigma[..., :1] / sigma.clamp(min=_TINY) if base.by_gram else backward


def base_reach(base: BaseVectors, cosine: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Between what max_i |⟨u_j, u⁰_i⟩| lies for the exact singular vectors of W0, (k',) each; cosine (p, k') with those
    at hand.

    A vector at hand is within √2 p ε σ⁰_1/gap_i of the exact one (by way of the Gram σ⁰_1/σ⁰_i times that). Where that
    says little, σ⁰ that stand so close are taken together: ‖U_Cᵀ u‖ is known as well as C is apart from the others, and
    the greatest of |C| cosines lies between ‖U_Cᵀ u‖/√|C| and ‖U_Cᵀ u‖, however the basis of the cluster is turned. Of
    σ⁰ ≤ N ε σ⁰_1 the vectors are any basis in the null space: all of u that is not in the determined part could be one.
    """
    least, most = _reach([base], base.sigma[None], cosine[None])
    return least[0], most[0]


def _clustered_reach(base: BaseVectors, cosine: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`base_reach` where some σ⁰ stand so close that their vectors are taken together."""
    sigma, backward, magnitude = base.sigma, _backward(base, base.sigma), cosine.abs()
    single, apart, determined = (part[0] for part in _single(base, sigma[None]))
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


@dataclass(frozen=True)
class _Known:
    """Of b sides: `sigma` (b, p) of W0, `top` (b, k') of W, `nearest` (b,) the σ of W that follows (0 of none), `noise`
    and `base_noise` (b, 1, 1) the squared rms rounding of an entry of W and W0, `hidden` how many dimensions the base's
    vectors leave out."""

    sigma: torch.Tensor
    top: torch.Tensor
    nearest: torch.Tensor
    noise: torch.Tensor
    base_noise: torch.Tensor
    hidden: int


def _mixing(sigma: torch.Tensor, others: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """E α², α the amplitude that independent entry noise of mean square `noise` mixes vector `others` into vector
    `sigma`.

    First-order perturbation: α = (σ_a uᵀ_l E v_a + σ_l v_lᵀ Eᵀ u_a)/(σ_a² − σ_l²), so E α² = s² (σ_a² + σ_l²)/(σ_a² −
    σ_l²)². At most 1: inside a cluster the vectors mix completely.
    """
    own, theirs = sigma**2, others**2
    distance = (own - theirs) ** 2
    return (noise * (own + theirs) / distance.clamp(min=_TINY)).clamp(max=1.0)


def _storage_uncertainty(known: _Known, cosine: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """(b, k'): four standard deviations of the score under the rounding of the stored entries, plus the mean loss.

    Rounding is taken as independent noise of rms s_E per entry. It mixes each vector with the others by `_mixing`, and
    the score u⁰_i*ᵀ u_j moves by Σ_l α_l c_l with the cosines c_l towards the vectors mixed in: for the base these
    are all known; of W the leading ones are, and what remains of u⁰_i* is taken at the nearest σ it can have,
    σ_{k'+1}. To second order a vector that mixes also loses length: ½ Σ α² of it. Where an adapter's W shares the
    base's rounding, the two parts partly cancel; they are added all the same.
    """
    kept = cosine.shape[2]
    score = cosine.gather(1, index[:, None])[:, 0].abs()
    matched, top = known.sigma.gather(1, index)[:, None], known.top[:, None]  # (b, 1, k')
    complement = 0.0 * matched  # the base's vectors outside its p: σ = 0, in R^d only if d > p
    own = torch.zeros_like(cosine, dtype=torch.bool).scatter_(1, index[:, None], True)
    squares = cosine**2
    mixed = torch.where(own, 0.0, _mixing(matched, known.sigma[:, :, None], known.base_noise))  # (b, p, k')
    onto_complement = _mixing(matched, complement, known.base_noise)[:, 0]
    outside = (1.0 - squares.sum(dim=1)).clamp(min=0)
    variance = (mixed * squares).sum(dim=1) + outside * onto_complement
    loss = 0.5 * (mixed.sum(dim=1) + known.hidden * onto_complement)

    among = cosine.gather(1, index[:, :, None].expand(-1, -1, kept)).mT  # (b, k' tuned l, k' scored j): u⁰_i*(j) · u_l
    mixed = _mixing(top, known.top[:, :, None], known.noise)
    mixed.diagonal(dim1=1, dim2=2).zero_()
    squares = among**2
    rest = (1.0 - squares.sum(dim=1)).clamp(min=0)
    nearest = known.nearest[:, None, None]
    onto_rest = _mixing(top, nearest.expand_as(top), known.noise)[:, 0]
    variance = variance + (mixed * squares).sum(dim=1) + rest * onto_rest
    beyond = torch.minimum(known.sigma[:, kept:, None], nearest)  # the base's spectrum stands in for W's unknown tail
    onto_complement = _mixing(top, complement, known.noise)[:, 0]
    tail = _mixing(top, beyond, known.noise).sum(dim=1)
    loss = loss + 0.5 * (mixed.sum(dim=1) + tail + known.hidden * onto_complement)
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
