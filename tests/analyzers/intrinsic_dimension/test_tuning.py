"""The interval of d_int holds what another tuning would have given, and each d's own spread of seeds."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

from analyzers.contract import Result, Trial
from analyzers.errors import Unmeasurable
from analyzers.intrinsic_dimension.crossing import ScoreCurve
from analyzers.intrinsic_dimension.derivation import cell_of
from analyzers.intrinsic_dimension.landscape import Landscape
from analyzers.intrinsic_dimension.search import FULL, Finished, SearchPlan, propose
from analyzers.intrinsic_dimension.tuning import spread_by_tuning
from tests.analyzers.intrinsic_dimension.trials import MATERIAL

RATES = np.arange(-6, 7)
RESPONSE = -0.012 * (RATES - 1.4) ** 2
FULL_SCORE, MIDDLE, NOISE = 0.95, 40.0, 0.02


def trial(one: Trial, repeat: int) -> Result:
    """A score that rises in log d and falls with the distance of the rate from its best, with noise on both splits."""
    d, rate = int(one["d"]), int(one["rate"])
    learned = FULL_SCORE * (1 if d == FULL else 1 / (1 + (MIDDLE / d) ** 1.5)) + RESPONSE[rate + 6]
    draw = np.random.default_rng([repeat, d, int(one["seed"]), 50 + rate]).normal(size=2) * NOISE
    numbers = {"n_parameters": 5000, "n_scales": 0, "n_fresh": 0, "chance": 0.1, "reference": 1.0, "base_lr": 1e-3}
    curves = {split: np.array([0.1, max(0.1, learned + e)]) for split, e in zip(("tune", "score"), draw, strict=True)}
    return {**curves, "is_loss": np.array(False), "diverged_at": np.array(-1), "lr": np.array(1e-3)} | {
        name: np.array(value) for name, value in numbers.items()
    }


def search(repeat: int) -> list[tuple[Trial, Result | Unmeasurable]]:
    finished: list[tuple[Trial, Result | Unmeasurable]] = []
    while trials := propose(finished, SearchPlan()):
        finished += [(one, trial(one, repeat)) for one in trials]
    return finished


def chosen(noise: float = NOISE) -> np.ndarray:
    """The response at the rates that many tunings choose."""
    draw = np.random.default_rng(0).standard_normal((20_000, len(RATES))) * noise
    return RESPONSE[(RESPONSE + draw).argmax(axis=1)]


def test_whole_searches_with_other_seeds_cover_the_expected_crossing() -> None:
    """94 % of 300 searches do, and 56 of the first 60. Without the tuning's share of the spread those are 51."""
    shift = float(chosen().mean())
    learned = (0.9 * (FULL_SCORE + shift) - shift) / FULL_SCORE
    truth = MIDDLE / (1 / learned - 1) ** (1 / 1.5)
    held = 0
    for repeat in range(60):
        curve = cell_of(Landscape(MATERIAL), search(repeat), f"run@{repeat}").curve
        assert curve is not None
        at = curve.crossing(0.9 * curve.baseline, 0.9 * curve.draws.baseline)
        held += at.low <= truth <= at.high
    assert held >= 54


def test_a_search_tells_from_its_own_trials_how_much_repeated_tuning_would_vary() -> None:
    estimates = []
    for repeat in range(40):
        finished = Finished.of(search(repeat))
        estimates.append(spread_by_tuning(finished, finished.scored_at()))
    assert float(np.sqrt(np.mean(np.square(estimates)))) == pytest.approx(chosen().std(), rel=0.25)


def test_where_nothing_was_tuned_twice_or_nothing_is_noisy_the_tuning_adds_nothing() -> None:
    finished = Finished.of(search(0))
    assert spread_by_tuning(finished, []) == 0
    only = {rate: curves for rate, curves in finished.tuned[FULL].items() if rate == finished.best(FULL)[0]}
    finished.tuned[FULL] = defaultdict(list, only)
    assert spread_by_tuning(finished, [FULL]) == 0
    del finished.tuned[FULL]  # as in a store that lost trials
    assert spread_by_tuning(finished, [FULL]) == 0


def test_a_rate_that_diverges_is_never_chosen_and_spoils_no_fit() -> None:
    finished = Finished.of(search(0))
    before = spread_by_tuning(finished, finished.scored_at())
    for d in finished.scored_at():
        finished.tuned[d][6].append(np.array([0.1, np.nan]))
    assert spread_by_tuning(finished, finished.scored_at()) == pytest.approx(before) and before > 0


def test_every_d_has_the_spread_of_its_own_seeds() -> None:
    draw = np.random.default_rng(0).standard_normal((2, 5))
    quiet, loud = 0.90 + 0.002 * draw[0], 0.80 + 0.04 * draw[1]
    curve = ScoreCurve({0: np.array([0.1]), 50: loud, 75: quiet}, np.full(3, 0.97))
    assert curve.high[1] - curve.low[1] > 1.5 * (curve.high[2] - curve.low[2])


def test_a_seed_is_drawn_at_every_d_and_in_the_baseline_together() -> None:
    """A head that is good for every d is good for full training too: it moves no local crossing."""
    head = 1 + 0.02 * np.array([-1.2, -0.6, 0.0, 0.6, 1.2])
    widths = []
    for baseline in (0.97 * head, 0.97 * head[::-1]):
        curve = ScoreCurve({0: np.array([0.1]), 50: 0.8 * head, 75: 0.9 * head}, baseline)
        at = curve.crossing(0.9 * curve.baseline, 0.9 * curve.draws.baseline)
        widths.append(np.log(at.high / at.low) if at.low > 0 else np.inf)
    assert widths[0] < 0.1 * widths[1]


def test_tuning_widens_scores_and_crossing() -> None:
    scores = {0: np.array([0.1]), 50: np.full(5, 0.8), 75: np.full(5, 0.9)}
    plain, tuned = (ScoreCurve(scores, np.full(3, 0.95), tuning=sd, baseline_tuning=sd) for sd in (0.0, 0.01))
    assert plain.low[1] == plain.high[1] and tuned.high[1] - tuned.low[1] == pytest.approx(2 * 1.96 * 0.01, rel=0.1)
    assert plain.draws.baseline.std() < 1e-12 and tuned.draws.baseline.std() == pytest.approx(0.01, rel=0.1)
    assert tuned.low[0] == tuned.high[0] == pytest.approx(0.1)  # before training nothing varies
