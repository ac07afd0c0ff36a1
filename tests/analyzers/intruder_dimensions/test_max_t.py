"""One p over a sweep: its size is exact, its error is stated, and drawing stops only where nothing is significant."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from analyzers.intruder_dimensions.max_t import clopper_pearson, exceedances, holm, max_t, monte_carlo_p, next_total


def counts(rng: np.random.Generator, number: int) -> np.ndarray:
    """Whole counts over seven dependent cells, from rare to common, (number, 7)."""
    scores = np.clip(rng.normal(0.6, 0.2, (number, 1)) + rng.normal(0, 0.15, (number, 40)), 0, 1)
    return (scores[..., None] < np.linspace(0.1, 0.7, 7)).sum(axis=1).astype(float)


@pytest.mark.parametrize("draws", [19, 99])
def test_the_size_is_at_most_what_it_claims_however_few_the_draws(draws: int) -> None:
    rng = np.random.default_rng(1)
    trials, hits = 1500, np.zeros(2)
    for _ in range(trials):
        swept = counts(rng, draws + 1)
        hits += monte_carlo_p(exceedances(np.stack([swept[0]] * 2), swept[1:]), draws) <= 0.05
    for rejected in hits:
        assert binomtest(int(rejected), trials, 0.05, alternative="greater").pvalue > 1e-3
    assert hits.sum() > 0.04 * trials, "nor does it never reject"


@pytest.mark.parametrize("seed", range(5))
def test_of_twenty_sweeps_at_most_one_is_among_the_first_twentieth(seed: int) -> None:
    """Whichever of them is called the observed one: that is what makes the size exact."""
    swept = counts(np.random.default_rng(seed), 20)
    others = [np.delete(swept, i, axis=0) for i in range(20)]
    p = np.array([monte_carlo_p(exceedances(np.stack([swept[i]] * 2), others[i]), 19) for i in range(20)])
    for rank in range(1, 21):
        assert ((p <= rank / 20 + 1e-12).sum(axis=0) <= rank).all()
    assert (np.sort(p, axis=0)[:, 0] >= np.arange(1, 21) / 20 - 1e-12).all()


def test_equal_sweeps_are_ties_and_count_as_exceeding() -> None:
    same = np.full((20, 5), 3.0)
    np.testing.assert_array_equal(exceedances(same[:2], same), [20, 20])
    np.testing.assert_array_equal(monte_carlo_p(np.array([20, 0]), 20), [1.0, 1 / 21])


def test_one_rare_count_does_not_outweigh_a_shift_of_all_the_others() -> None:
    rng = np.random.default_rng(2)
    draws = rng.normal(50, 3, (200, 4)).round()
    rare = np.zeros((200, 1))
    rare[0] = 1
    observed = np.append(np.full(4, 70.0), 0.0)
    own, of_draws = max_t(np.stack([observed] * 2), np.hstack([draws, rare]))
    assert own[0] > of_draws[:, 0].max(), "a spread of half a count is the least"


def test_the_monte_carlo_interval_is_that_of_a_binomial_share() -> None:
    for hits, draws in ((0, 20), (3, 40), (40, 40)):
        low, high = clopper_pearson(np.array(hits), draws)
        expected = binomtest(hits, draws).proportion_ci(method="exact")
        np.testing.assert_allclose([low, high], [expected.low, expected.high], atol=1e-12)


def test_only_a_p_above_the_level_ends_a_sequence_early() -> None:
    for draws in (20, 40, 80, 160, 320):
        for exceeding in range(draws + 1):
            if next_total(np.array([exceeding, draws]), draws, 400) == draws:
                assert monte_carlo_p(np.array(exceeding), draws) > 0.05
                break
        else:
            raise AssertionError("nothing ends it")
    assert next_total(np.array([0, 20]), 20, 400) == 40 and next_total(np.array([0, 320]), 320, 400) == 400
    assert next_total(np.array([0, 400]), 400, 400) == 400 and next_total(np.array([0, 9]), 9, 9) == 9
    assert next_total(np.array([10, 10]), 20, 400) == 20


def test_holm_corrects_over_all_that_have_a_p() -> None:
    corrected = holm(np.array([[0.01, 0.04], [np.nan, 0.03]]))
    np.testing.assert_allclose(corrected, [[0.03, 0.06], [np.nan, 0.06]])
    np.testing.assert_allclose(holm(np.array([0.6, 0.9])), [1.0, 1.0])
    assert np.isnan(holm(np.full(3, np.nan))).all()
