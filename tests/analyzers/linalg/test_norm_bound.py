"""The bound of what was deflated: above the truth, as seldom wrong as stated, and above what float32 does to it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzers.linalg import norm_bound
from analyzers.linalg.dense_top import Blend, certified_triplets
from analyzers.linalg.norm_bound import COLUMNS, deflated_bound, steps_wanted
from analyzers.linalg.subspaces import BaseVectors

N = 240


def random(m: int, n: int, seed: int) -> torch.Tensor:
    return torch.randn(m, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 10_000), st.sampled_from([0.5, 1.0, 1.05, 3.0]), st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=40, deadline=None)
def test_the_bound_of_what_is_deflated_is_never_below_it(seed: int, below: float, dtype: torch.dtype) -> None:
    w = torch.diag(torch.logspace(0, -2, 150, dtype=torch.float64))
    gram = (w.T @ w).to(dtype)
    q = torch.eye(150, 6, dtype=torch.float64)
    true = float(w[6, 6] ** 2)
    generator = torch.Generator().manual_seed(seed)
    bound, _ = deflated_bound(lambda x: gram @ x, q, below * true, 40, generator, 1.0, 150, dtype)
    assert true <= bound <= 1.06 * true * max(below, 1.0)


def test_a_start_that_happens_to_be_weak_in_a_vector_misses_it_only_as_often_as_stated() -> None:
    # Two eigenvalues, so that degree 1 knows all: the bound is wrong exactly when χ² is below its 5 % quantile, 40 ± 6
    # times of 800. A quantile put wrong by its square root, or by a column more or less, would show.
    gram = torch.diag(torch.cat([torch.ones(1), torch.full((99,), 1e-3)])).double()
    q = torch.zeros(100, 1, dtype=torch.float64)
    q[99] = 1.0

    def bound(seed: int) -> float:
        generator = torch.Generator().manual_seed(seed)
        return deflated_bound(lambda x: gram @ x, q, 1e-9, 1, generator, 0.0, 100, miss=0.05)[0]

    assert 20 < sum(bound(seed) < 1.0 - 1e-9 for seed in range(800)) < 60


def test_nothing_shown_is_infinite() -> None:
    q = torch.zeros(50, 0, dtype=torch.float64)
    one = torch.eye(50, dtype=torch.float64)
    bound, _ = deflated_bound(lambda x: one @ x, q, 0.5, 10, torch.Generator().manual_seed(1), 0.0, 50)
    assert bound >= 1.0
    bound, _ = deflated_bound(lambda x: x * math.nan, q, 0.5, 10, torch.Generator().manual_seed(1), 0.0, 50)
    assert math.isinf(bound)


def hostile(kind: str) -> torch.Tensor:
    """W (N, N): matrices on which rounding errors might gather."""
    if kind == "positive":  # all partial sums grow in one direction
        return random(N, N, 1).abs()
    if kind == "offset":  # a small signal on a large constant
        return 1.0 + 1e-3 * random(N, N, 2)
    if kind == "equal":  # the same numbers again and again
        return torch.full((N, N), 1.0 / 3.0).double() + torch.diag(torch.full((N,), 0.7).double())
    if kind == "steep":
        q, r = (torch.linalg.qr(random(N, N, seed)).Q for seed in (3, 4))
        return q * torch.logspace(0, -3, N, dtype=torch.float64) @ r.T
    if kind == "one row":
        w = random(N, N, 5)
        w[7] *= 300.0
        return w
    if kind == "heavy":
        return random(N, N, 6) ** 5
    return random(N, N, 7)


def _greatest(found: norm_bound._Recurrence, degree: int) -> float:
    inner = torch.tensor(found.beta[1:degree], dtype=torch.float64)
    diagonal = torch.tensor(found.alpha[:degree], dtype=torch.float64)
    return float(torch.linalg.eigvalsh(torch.diag(diagonal) + torch.diag(inner, 1) + torch.diag(inner, -1))[-1])


@pytest.mark.parametrize("kind", ["positive", "offset", "equal", "steep", "one row", "heavy", "gaussian"])
@pytest.mark.parametrize("removed", [0, 1, 12])
def test_what_float32_does_to_the_recurrence_stays_below_its_bound(
    kind: str, removed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = hostile(kind).float()
    exact = stored.double()
    values, vectors = torch.linalg.eigh(exact.T @ exact)
    values, vectors = values.flip(0), vectors.flip(1)
    q, x, value = vectors[:, :removed], vectors[:, removed], float(values[removed])
    seen: list[torch.Tensor] = []
    kept: list[norm_bound._Recurrence] = []

    def gram(block: torch.Tensor) -> torch.Tensor:
        seen.append(block.double().clone())
        return stored.T @ (stored @ block)

    plain = norm_bound._Recurrence.greatest
    monkeypatch.setattr(
        norm_bound._Recurrence, "greatest", lambda self, near: (kept.append(self), plain(self, near))[1]
    )
    monkeypatch.setattr(norm_bound._Recurrence, "hopeless", lambda self, value: False)
    deflated_bound(gram, q, 1e-30, 12, torch.Generator().manual_seed(3), float(values[0]), N, torch.float32)
    start = torch.randn((N, COLUMNS), generator=torch.Generator().manual_seed(3), dtype=torch.float32).double()
    onto_x = x @ start
    found = kept[0]
    q_i, before_q, s_i, before_s = 1.0 / found.beta[0], 0.0, 0.0, 0.0
    phi = found._of_one_step(value)
    worst = 0.0
    for i, block in enumerate(seen):
        if i and _greatest(found, i) >= value:
            break  # rounding of what stands far above has hidden x: from here on nothing is claimed of λ
        off = float(torch.linalg.vector_norm(x @ block - q_i * onto_x))
        allowed = phi * s_i + q_i * N * 2.0**-23
        assert off <= allowed, (kind, i)
        worst = max(worst, off / allowed)
        if i < len(found.alpha):
            beta = found.beta[i] if i else 0.0
            following = (
                (value - found.alpha[i]) * q_i - beta * before_q,
                (value - found.alpha[i]) * s_i - beta * before_s,
            )
            before_q, before_s = q_i, s_i
            q_i, s_i = following[0] / found.beta[i + 1], (following[1] + 1.0) / found.beta[i + 1]
    assert worst > 1e-6  # the comparison is one: float32 does leave a trace
    # and what one step leaves is not below u of what a step handles, or the bound would be of nothing
    assert phi >= found.unit * value


def test_where_float32_can_show_nothing_float64_does(monkeypatch: pytest.MonkeyPatch) -> None:
    # σ1 stands a thousand times above the eleventh: what rounding leaves of it would hide everything else
    sigma = torch.cat([torch.tensor([1.0, 0.5]), 1e-3 * torch.logspace(0, -1, N - 2)]).double()
    left, right = (torch.linalg.qr(random(N, N, seed)).Q for seed in (8, 9))
    w = ((left * sigma) @ right.T + 1e-7 * random(N, N, 10)).float()
    base = BaseVectors(left.float(), sigma, right.float())
    used: set[torch.dtype] = set()
    plain = Blend.gram
    monkeypatch.setattr(
        Blend, "gram", lambda self, x: (used.add(x.dtype) if x.shape[1] == COLUMNS else None, plain(self, x))[1]
    )
    found = certified_triplets(Blend(((1.0, w),)), base, 5)
    assert found is not None and used == {torch.float32, torch.float64}
    torch.testing.assert_close(found.sigma, torch.linalg.svdvals(w.double())[:5], rtol=1e-11, atol=0)


def test_entries_that_are_rounded_on_the_way_are_allowed_for() -> None:
    first, second = random(60, 50, 1).float(), random(60, 50, 2).bfloat16()
    blend = Blend(((0.3, first), (0.7, second)))
    exact = blend.dense()
    rounded = torch.cat([block.double().clone() for _, block in blend.blocks(torch.float32)])
    off = float(torch.linalg.matrix_norm(rounded - exact, 2))
    assert 0 < off <= blend.entry_rounding(torch.float32)
    assert Blend(((1.0, second),)).entry_rounding(torch.float32) == 0.0


def test_fewer_products_than_chebyshev_would_take() -> None:
    # of a spectrum that is dense up to its edge, to 20 % above it, from where `steps_wanted` would stop
    w = torch.diag(torch.linspace(1.0, 0.0, 400, dtype=torch.float64).sqrt())
    count = 0

    def gram(x: torch.Tensor) -> torch.Tensor:
        nonlocal count
        count += 1
        return w.T @ (w @ x)

    generator = torch.Generator().manual_seed(0)
    bound, _ = deflated_bound(gram, w.new_zeros((400, 0)), 1.2, 60, generator, 0.0, 400)
    assert 1.0 <= bound <= 1.2 and count < steps_wanted(400, 0.2)


def recurrence(unit: float = 1e-16, repeated: float = 0.0) -> norm_bound._Recurrence:
    """Of a spectrum in [0, .2], twelve products; `repeated`: inner products of neighbouring blocks."""
    products = [[repeated if j == i - 1 else float(i == j) for j in range(i + 1)] for i in range(13)]
    return norm_bound._Recurrence(
        0.6, unit, (100, 100, 2), 1.0, [0.1] * 12, [40.0] + [0.05] * 12, [30.0, 0.0], products
    )


def test_rounding_and_blocks_that_repeat_each_other_make_more_possible() -> None:
    exact = recurrence()
    bound = exact.greatest(0.3)
    assert 0.2 < bound < 0.25 and not exact.possible(1.001 * bound) and exact.possible(0.999 * bound)
    rounded = recurrence(unit=1e-7).greatest(0.3)
    assert bound < rounded < 0.3
    assert recurrence(unit=1e-3).hopeless(0.3) and recurrence(unit=1e-3).possible(0.3)
    assert recurrence(repeated=0.4).greatest(0.3) > 1.0005 * bound
