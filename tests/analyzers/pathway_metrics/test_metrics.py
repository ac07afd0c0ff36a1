"""The metrics, each against numbers done by hand, and their chance levels under uniform routing."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzers.pathway_metrics import balance, grouping
from analyzers.pathway_metrics.consistency import layer_cosines, paper_consistency
from analyzers.pathway_metrics.correlation import correlation, effective_count, of_differences
from analyzers.pathway_metrics.grouping import (
    AllPairs,
    grouped_ratio,
    grouped_ratio_of_pairs,
    grouped_ratios_of_pairs,
    square_of,
)
from analyzers.pathway_metrics.memorisation import choose_epsilon, memorised_from

DISTANCES = np.array([[0, 1, 4, 6], [1, 0, 5, 5], [4, 5, 0, 3], [6, 5, 3, 0]], dtype=float)


def test_the_grouped_ratio_done_by_hand() -> None:
    # groups {0, 1} and {2, 3}: within (1 + 3)/2 = 2, between (4 + 6 + 5 + 5)/4 = 5
    found = grouped_ratio(DISTANCES, np.array([0, 0, 1, 1]), seed=0)
    assert (found.within, found.between, found.ratio) == (2, 5, 0.4)
    left, right = np.triu_indices(4, 1)
    of_pairs = grouped_ratio_of_pairs(DISTANCES[left, right], left, right, np.array([0, 0, 1, 1]), seed=0)
    assert (of_pairs.within, of_pairs.between, of_pairs.ratio) == (2, 5, 0.4)


@pytest.mark.parametrize("large", [1, 10, 10**6])
def test_the_sums_within_groups_are_those_of_a_loop_by_products_and_by_pairs(
    large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grouping, "_LARGE", large)  # all groups small; one large; all large
    draw = np.random.default_rng(0)
    square = square_of(draw.integers(0, 50, 190), 20)
    sizes = np.array([12, 5, 2, 1])
    orders = draw.permuted(np.tile(np.arange(20), (7, 1)), axis=1)
    expected = []
    for order in orders:
        labels = np.empty(20, dtype=int)
        labels[order] = np.repeat(np.arange(4), sizes)
        expected.append(square[labels[:, None] == labels[None, :]].sum())
    np.testing.assert_array_equal(grouping._within_sums(square, sizes, orders), expected)


def test_the_interval_is_that_of_a_loop_over_resamples() -> None:
    """Samples drawn with replacement; a pair counts as often as its two samples together, one with itself never."""
    draw = np.random.default_rng(3)
    square, codes = square_of(draw.integers(1, 50, 45), 10), draw.integers(0, 3, 10)
    pairs = AllPairs(square, seed=5, resamples=60)
    ratios = []
    for times in pairs.times.astype(int):
        drawn = np.repeat(np.arange(10), times)
        within, between = [], []
        for i in drawn:
            for j in drawn:
                if i != j:
                    (within if codes[i] == codes[j] else between).append(square[i, j])
        ratios.append(np.mean(within) / np.mean(between))
    found = pairs.ratio(codes)
    np.testing.assert_allclose([found.low, found.high], np.percentile(ratios, [2.5, 97.5]))


def test_groupings_of_the_same_pairs_are_each_as_if_alone() -> None:
    draw = np.random.default_rng(4)
    square = square_of(draw.integers(0, 50, 435), 30)
    together = AllPairs(square, seed=1)
    for codes in (draw.integers(0, 2, 30), draw.integers(0, 7, 30), draw.integers(-1, 4, 30)):
        assert together.ratio(codes) == grouped_ratio(square, codes, seed=1)


def test_drawn_pairs_are_counted_as_in_a_loop_over_resamples_and_permutations() -> None:
    draw = np.random.default_rng(6)
    left = draw.integers(0, 20, 150)
    right = (left + draw.integers(1, 20, 150)) % 20
    distances, codes = draw.integers(1, 50, 150), draw.integers(-1, 3, 20)
    found = grouped_ratio_of_pairs(distances, left, right, codes, seed=5, permutations=99, resamples=50)

    def ratio(labels: np.ndarray, times: np.ndarray) -> float:
        within, between = [], []
        for i, j, distance in zip(left, right, distances, strict=True):
            if labels[i] >= 0 and labels[j] >= 0:
                (within if labels[i] == labels[j] else between).extend([distance] * int(times[i] * times[j]))
        return float(np.mean(within) / np.mean(between))

    once = np.ones(20)
    assert found.ratio == pytest.approx(ratio(codes, once))
    resample, shuffle = np.random.default_rng(5), np.random.default_rng((5, 1))
    ratios = [ratio(codes, np.bincount(resample.integers(0, 20, 20), minlength=20)) for _ in range(50)]
    np.testing.assert_allclose([found.low, found.high], np.percentile(ratios, [2.5, 97.5]), rtol=1e-5)
    smaller = 0
    for _ in range(99):
        shuffled = codes.copy()
        shuffled[codes >= 0] = shuffle.permutation(codes[codes >= 0])
        smaller += ratio(shuffled, once) <= found.ratio * (1 + 1e-6)
    assert found.p == (smaller + 1) / 100


def test_groupings_of_drawn_pairs_are_each_as_if_alone() -> None:
    draw = np.random.default_rng(7)
    left = draw.integers(0, 30, 400)
    right = (left + draw.integers(1, 30, 400)) % 30
    distances = draw.integers(1, 50, 400)
    groups = {"a": draw.integers(0, 2, 30), "b": draw.integers(-1, 5, 30), "one": np.zeros(30, dtype=int)}
    together = grouped_ratios_of_pairs(distances, left, right, groups, seed=1)
    for name in ("a", "b"):
        alone = grouped_ratio_of_pairs(distances, left, right, groups[name], seed=1)
        np.testing.assert_allclose(astuple(together[name]), astuple(alone), rtol=1e-6)
    assert np.isnan(together["one"].ratio)


def test_samples_without_a_group_are_left_out() -> None:
    codes = np.array([0, 0, -1, 1, 1])
    wider = np.full((5, 5), 99.0)
    kept = np.array([0, 1, 3, 4])
    wider[np.ix_(kept, kept)] = DISTANCES
    assert grouped_ratio(wider, codes, seed=0).ratio == 0.4


def test_one_group_alone_has_no_ratio() -> None:
    assert np.isnan(grouped_ratio(DISTANCES, np.zeros(4, dtype=int), seed=0).ratio)
    assert np.isnan(grouped_ratio(DISTANCES, np.arange(4), seed=0).ratio)


def test_labels_that_mean_nothing_have_a_ratio_of_one_and_an_unremarkable_p() -> None:
    draw = np.random.default_rng(1)
    points = draw.standard_normal((120, 3))
    square = np.linalg.norm(points[:, None] - points[None], axis=-1)
    p = [grouped_ratio(square, draw.integers(0, 4, 120), seed=s, permutations=99).p for s in range(40)]
    # Uniform p: of 40 draws, more than 10 below .1 has probability < 2e-3.
    assert sum(value <= 0.1 for value in p) <= 10
    found = grouped_ratio(square, draw.integers(0, 4, 120), seed=0)
    assert abs(found.ratio - 1) < 0.1
    assert found.low < 1 < found.high


def test_real_groups_have_a_small_ratio_a_small_p_and_an_interval_below_one() -> None:
    draw = np.random.default_rng(2)
    codes = np.repeat(np.arange(3), 30)
    points = draw.standard_normal((90, 2)) + 4 * codes[:, None]
    found = grouped_ratio(np.linalg.norm(points[:, None] - points[None], axis=-1), codes, seed=0)
    assert found.ratio < 0.5
    assert found.low < found.ratio < found.high < 0.7
    assert found.p == 1 / 200


def test_a_condensed_matrix_comes_back_square() -> None:
    np.testing.assert_array_equal(square_of(DISTANCES[np.triu_indices(4, 1)], 4), DISTANCES)


def test_cosines_of_neighbouring_layers_done_by_hand() -> None:
    # layer 0: v = (1,0), (0,1); layer 1: v = (0,1), (1,0). g = (1,0) then (0,1): e = (1,0), (1,0): cosine 1.
    # g = (1,0) then (1,0): e = (1,0), (0,1): cosine 0.   g = (.5,.5), (.5,.5): cosine 1.   (.8,.2),(.5,.5): 1/√(2·.68)
    first, second = np.eye(2), np.eye(2)[::-1]
    gram = np.stack([first @ first.T, second @ second.T])
    cross = (first @ second.T)[None]
    weight = np.array([[[1, 0], [0, 1]], [[1, 0], [1, 0]], [[0.5, 0.5], [0.5, 0.5]], [[0.8, 0.2], [0.5, 0.5]]])
    np.testing.assert_allclose(layer_cosines(weight, gram, cross)[:, 0], [1, 0, 1, 1 / np.sqrt(2 * 0.68)])
    unknown = np.full_like(gram, np.nan)
    assert np.isnan(layer_cosines(weight, unknown, cross)).all()


def test_the_papers_consistency_is_zero_at_two_layers() -> None:
    """cos / max cos is 1 where there is one cosine: the definition's own flaw, reported with it."""
    np.testing.assert_allclose(paper_consistency(np.array([[0.3], [0.9]])), 0, atol=1e-7)
    np.testing.assert_allclose(paper_consistency(np.array([[0.5, 1.0]])), 0.25, atol=1e-7)


