"""Births planted at known steps are found within their interval; what scoring hands over is what it found."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzers.contract import Content, Context, LowRank, Matrix, RunInfo, Sum
from analyzers.intruder_dimensions import IntruderDimensions
from analyzers.intruder_dimensions.births import births
from analyzers.intruder_dimensions.hand_over import vectors_of_top
from analyzers.intruder_dimensions.intruders import Intruders
from analyzers.intruder_dimensions.pair import load_pair
from analyzers.linalg import lowrank_update
from analyzers.linalg.adapter_vectors import CoordinateVectors, adapter_vectors
from analyzers.linalg.subspaces import base_vectors
from analyzers.tracking.overlaps import joint_overlap, overlaps
from analyzers.tracking.vectors import leading_vectors
from tests.analyzers.intruder_dimensions.memory import MemoryView, measure, observe

M, N, STRONG = 60, 40, 12.0
STEEP = np.concatenate([np.linspace(10, 6, 12), np.linspace(0.5, 0.1, N - 12)])
"""σ of the base: a direction of strength 12 is among the first ten, whatever it is."""
FLAT = np.linspace(10, 6, N)
"""A newcomer rises through all of these and turns them."""


def base_frames() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    u, v = (np.linalg.qr(rng.standard_normal((side, N)))[0] for side in (M, N))
    return u, v


def base(sigma: np.ndarray = STEEP) -> np.ndarray:
    u, v = base_frames()
    return (u * sigma) @ v.T


def newcomers(count: int, seed: int, beyond: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal mixtures of the base's vectors from the number `beyond` on, of which none makes up half of any."""
    rng = np.random.default_rng(seed)
    mixed: list[np.ndarray] = []
    while len(mixed) < 2:
        mixture = np.linalg.qr(rng.standard_normal((N - beyond, count)))[0]
        if np.abs(mixture).max() < 0.55:
            mixed.append(mixture)
    u, v = base_frames()
    return u[:, beyond:] @ mixed[0], v[:, beyond:] @ mixed[1]


def view_of(
    strengths: np.ndarray, seed: int = 0, noise: float = 0.004, sigma: np.ndarray = STEEP, beyond: int = 12
) -> MemoryView:
    """One run at steps 0, 10, …: W0 + Σ strengths[t, j] u_j v_jᵀ + noise drawn anew at each step."""
    u, v = newcomers(strengths.shape[1], seed, beyond)
    rng = np.random.default_rng(seed)
    run: dict[int, dict[str, Content]] = {
        10 * t: {"W": torch.from_numpy(base(sigma) + (u * s) @ v.T + noise * rng.standard_normal((M, N)))}
        for t, s in enumerate(strengths)
    }
    return MemoryView({"r": run}, {"W": torch.from_numpy(base(sigma))})


def born(view: MemoryView, epsilons: Sequence[float] = (0.6,), ks: Sequence[int] = (10,)) -> xr.Dataset:
    chosen = IntruderDimensions.Parameters(
        null=False, matched=False, across_runs=False, ks=tuple(ks), epsilons=tuple(epsilons)
    )
    return IntruderDimensions(chosen).derive(view).dataset.isel(run=0, matrix=0)  # type: ignore[arg-type]  # a View


def intervals(dataset: xr.Dataset, **where: object) -> list[tuple[float, float]]:
    """(birth_after, birth_step] of all intruders of the last step, NaN as −1."""
    at = dataset.sel(where)
    pairs = zip(at.birth_after.values.ravel(), at.birth_step.values.ravel(), strict=True)
    return sorted((-1.0 if np.isnan(a) else float(a), float(b)) for a, b in pairs if np.isfinite(b))


@given(
    steps=st.lists(st.integers(0, 7), min_size=1, max_size=3), seed=st.integers(0, 200), side=st.sampled_from([0, 1])
)
@settings(max_examples=12, deadline=None)
def test_births_planted_under_noise_are_recovered_within_their_interval(steps: list[int], seed: int, side: int) -> None:
    t = np.arange(8)
    # Newcomers are 1.5 apart, leading base vectors .36: noise of norm .004 (√60 + √40) = .06 turns none by more than
    # .06/.36, so the base's score > .98; the base's trailing .5 turns a newcomer by .5/12, so it scores < .55 + .04
    strengths = np.stack([np.where(t >= at, STRONG + 1.5 * j, 0.0) for j, at in enumerate(steps)], axis=1)
    dataset = born(view_of(strengths, seed))
    expected = sorted((10.0 * (at - 1) if at else -1.0, 10.0 * at) for at in steps)
    assert intervals(dataset.isel(side=side)) == expected
    count = dataset.n_intruders.isel(side=side, step=-1, k=0, epsilon=0)
    assert int(count) == len(steps) == int(dataset.birth_step.isel(side=side).notnull().sum())


