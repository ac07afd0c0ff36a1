"""Scores of tuned matrices against their base: planted intruders, symmetries, and matrices that have no answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzers.contract import Context, LowRank, Sum, Unit
from analyzers.errors import Unmeasurable
from analyzers.intruder_dimensions.intruders import Intruders
from tests.analyzers.intruder_dimensions.memory import measure, observe

SHAPES = st.tuples(st.integers(2, 24), st.integers(2, 24))


def random(m: int, n: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(m, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def plain(tuned: torch.Tensor, base: torch.Tensor, k: int) -> np.ndarray:
    """The definition by two full float64 SVDs: (2, k), left and right."""
    u, _, vh = np.linalg.svd(tuned.double().numpy(), full_matrices=False)
    u0, _, vh0 = np.linalg.svd(base.double().numpy(), full_matrices=False)
    return np.stack([np.abs(u0.T @ u[:, :k]).max(axis=0), np.abs(vh0 @ vh[:k].T).max(axis=0)])


@given(SHAPES, st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_scores_are_those_of_two_plain_svds_within_their_bound(shape: tuple[int, int], seed: int) -> None:
    base = random(*shape, seed)
    tuned = base + 0.5 * random(*shape, seed + 1)
    k = min(5, *shape)
    result = measure(Intruders(5), observe(tuned, base))
    difference = np.abs(result["similarity"][:, :k] - plain(tuned, base, k))
    assert (difference <= result["error"][:, :k] + 1e-12).all()
    assert np.isnan(result["similarity"][:, k:]).all()


@given(SHAPES, st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_transposing_both_swaps_left_and_right(shape: tuple[int, int], seed: int) -> None:
    base, tuned = random(*shape, seed), random(*shape, seed + 7)
    one = measure(Intruders(3), observe(tuned, base))
    other = measure(Intruders(3), observe(tuned.T.contiguous(), base.T.contiguous()))
    for field in ("similarity", "window", "angles"):
        np.testing.assert_allclose(one[field][::-1], other[field], atol=5e-7)
    np.testing.assert_array_equal(one["index"][::-1], other["index"])


@pytest.mark.parametrize("factor", [1e-6, 3.0, 1e8])
def test_scaling_both_matrices_leaves_every_score(factor: float) -> None:
    base, tuned = random(20, 15, 1), random(20, 15, 2)
    one, scaled = (measure(Intruders(6), observe(c * tuned, c * base)) for c in (1.0, factor))
    for field in ("similarity", "window", "storage"):
        np.testing.assert_allclose(one[field], scaled[field], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(scaled["sigma"], factor * one["sigma"], rtol=1e-12)


def test_a_planted_intruder_is_found_with_its_rank_and_its_sigma() -> None:
    base = torch.diag(torch.arange(40.0, 0.0, -1, dtype=torch.float64))
    left, right = torch.ones(40, dtype=torch.float64) / 40**0.5, random(1, 40, 3)[0]
    tuned = base + 500 * torch.outer(left, right / right.norm())
    result = measure(Intruders(10), observe(tuned, base))
    assert result["similarity"][0, 0] < 0.25 < 0.5 < result["similarity"][0, 1:].min()
    assert result["sigma"][0] == pytest.approx(500, rel=0.01)


def test_an_adapters_factors_and_its_merged_weight_score_alike() -> None:
    base = random(30, 20, 4, torch.float32)
    delta = LowRank(random(30, 2, 5, torch.float32), random(2, 20, 6, torch.float32), 0.7)
    merged = base.double() + delta.dense()
    as_sum, as_delta, as_dense = (
        measure(Intruders(5), observe(tuned, base, role=role))
        for tuned, role in ((Sum(base, delta), "weight"), (delta, "delta"), (merged, "weight"))
    )
    for field in ("similarity", "sigma", "index"):
        np.testing.assert_allclose(as_sum[field], as_dense[field], atol=1e-12)
        np.testing.assert_array_equal(as_sum[field], as_delta[field])


@pytest.mark.parametrize("kind", ["equal", "zero update", "zero factors"])
def test_an_unchanged_matrix_scores_one_even_inside_clusters(kind: str) -> None:
    base = torch.eye(12, dtype=torch.float32)  # one cluster: two factorizations need not agree on any vector
    zero = LowRank(torch.zeros(12, 2), torch.ones(2, 12), 1.0)
    tuned = {"equal": base.clone(), "zero update": Sum(base, zero), "zero factors": zero}[kind]
    result = measure(Intruders(4), observe(tuned, base, role="delta" if kind == "zero factors" else "weight"))
    np.testing.assert_array_equal(result["similarity"], 1.0)
    np.testing.assert_array_equal(result["error"] + result["storage"], 0.0)
    np.testing.assert_array_equal(result["index"], [[0, 1, 2, 3]] * 2)
    assert np.nanmax(result["angles"]) == 0.0


def test_a_cluster_in_the_base_leaves_scores_undetermined_not_decided() -> None:
    tuned = torch.eye(12, dtype=torch.float64) + 1e-3 * random(12, 12, 8)
    result = measure(Intruders(3), observe(tuned, torch.eye(12, dtype=torch.float64)))
    # of 12 equal σ⁰ the basis may be turned at will: the greatest cosine is 1 in one basis and 1/√12 in another
    assert (result["similarity"] + result["error"] >= 1 - 1e-9).all()
    assert (result["similarity"] - result["error"] <= 12**-0.5 + 1e-9).all()
    np.testing.assert_allclose(result["window"], 1.0)  # and the windowed score says what is the case
    assert (result["window_size"] == 12).all()


def test_a_base_in_bfloat16_makes_a_score_uncertain_and_one_in_float32_does_not() -> None:
    base, update = random(60, 60, 9, torch.float32), 0.3 * random(60, 60, 10, torch.float32)
    fine = measure(Intruders(10), observe(base + update, base))
    coarse = measure(Intruders(10), observe((base + update).bfloat16(), base.bfloat16()))
    moved = np.abs(fine["similarity"] - coarse["similarity"])
    assert fine["storage"].max() < 1e-4 < moved.max()
    assert (moved <= coarse["storage"]).all()
    upcast = measure(Intruders(10), observe((base + update).bfloat16().float(), base.bfloat16().float()))
    np.testing.assert_allclose(upcast["storage"], coarse["storage"])  # the file's dtype does not hide it


@pytest.mark.parametrize("shape", [(1, 7), (7, 1), (1, 1)])
def test_a_vector_has_one_dimension_and_cannot_turn_on_its_short_side(shape: tuple[int, int]) -> None:
    base, tuned = random(*shape, 11), random(*shape, 12)
    result = measure(Intruders(3), observe(tuned, base))
    short = 0 if shape[0] == 1 else 1
    assert result["similarity"][short, 0] == pytest.approx(1.0)
    cosine = abs(float((base * tuned).sum() / base.norm() / tuned.norm()))
    assert result["similarity"][1 - short, 0] == pytest.approx(cosine, abs=1e-6)
    assert np.isnan(result["similarity"][:, 1:]).all() and (result["index"][:, 1:] == -1).all()


def test_a_tuned_matrix_of_low_rank_has_no_score_beyond_its_rank() -> None:
    tuned = random(15, 2, 13) @ random(2, 15, 14)
    result = measure(Intruders(5), observe(tuned, random(15, 15, 15)))
    assert np.isfinite(result["similarity"][:, :2]).all() and np.isnan(result["similarity"][:, 2:]).all()


@pytest.mark.parametrize(
    ("tuned", "base", "words"),
    [
        (torch.full((3, 3), torch.nan), torch.eye(3), "run@1, layers.0.q: 9 of 9 entries are NaN"),
        (torch.eye(3), torch.tensor([[1.0, torch.inf]] * 3), "the base of run@1, layers.0.q: 3 of 6"),
        (torch.eye(3), torch.zeros(3, 3), "the base of run@1, layers.0.q is all zeros"),
        (torch.zeros(3, 3), torch.eye(3), "run@1, layers.0.q: the tuned matrix is all zeros"),
        (torch.eye(3), torch.ones(3, 4), r"run@1, layers.0.q: shape \(3, 3\) is not the base's \(3, 4\)"),
        (torch.zeros(0, 4), torch.zeros(0, 4), r"has no entries \(shape \(0, 4\)\)"),
        (
            Sum(torch.eye(3), LowRank(torch.full((3, 1), torch.nan), torch.ones(1, 3))),
            torch.eye(3),
            "the adapter's factor B",
        ),
        (LowRank(torch.ones(3, 1), torch.ones(1, 3), float("nan")), torch.eye(3), "the adapter's scale nan"),
        (LowRank(torch.ones(3, 1), torch.ones(1, 3), float("inf")), torch.eye(3), "the adapter's scale inf"),
        (torch.eye(3).double() * 1e-160, torch.eye(3), "entries up to 1e-160"),
        (torch.eye(3), torch.eye(3).double() * 1e200, "the base of run@1, layers.0.q: entries up to 1e.200"),
    ],
)
def test_what_cannot_be_measured_says_which_matrix_and_why(tuned: torch.Tensor, base: torch.Tensor, words: str) -> None:
    role = "delta" if isinstance(tuned, LowRank) else "weight"
    with pytest.raises(Unmeasurable, match=words):
        measure(Intruders(2), observe(tuned, base, name="layers.0.q", role=role))


@pytest.mark.parametrize("scale", [1e-58, 1e-12, 1e12, 1e58])
@pytest.mark.parametrize("side", [20, 130])
def test_units_from_one_end_of_the_range_to_the_other_leave_every_score(scale: float, side: int) -> None:
    base, delta = random(side, side, 1), LowRank(random(side, 2, 2), random(2, side, 3), 0.4)
    one = measure(Intruders(4), observe(delta, base, role="delta"))
    scaled = measure(Intruders(4), observe(LowRank(delta.b, delta.a, 0.4 * scale), scale * base, role="delta"))
    assert one["method"] == scaled["method"]
    np.testing.assert_allclose(scaled["similarity"], one["similarity"], atol=1e-6)
    np.testing.assert_allclose(scaled["error"], one["error"], rtol=0.5, atol=1e-7)


def test_an_adapter_far_below_or_above_its_base_is_measured() -> None:
    base = random(130, 130, 1)
    for scale, exact in ((1e-200, base), (1e-14, base), (1e30, None)):
        delta = LowRank(random(130, 2, 2), random(2, 130, 3), scale)
        result = measure(Intruders(2), observe(delta, base, role="delta"))
        expected = plain(base if exact is not None else delta.dense(), base, 2)
        np.testing.assert_allclose(result["similarity"], expected, atol=1e-6)


def test_the_base_is_factorized_once_for_all_that_is_compared_with_it() -> None:
    cache: dict = {}
    base = random(10, 10, 16)
    first = observe(base + 1, base)
    again = type(first)("other", 2, first.info, observe(base + 2, base).matrix, first.reference)
    measure(Intruders(2), first, cache=cache)
    factorized = {entry for entry in cache if entry[0] == "svd"}
    measure(Intruders(2), again, cache=cache)
    assert len(factorized) == 1 and {entry for entry in cache if entry[0] == "svd"} == factorized
    assert sum(name == "svd" for name, _ in cache) == 1


def test_circuits_and_other_shapes_are_refused_before_anything_is_read() -> None:
    square, wide = observe(torch.eye(3), torch.eye(3)), observe(torch.ones(3, 4), torch.ones(3, 4))
    circuit = observe(torch.eye(3), torch.eye(3), role="circuit_qk")
    assert Intruders().refuses(square.info, square.info) is None
    assert "(3, 3) differs from its base's (3, 4)" in str(Intruders().refuses(square.info, wide.info))
    assert "circuit" in str(Intruders().refuses(circuit.info, circuit.info))


def test_a_batch_has_the_bits_of_its_units_and_each_unit_its_own_failure() -> None:
    pairs = []
    for seed in range(8):
        shape = ((30, 20), (20, 30))[seed % 2]
        base = random(*shape, seed, torch.float32)
        pairs.append((base + 0.1 * random(*shape, seed + 50, torch.float32), base))
    pairs[2] = (pairs[2][1].clone(), pairs[2][1])
    pairs[4] = (torch.zeros(30, 20), pairs[4][1])
    pairs[5] = (torch.full((20, 30), torch.nan), pairs[5][1])
    units = [Unit((observe(tuned, base),)) for tuned, base in pairs]
    outcomes = Intruders(5).compute_batch(units, [Context()] * len(units))
    assert [position for position, one in enumerate(outcomes) if isinstance(one, Unmeasurable)] == [4, 5]
    for unit, outcome in zip(units, outcomes, strict=True):
        if not isinstance(outcome, Exception):
            alone = Intruders(5).compute(unit, Context())
            assert all(np.array_equal(outcome[field], alone[field], equal_nan=True) for field in alone)