def test_balance_done_by_hand() -> None:
    selected = np.array([[[2, 1, 1, 0]], [[4, 0, 0, 0]]])  # two samples, one router, four experts: 6, 1, 1, 0 of 8
    shares = balance.load(selected)
    np.testing.assert_allclose(shares, [[0.75, 0.125, 0.125, 0]])
    found = balance.spread(shares[0], 4)
    assert found["max_violation"] == pytest.approx(2.0)  # .75 · 4 − 1
    assert found["dead_experts"] == 1
    assert found["load_cv"] == pytest.approx(np.std([6, 1, 1, 0]) / 2)
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.125)) / np.log(4)
    assert found["load_entropy"] == pytest.approx(entropy)


def test_uniform_routing_gives_the_even_values() -> None:
    shares = balance.load(np.ones((5, 2, 8)))
    assert balance.spread(shares[0], 8) == pytest.approx(
        {"load_cv": 0, "load_entropy": 1, "max_violation": 0, "dead_experts": 0}, abs=1e-12
    )
    selected, tokens = np.full((5, 2, 8), 3), np.full((5, 2), 12)  # twelve tokens of each sample, two experts for each
    np.testing.assert_allclose(balance.saturation_chance(selected, tokens, shares), 2 / 8)


def test_coactivation_done_by_hand() -> None:
    # three tokens choose {0,1}, {0,1}, {0,2}: N_0 = 3, N_1 = 2, N_2 = 1
    together = np.array([[[3, 2, 1], [2, 2, 0], [1, 0, 1]]])
    expected = [[[1, 2 / 3, 1 / 3], [1, 1, 0], [1, 0, 1]]]
    np.testing.assert_allclose(balance.coactivation(together), expected)


