"""Scores of many low-rank updates at once: a few of the base's vectors as they are, all others condensed.

MᵀM = D² + U C Uᵀ with U = [V0ᵀY, D P], C = [[T², T], [T, 0]], T = diag(τ). What a singular vector y has along a base
vector is (λ − σ⁰²)⁻¹ (U C Uᵀy), a function of λ and of the 2r numbers Uᵀy. Rayleigh–Ritz therefore takes place among
the leading base vectors and a few directions made of U: first at one λ for all, in float32, as it only has to be near;
then at each vector's own. U is stored by rows, where products with it are fastest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from analyzers.linalg.davidson import GUARD, Pairs
from analyzers.linalg.inertia import Threshold, inertia_of, place_threshold

_EXACT = 6
"""Leading base vectors, beyond k, that are kept as they are."""
MOST = 64
"""Rank of an update up to which this is meant: the first problem has twice as many dimensions."""
_WIDEST = 4
"""The low parts of earlier steps are replaced by those of the vectors when they are so many times as many."""
_STEPS = 8
"""Ends the few draws that converge slowly: another way is faster for these."""
_RIDGE = {torch.float32: 1e-6, torch.float64: 1e-13}
"""Added to the unit diagonal of a Gram: directions that add nothing to the others get Ritz values of about 0."""


@dataclass(frozen=True)
class RowUpdates:
    """b updates, of one base or of several, float64: sigma (b, p) descending, strengths τ (b, r) > 0 descending, `own`
    V0ᵀY and `inside` P by rows, (b, r, p). Both σ1 and τ1 are near 1 or less: the first step is in float32."""

    sigma: torch.Tensor
    strengths: torch.Tensor
    own: torch.Tensor
    inside: torch.Tensor


@dataclass(frozen=True)
class _Rows:
    """Of updates σ⁰ and σ⁰² (b, 1, p), τ (b, r), U (b, 2r, p), P (b, r, p); and how many base vectors are kept."""

    sigma: torch.Tensor
    squares: torch.Tensor
    tau: torch.Tensor
    columns: torch.Tensor
    inside: torch.Tensor
    kept: int

    @staticmethod
    def of(updates: RowUpdates, kept: int) -> _Rows:
        sigma = updates.sigma[:, None, :]
        columns = torch.cat([updates.own, sigma * updates.inside], dim=1)
        return _Rows(sigma, sigma**2, updates.strengths, columns, updates.inside, kept)

    def part(self, of: torch.Tensor) -> _Rows:
        return _Rows(
            self.sigma[of], self.squares[of], self.tau[of], self.columns[of], self.inside[of], self.kept
        )  # fmt: skip


@dataclass(frozen=True)
class _Ritz:
    """`values` λ (b, c) descending, `seen` Uᵀy (b, 2r, c), `turn` (b, kept + d, c): y in the small problem's basis."""

    values: torch.Tensor
    seen: torch.Tensor
    turn: torch.Tensor


@dataclass(frozen=True)
class _State:
    """Pairs; the low parts (b, d, p − kept) that they are made of; `found`, those of the vectors, and the norms of
    their residuals (b, c); `anew`, (λ − D²)⁻¹ UCUᵀy. After the first problem only `anew` is there."""

    ritz: _Ritz
    low: torch.Tensor
    found: torch.Tensor
    residual: torch.Tensor
    anew: torch.Tensor

    def part(self, of: torch.Tensor) -> _State:
        ritz = _Ritz(self.ritz.values[of], self.ritz.seen[of], self.ritz.turn[of])
        return _State(ritz, self.low[of], self.found[of], self.residual[of], self.anew[of])