def test_a_slow_birth_lies_between_the_steps_at_which_the_score_crosses_epsilon() -> None:
    strengths = np.linspace(0, 16, 9)[:, None]
    flat = {"sigma": FLAT, "beyond": 0}
    dataset = born(view_of(strengths, **flat), (0.5, 0.6, 0.7, 0.8, 0.9))
    # the full SVD of each step, from the first vector of the last one back to the nearest of each step before
    tuned = view_of(strengths, **flat).tuned["r"]
    vectors = [np.linalg.svd(tuned[10 * t]["W"].numpy())[0][:, :10] for t in range(9)]  # type: ignore[union-attr]  # dense
    for epsilon in dataset.epsilon.values:
        first, own = 8, vectors[8][:, 0]
        for t in range(7, -1, -1):
            overlap = np.abs(own @ vectors[t])
            own = vectors[t][:, overlap.argmax()]
            if overlap.max() < 0.7 or np.abs(base_frames()[0].T @ own).max() >= epsilon:
                break
            first = t
        # rank 1 at the end is the newcomer; it turns others as it grows, which are then intruders as well
        found = intervals(dataset, side="left", epsilon=epsilon, rank=1)
        assert found == [(10.0 * (first - 1), 10.0 * first)], epsilon
    assert len({tuple(intervals(dataset, side="left", epsilon=e, rank=1)) for e in dataset.epsilon.values}) > 1


@pytest.mark.parametrize(("missed", "expected"), [(1, (10.0, 20.0)), (2, (50.0, 60.0))])
def test_one_missed_step_does_not_hide_a_birth_and_two_do(missed: int, expected: tuple[float, float]) -> None:
    strengths = np.where(np.arange(9) >= 2, STRONG, 0.0)[:, None]
    strengths[6 - missed : 6] = 0.0
    assert intervals(born(view_of(strengths)), side="left") == [expected]


def test_k_counts_those_that_are_among_the_first_k() -> None:
    t = np.arange(8)
    first, second = np.where(t >= 2, 14.0, 0.0), np.where(t >= 2, np.where(t >= 5, 16.0, 12.0), 0.0)
    dataset = born(view_of(np.stack([first, second], axis=1)), ks=(1, 2, 10))
    assert intervals(dataset, side="left", k=10) == [(10.0, 20.0)] * 2
    assert intervals(dataset, side="left", k=1) == [(40.0, 50.0)], "the second overtakes at step 50"
    assert intervals(dataset, side="left", k=2) == [(10.0, 20.0)] * 2


def test_a_base_of_the_runs_own_bounds_the_birth_and_an_unknown_past_does_not() -> None:
    strengths = np.full((4, 1), STRONG)
    assert intervals(born(view_of(strengths)), side="left") == [(-1.0, 0.0)], "an intruder at the first step already"
    view = view_of(strengths)
    view.runs = (dataclasses.replace(view.runs[0], base="r@0", base_kind="first_step"),)
    del view.tuned["r"][0]  # scored against itself it is not; the steps are the run's all the same
    assert intervals(born(view), side="left") == [(0.0, 10.0)]


def test_a_run_of_one_step_has_its_births_there() -> None:
    assert intervals(born(view_of(np.array([[STRONG]]))), side="left") == [(-1.0, 0.0)]


def test_a_step_that_cannot_be_measured_does_not_bound_a_birth() -> None:
    path = np.zeros((4, 1, 1), dtype=np.int64)
    scores = np.array([0.9, np.nan, 0.2, 0.1])[:, None, None]
    path[1] = -1
    known = np.array([True, False, True, True])[:, None]
    found = births(path, np.array([3]), scores, known, (1,), (0.5,))
    assert [index.item() for index in found] == [2, 0]