def test_specialisation_done_by_hand() -> None:
    # top-2 of three experts; domain 0 has samples 0 and 1 with 1 token each, domain 1 sample 2 with 2 tokens
    selected = np.array([[[1, 1, 0]], [[1, 0, 1]], [[0, 2, 2]]])
    found = balance.domain_specialisation(selected, np.array([0, 0, 1]), 2, np.array([[1], [1], [2]]))
    np.testing.assert_allclose(found[0], [[1, 0], [0.5, 1], [0.5, 1]])


def test_a_token_that_no_expert_had_room_for_counts_in_its_domain() -> None:
    selected = np.array([[[1, 0]], [[0, 0]]])  # two samples of one token each, the second was dropped
    found = balance.domain_specialisation(selected, np.array([0, 0]), 1, np.array([[1], [1]]))
    np.testing.assert_allclose(found[0], [[0.5], [0]])


def test_saturation_done_by_hand() -> None:
    early = np.array([[[0, 1]], [[2, 3]], [[0, 3]]])
    last = np.array([[[1, 0]], [[2, 1]], [[1, 2]]])  # both, one, none
    np.testing.assert_allclose(balance.saturation(early, last), [0.5])
    np.testing.assert_allclose(balance.saturation(last, last), [1])
    dropped = np.array([[[-1]], [[0]], [[1]]])  # top-1; the last checkpoint had no room for the first token
    np.testing.assert_allclose(balance.saturation(dropped, dropped), [1])
    np.testing.assert_allclose(balance.saturation(np.array([[[0]], [[0]], [[-1]]]), dropped), [0.5])


def test_independent_choices_saturate_at_the_chance_level() -> None:
    draw = np.random.default_rng(0)
    popularity = np.array([0.4, 0.3, 0.1, 0.1, 0.05, 0.05])
    picks = [np.array([draw.choice(6, 2, False, popularity) for _ in range(20_000)])[:, None] for _ in range(2)]
    loads = [np.bincount(p.ravel(), minlength=6)[None] / p.size for p in picks]
    chance = balance.saturation_chance(loads[0][None] * 40_000, np.array([[20_000]]), loads[1])
    # 20 000 tokens: the standard error of a mean of values in {0, ½, 1} is below .004.
    np.testing.assert_allclose(balance.saturation(*picks), chance, atol=0.015)