def condensed_scores(updates: RowUpdates, k: int, tolerance: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores (b, 2, k) [long side, short side] and which updates are proven (b,): their k pairs have residuals of
    `tolerance` σ1 at most, and the inertia count shows that none is missing. Others have scores without meaning.

    Where a score is taken, each vector has been through (λ − D²)⁻¹ once more than where its residual was measured.
    """
    rows = _Rows.of(updates, k + _EXACT)
    batch = len(rows.tau)
    scores, proven = rows.tau.new_full((batch, 2, k), torch.nan), rows.tau.new_zeros(batch, dtype=torch.bool)
    waiting = torch.arange(batch, device=scores.device)
    state = _first(rows, k + GUARD, k)
    for step in range(_STEPS):
        state = _refined(rows, state)
        values = state.ritz.values
        limit = tolerance * (values[:, :1] * values[:, :k].clamp(min=0)).sqrt()
        converged = (state.residual[:, :k] <= limit).all(dim=1)
        pairs = Pairs(values, state.found.mT, state.residual, converged)
        threshold = place_threshold(rows.squares[:, 0], pairs, k)
        ready = converged & threshold.sound
        done, rest = ready.nonzero().squeeze(1), (~ready).nonzero().squeeze(1)
        if done.numel():
            scores[waiting[done]] = _scores(rows, state, k)[done]
            of = slice(None) if not rest.numel() else done
            proven[waiting[done]] = _confirmed(rows, threshold, of)
        if not rest.numel() or step == _STEPS - 1:
            break
        if done.numel():
            waiting, rows, state = waiting[rest], rows.part(rest), state.part(rest)
    return scores, proven


def _first(rows: _Rows, count: int, k: int) -> _State:
    """Rough pairs: the low part of every vector in the span of (s − D²)⁻¹ U, s about λ_k."""
    kept = rows.kept
    tau, u, squares = (part.float() for part in (rows.tau, rows.columns, rows.squares))
    strongest, last = tau[:, :1, None] ** 2, squares[:, :, k - 1 : k]
    shift = last + 0.25 * torch.minimum(strongest, last)
    beyond = torch.maximum(1.05 * squares[:, :, kept : kept + 1], 1e-3 * strongest)  # the poles of the low part
    shift = torch.maximum(shift, beyond)
    low = u[:, :, kept:]
    g = low / (shift - squares[:, :, kept:])
    seen, gram = low @ g.mT, g @ g.mT
    weighted = shift * gram - seen  # D² G = s G − U
    ritz, _ = _small(u[:, :, :kept], seen, gram, weighted, (tau, squares[:, 0, :kept]), count)
    ritz = _Ritz(ritz.values.double(), ritz.seen.double(), ritz.turn)
    anew, _ = _made_anew(rows, ritz)
    none = anew[:, :0]
    return _State(ritz, none, none, ritz.values, anew)


def _refined(rows: _Rows, now: _State) -> _State:
    """Pairs among the low parts of each vector at its own λ, and among those of earlier steps. The residual of a pair
    has no part along the kept base vectors, which are all in the problem."""
    kept, count = rows.kept, now.anew.shape[1]
    earlier = now.found if now.low.shape[1] >= _WIDEST * count else now.low
    low = torch.cat([earlier, now.anew], dim=1) if earlier.shape[1] else now.anew
    gram, weighted = low @ low.mT, (rows.squares[:, :, kept:] * low) @ low.mT
    seen, problem = rows.columns[:, :, kept:] @ low.mT, (rows.tau, rows.squares[:, 0, :kept])
    ritz, turned = _small(rows.columns[:, :, :kept], seen, gram, weighted, problem, count)
    found = turned.mT @ low
    anew, distance = _made_anew(rows, ritz)
    residual = torch.linalg.vector_norm((anew - found).mul_(distance), dim=2)
    return _State(ritz, low, found, residual, anew)


def _made_anew(rows: _Rows, ritz: _Ritz) -> tuple[torch.Tensor, torch.Tensor]:
    """(λ − D²)⁻¹ UCUᵀy of each vector on the low part, (b, c, p − kept), and λ − σ⁰²."""
    image = _core(rows.tau, ritz.seen).mT @ rows.columns[:, :, rows.kept :]
    distance = ritz.values[..., None] - rows.squares[:, :, rows.kept :]
    return image.div_(distance), distance


def _small(
    leading: torch.Tensor,
    seen: torch.Tensor,
    gram: torch.Tensor,
    weighted: torch.Tensor,
    problem: tuple[torch.Tensor, torch.Tensor],
    count: int,
) -> tuple[_Ritz, torch.Tensor]:
    """Rayleigh–Ritz in the kept base vectors and the rows of Y (b, d, p − kept): `leading` U (b, 2r, kept) of the
    former, `seen` UᵀY (b, 2r, d), `gram` and `weighted` ⟨Y, Y⟩ and ⟨Y, D² Y⟩, `problem` τ and the kept σ⁰². With the
    pairs, the coefficients (b, d, count) of their low parts in Y."""
    tau, squares = problem
    kept = squares.shape[-1]
    size = gram.diagonal(dim1=1, dim2=2).clamp(min=torch.finfo(gram.dtype).tiny).rsqrt()
    both = size[:, :, None] * size[:, None, :]
    unit = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    triangle, _ = torch.linalg.cholesky_ex(gram * both + _RIDGE[gram.dtype] * unit)
    inverse = torch.linalg.solve_triangular(triangle, unit.expand_as(triangle), upper=False)
    inner = inverse @ (weighted * both) @ inverse.mT
    basis = inverse * size[:, None, :]
    whole = torch.cat([leading, seen @ basis.mT], dim=2)
    matrix = whole.mT @ _core(tau, whole)
    matrix[:, kept:, kept:] += (inner + inner.mT) / 2
    matrix.diagonal(dim1=1, dim2=2)[:, :kept] += squares
    # Where λ met a σ⁰² nothing is finite: such a draw is not proven.
    values, turn = torch.linalg.eigh(matrix.nan_to_num_(0.0, 0.0, 0.0))
    values, turn = values.flip(1)[:, :count], turn.flip(2)[:, :, :count]
    return _Ritz(values, whole @ turn, turn), basis.mT @ turn[:, kept:]


def _core(tau: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """C w for w (b, 2r, c)."""
    strength, r = tau[..., None], tau.shape[-1]
    own = strength * w[:, :r]
    return torch.cat([strength * (own + w[:, r:]), own], dim=1)


def _scores(rows: _Rows, state: _State, k: int) -> torch.Tensor:
    """(b, 2, k), with the low parts made anew."""
    r, kept, ritz = rows.tau.shape[-1], rows.kept, state.ritz
    high, low = ritz.turn[:, :kept, :k].mT, state.anew[:, :k]
    length = torch.hypot(torch.linalg.vector_norm(high, dim=2), torch.linalg.vector_norm(low, dim=2))
    long = (rows.tau[..., None] * ritz.seen[:, :r, :k] * length[:, None, :]).mT @ rows.inside
    long[:, :, :kept].addcmul_(rows.sigma[:, :, :kept], high)
    long[:, :, kept:].addcmul_(rows.sigma[:, :, kept:], low)
    short = torch.maximum(high.abs().amax(dim=2), low.abs().amax(dim=2))
    sides = torch.stack([long.abs().amax(dim=2) / ritz.values[:, :k].sqrt(), short], dim=1)
    return (sides / length[:, None, :]).clamp(max=1.0)


def _confirmed(rows: _Rows, threshold: Threshold, of: torch.Tensor | slice) -> torch.Tensor:
    """Whether the inertia count of some updates has as many values above the threshold as were found, one bool each."""
    inertia = inertia_of(rows.columns[of], rows.tau[of], rows.squares[of, 0], threshold.theta[of])
    return inertia.decided & (inertia.count == threshold.above[of])