@given(seed=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_births_are_those_of_a_walk_by_hand(seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps, k = int(rng.integers(1, 9)), 3
    path, scores = rng.integers(-1, k, (steps, 1, 1)), rng.choice([0.2, 0.4, 0.8, np.nan], (steps, 1, k))
    path[-1] = rng.integers(0, k)
    known, ks, epsilons = rng.random((steps, 1)) > 0.2, (1, 2, 3), (0.3, 0.5)
    found = births(path, np.array([steps - 1]), scores, known, ks, epsilons)
    for a, kept in enumerate(ks):
        for b, epsilon in enumerate(epsilons):
            states = []
            for t in range(steps):
                rank = path[t, 0, 0]
                score = scores[t, 0, rank] if 0 <= rank < kept else np.nan
                states.append("?" if np.isnan(score) else "-" if score < epsilon else "+")
            text = "".join(states)
            birth = -1
            if text[-1] == "-":
                birth = at = steps - 1
                while at > 0 and text[at - 1] != "+" and (text[at - 1] == "-" or text[max(at - 2, 0) : at] == "-?"):
                    at -= 1 if text[at - 1] == "-" else 2
                    birth = at
            after = max((t for t in range(birth) if known[t, 0]), default=-1) if birth >= 0 else -1
            assert (found[0][0, 0, a, b], found[1][0, 0, a, b]) == (birth, after), text


@pytest.mark.parametrize("shape", [(200, 120), (120, 200), (150, 150)])
def test_what_is_handed_over_is_what_a_factorization_finds(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Coordinates in the base's vectors, expanded, are the vectors themselves: also outside the base's span."""
    monkeypatch.setattr("analyzers.linalg.adapter_vectors.worthwhile", lambda *_: True)  # it is small
    rng = torch.Generator().manual_seed(1)
    w0 = torch.randn(shape, generator=rng, dtype=torch.float64).float()
    delta = LowRank(torch.randn(shape[0], 3, generator=rng), torch.randn(3, shape[1], generator=rng), 0.2)
    vectors = base_vectors(w0)
    pair = load_pair(observe(Sum(w0, delta), w0))
    top = adapter_vectors(delta, vectors, 6)
    assert isinstance(top, CoordinateVectors)
    handed = vectors_of_top(top, pair, vectors, 6)
    found = leading_vectors(Matrix.of(Sum(w0, delta)), 6, Context())
    np.testing.assert_allclose(handed.sigma, found.sigma, rtol=1e-5)  # the base's vectors are kept in float32
    same = overlaps(handed, found, 6)
    # float32 base vectors: √p 2⁻²⁴ = 8e-7 in all, over gaps of σ of a few per cent
    np.testing.assert_allclose(np.abs(same), np.broadcast_to(np.eye(6), (2, 6, 6)), atol=1e-3)
    np.testing.assert_allclose(np.diag(joint_overlap(same)), 1, atol=1e-5)


def test_scoring_hands_over_its_vectors_and_nobody_finds_them_again(monkeypatch: pytest.MonkeyPatch) -> None:
    view = view_of(np.where(np.arange(5) >= 2, STRONG, 0.0)[:, None])
    view.tuned["r"][0]["W"] = torch.from_numpy(base())  # W = W0: nothing is scored there, and all the same handed over
    for step in sorted(view.tuned["r"]):
        view.get(Intruders(10), "r", step, "W")

    def never(*_: object) -> None:
        raise AssertionError("the vectors are in the cache")

    monkeypatch.setattr(lowrank_update, "leading_triplets", never)
    monkeypatch.setattr("analyzers.tracking.vectors.leading_triplets", never)
    assert intervals(born(view), side="left") == [(10.0, 20.0)]


def test_what_is_handed_over_changes_no_score() -> None:
    one = observe(torch.from_numpy(base() + 0.5), torch.from_numpy(base()))
    first = measure(Intruders(5), one, cache={})
    for name, values in measure(Intruders(5), one, cache={}).items():
        np.testing.assert_array_equal(values, first[name])


def test_runs_are_followed_each_by_its_own_steps() -> None:
    slow, fast = (view_of(np.where(np.arange(8) >= at, STRONG, 0.0)[:, None], noise=0.01) for at in (5, 2))
    runs = {"slow": slow.tuned["r"], "fast": {step + 5: w for step, w in fast.tuned["r"].items()}}
    view = MemoryView(runs, slow.bases)
    chosen = IntruderDimensions.Parameters(null=False, matched=False, across_runs=False, epsilons=(0.6,), ks=(10,))
    dataset = IntruderDimensions(chosen).derive(view).dataset.isel(matrix=0)  # type: ignore[arg-type]  # a View
    assert [run.id for run in view.runs] == ["slow", "fast"] and isinstance(view.runs[0], RunInfo)
    assert intervals(dataset.sel(run="slow"), side="left") == [(40.0, 50.0)]
    assert intervals(dataset.sel(run="fast"), side="left") == [(15.0, 25.0)]
