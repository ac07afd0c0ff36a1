"""Random maps into the parameters: exact adjoints, unit columns, the same numbers everywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import hadamard as scipy_hadamard

from analyzers.errors import ParameterError
from analyzers.linalg.hadamard import HadamardPlan
from analyzers.linalg.hashing import Permutation, mix, signs
from analyzers.linalg.projections import KINDS, OneHot, Projection, Stacked, projection


def matrix(made: Projection) -> torch.Tensor:
    """P, (D, d), float64, column by column."""
    d = made.shape[1]
    return torch.stack([made.up(row) for row in torch.eye(d)], dim=1).double()


shapes = st.integers(2, 300).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, min(n, 40))))


@settings(max_examples=40, deadline=None)
@given(shapes, st.sampled_from(KINDS), st.integers(0, 2**40))
def test_the_adjoint_is_the_transpose(shape: tuple[int, int], kind: str, seed: int) -> None:
    n, d = shape
    made = projection(kind, n, d, seed)
    draw = torch.Generator().manual_seed(seed % 1000)
    z, g = torch.randn(d, generator=draw), torch.randn(n, generator=draw)
    forward = float(made.up(z).double() @ g.double())
    backward = float(z.double() @ made.adjoint(g).double())
    # float32 sums of at most 300 terms (fastfood: two transforms of 9 levels): 1e-5 of the product of the norms
    assert forward == pytest.approx(backward, abs=1e-5 * float(z.norm() * g.norm()) + 1e-7)


@settings(max_examples=25, deadline=None)
@given(shapes, st.integers(0, 2**40))
def test_the_one_hot_map_is_an_isometry_whatever_the_shape(shape: tuple[int, int], seed: int) -> None:
    p = matrix(projection("one_hot", *shape, seed))
    # each entry is a rounded 1/√n: relative 6e-8, and n of them add up to 1
    torch.testing.assert_close(p.T @ p, torch.eye(shape[1], dtype=torch.float64), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_columns_have_unit_norm(kind: str) -> None:
    norms = matrix(projection(kind, 777, 33, 5)).norm(dim=0)
    torch.testing.assert_close(norms, torch.ones(33, dtype=torch.float64), atol=1e-6, rtol=0)


def test_fastfood_columns_have_unit_norm_exactly_at_powers_of_two_and_nearly_below() -> None:
    exact = matrix(projection("fastfood", 1024, 40, 3)).norm(dim=0)
    torch.testing.assert_close(exact, torch.ones(40, dtype=torch.float64), atol=1e-5, rtol=0)
    # 700 of 1024 rows: a column's squared norm is a mean of 700 terms of unit mean, s.d. ≤ √2/√700 ≈ .05
    cut = matrix(projection("fastfood", 700, 40, 3)).norm(dim=0)
    assert float((cut - 1).abs().max()) < 0.15


@pytest.mark.parametrize("kind", KINDS)
def test_a_map_is_a_function_of_kind_shape_and_seed(kind: str) -> None:
    z = torch.linspace(-1, 1, 20)
    once, again = projection(kind, 500, 20, 7).up(z), projection(kind, 500, 20, 7).up(z)
    assert torch.equal(once, again)
    assert not torch.allclose(once, projection(kind, 500, 20, 8).up(z))


def test_random_maps_of_two_seeds_are_as_good_as_orthogonal() -> None:
    """Catches a seed that shifts or permutes a map instead of making another: then PᵀP' has large entries."""
    first, second = (matrix(projection("one_hot", 4000, 10, seed)) for seed in (0, 1))
    # entries of PᵀP' are sums of ±1/√(n n') over shared rows: s.d. 1/√4000 = .016, six of them
    assert float((first.T @ second).abs().max()) < 0.1


def test_without_its_table_the_one_hot_map_gives_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analyzers.linalg.projections.BLOCK_ENTRIES", 64)  # several blocks, the last one short
    with_table, hashed = (projection("one_hot", 1000, 30, 4, cached=c) for c in (True, False))
    assert isinstance(hashed, OneHot) and hashed.table is None
    z, g = torch.randn(30), torch.randn(1000)
    assert torch.equal(with_table.up(z), hashed.up(z))
    torch.testing.assert_close(with_table.adjoint(g), hashed.adjoint(g), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_maps_side_by_side_are_the_maps_one_by_one(kind: str) -> None:
    maps = [projection(kind, 400, 12, seed) for seed in (0, 1, 5)]
    z, g = torch.randn(3, 12), torch.randn(3, 400)
    stacked = Stacked(maps)
    assert torch.equal(stacked.up(z), torch.stack([m.up(row) for m, row in zip(maps, z, strict=True)]))
    wanted = torch.stack([m.adjoint(row) for m, row in zip(maps, g, strict=True)])
    torch.testing.assert_close(stacked.adjoint(g), wanted, atol=1e-5, rtol=1e-5)


@given(st.integers(1, 3000), st.integers(0, 2**62))
@settings(max_examples=40, deadline=None)
def test_the_hashed_permutation_is_one(n: int, seed: int) -> None:
    assert torch.equal(Permutation(n, seed)(torch.arange(n)).sort().values, torch.arange(n))


def test_hashed_bits_and_places_look_random() -> None:
    positions = torch.arange(100_000)
    bits = signs(positions, 3).double() * 2 - 1
    # of 1e5 fair coins: mean and lag-1 correlation within 5 s.d. (.016)
    assert abs(float(bits.mean())) < 0.016 and abs(float((bits[1:] * bits[:-1]).mean())) < 0.016
    places = Permutation(100_000, 11)(positions).double()
    correlation = np.corrcoef(places.numpy(), positions.numpy())[0, 1]
    steps = np.corrcoef(places[1:].numpy(), places[:-1].numpy())[0, 1]
    assert abs(correlation) < 0.016 and abs(steps) < 0.016
    assert int(mix(positions, 9).min()) >= 0


@pytest.mark.parametrize("n", [1, 2, 5, 64, 100, 4096, 5000])
def test_the_transform_is_the_hadamard_matrix(n: int) -> None:
    plan = HadamardPlan(n)
    x = torch.randn(plan.length, dtype=torch.float64)
    wanted = scipy_hadamard(plan.length) @ x.numpy()
    np.testing.assert_allclose(plan(x).numpy(), wanted, atol=1e-10 * plan.length)


def test_what_cannot_be_says_so() -> None:
    with pytest.raises(ParameterError, match="one_hot, fastfood"):
        projection("walsh", 10, 2, 0)
    with pytest.raises(ParameterError, match="1 to 10 dimensions, not 11"):
        projection("one_hot", 10, 11, 0)