def test_memorised_from_done_by_hand() -> None:
    losses = np.array(
        [
            # stays low from 1 | low, then forgotten, then low again | low only at the last | never | falls too far yet
            [2.0, 0.1, 2.0, 3.0, 0.90],
            [0.1, 2.0, 2.0, 3.0, 0.50],
            [0.1, 0.1, 2.0, 3.0, 0.12],
            [0.12, 0.1, 0.1, 3.0, 0.10],
        ]
    )
    assert memorised_from(losses, 1.0).tolist() == [1, 2, -1, -1, 2]


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_epsilon_lets_between_a_fifth_and_a_quarter_of_each_domain_be_memorised(seed: int) -> None:
    draw = np.random.default_rng(seed)
    losses = draw.exponential(1.0, (1, 400)) + np.array([[2.0], [1.0], [0.02], [0.0]])
    domains = draw.integers(0, 2, 400)
    memorised = memorised_from(losses, choose_epsilon(losses, domains)) >= 0
    for domain in (0, 1):
        assert 0.2 <= memorised[domains == domain].mean() <= 0.25


def test_a_domain_that_never_settles_memorises_nothing() -> None:
    losses = np.array([[1.0, 1.0], [5.0, 5.0], [1.0, 1.0]])
    epsilon = choose_epsilon(losses, np.zeros(2, dtype=int))
    assert np.isnan(epsilon).all()
    assert memorised_from(losses, epsilon).tolist() == [-1, -1]


def test_correlation_of_independent_steps_has_the_textbooks_interval() -> None:
    draw = np.random.default_rng(0)
    x = draw.standard_normal(200)
    y = 0.6 * x + draw.standard_normal(200)
    found = correlation(x, y)
    assert 180 < found.n_eff <= found.n == 200
    half = 1.959964 / np.sqrt(found.n_eff - 3)
    assert np.arctanh(found.high) - np.arctanh(found.low) == pytest.approx(2 * half)


def test_two_drifting_series_count_few_steps_and_get_no_interval() -> None:
    steps = np.arange(16.0)
    found = correlation(np.exp(-steps / 8), steps**0.5)
    assert found.r < -0.95
    assert found.n_eff < 8
    assert np.isnan(found.low)


def test_interval_of_autocorrelated_series_holds_zero_as_often_as_it_says() -> None:
    """Two independent AR(1) series of 60 steps, ρ = .8: with n instead of n_eff more than half the intervals miss 0."""
    draw = np.random.default_rng(3)

    def series() -> np.ndarray:
        x = np.zeros(80)
        for t in range(1, 80):
            x[t] = 0.8 * x[t - 1] + draw.standard_normal()
        return x[20:]

    found = [correlation(series(), series()) for _ in range(300)]
    given = [one for one in found if np.isfinite(one.low)]
    assert len(given) > 200
    missed = np.mean([one.low > 0 or one.high < 0 for one in given])
    assert missed < 0.2  # nominal .05; n_eff from 60 steps is itself uncertain


def test_differences_forget_the_drift() -> None:
    draw = np.random.default_rng(4)
    steps = np.arange(400.0)
    x, y = steps + draw.standard_normal(400), steps + draw.standard_normal(400)
    assert correlation(x, y).r > 0.99
    assert abs(of_differences(x, y).r) < 0.2


def test_changes_of_two_independent_drifts_seldom_have_an_interval_without_zero() -> None:
    """Linear trends with noise, 24 steps: nearly every r of the levels is near ±1, and 5 % of the changes' miss 0."""
    draw = np.random.default_rng(5)
    steps = np.arange(24.0)
    pairs = [(steps + 3 * draw.standard_normal(24), -steps + 3 * draw.standard_normal(24)) for _ in range(400)]
    given = [one for one in (of_differences(x, y) for x, y in pairs) if np.isfinite(one.low)]
    assert len(given) > 200
    # n_eff from 23 changes is itself uncertain; without the differences all 400 miss 0
    assert np.mean([one.low > 0 or one.high < 0 for one in given]) < 0.1
    assert np.mean([abs(correlation(x, y).r) > 0.6 for x, y in pairs]) > 0.9


def test_a_constant_or_too_short_series_has_no_correlation() -> None:
    assert np.isnan(correlation(np.ones(5), np.arange(5.0)).r)
    assert np.isnan(correlation(np.array([1.0, np.nan, 2.0]), np.arange(3.0)).r)
    assert effective_count(np.array([1.0, -1, 1, -1, 1]), np.array([1.0, 1, -1, -1, 1])) <= 5
