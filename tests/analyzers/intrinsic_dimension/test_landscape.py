"""The search on the digits that ship: what is asked for, what comes of it, and that it can be interrupted anywhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from analyzers.contract import Result, Trial
from analyzers.errors import Unmeasurable
from analyzers.intrinsic_dimension.budget import at_greatest_budget, changes
from analyzers.intrinsic_dimension.landscape import Landscape
from analyzers.intrinsic_dimension.search import FULL, RATE_STEP, Finished, SearchPlan, bracket, propose
from analyzers.intrinsic_dimension.task import Task, Training
from analyzers.intrinsic_dimension.training import _Batches
from pipeline.models.nets import Chain
from pipeline.models.tasks import read_task
from tests.analyzers.intrinsic_dimension.trials import MATERIAL, carry_out, checkpoint, mlp, run


@pytest.fixture(scope="module")
def task() -> Any:
    _, _, found = read_task("digits")
    return replace(found, training=Training(steps=120, batch_size=64, lr=0.03, evaluations=2))


def trial(d: int, seed: int = 0, rate: int = 0, phase: str = "score", budget: int = 1) -> Trial:
    return {"phase": phase, "d": d, "seed": seed, "rate": rate, "budget": budget}


def test_more_dimensions_learn_more_and_all_of_them_learn_the_digits(task: Task) -> None:
    few, more, full = (
        float(np.mean([r["score"][-1] for r in run(Landscape(MATERIAL), checkpoint(mlp()), task, trials)]))
        for trials in ([trial(d, seed) for seed in (0, 1)] for d in (4, 150, FULL))
    )
    assert few < 0.5 < 0.8 < more < full
    assert full > 0.93


@pytest.mark.parametrize("method", ["one_hot", "fastfood", "dense", "sparse"])
def test_what_an_ensemble_learns_each_of_its_members_learns_alone(task: Task, method: str) -> None:
    """Catches members that share a map, a batch or a rate: alone and together they must be the same training."""
    short = replace(task, training=Training(steps=15, batch_size=32, lr=0.01, evaluations=1))  # type: ignore[type-var]  # `Task` is a protocol; this one is a dataclass
    trials = [trial(40, seed, rate) for seed, rate in ((0, 0), (1, 0), (0, 1))]
    of = checkpoint(mlp())
    together = run(Landscape(MATERIAL, method), of, short, trials)
    for one, result in zip(trials, together, strict=True):
        (alone,) = run(Landscape(MATERIAL, method), of, short, [one])
        # 15 steps of Adam in float32: rounding is amplified a little, different training differs in the first digit
        np.testing.assert_allclose(alone["loss"][1:], result["loss"][1:], rtol=1e-3)
    losses = [float(result["loss"][-1]) for result in together]
    assert len({round(loss, 4) for loss in losses}) == 3


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu", "sigmoid"])
def test_batched_products_train_what_vmap_trains(task: Task, activation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    short = replace(task, activation=activation, training=Training(15, 32, 0.01, 3))  # type: ignore[type-var]  # `Task` is a protocol; this one is a dataclass
    trials = [trial(40, seed) for seed in (0, 1, 2)]
    of = checkpoint(mlp((64, 32, 24, 10)))
    batched = run(Landscape(MATERIAL), of, short, trials)
    monkeypatch.setattr(Chain, "together", None)
    mapped = run(Landscape(MATERIAL), of, short, trials)
    for one, other in zip(batched, mapped, strict=True):
        # 15 steps of Adam in float32 on the same numbers: only the order of summation differs
        np.testing.assert_allclose(one["loss"][1:], other["loss"][1:], rtol=1e-4)
        np.testing.assert_allclose(one["score"], other["score"], atol=0.005)


def test_batches_drawn_in_blocks_are_those_drawn_one_by_one() -> None:
    """The stream of a seed must not depend on how it is cut, or stored trials and new ones would differ."""
    many, single = _Batches(10, 4, 7), _Batches(10, 4, 7)
    whole = many.take(9)
    assert [row.tolist() for row in whole] == [single.take(1)[0].tolist() for _ in range(9)]
    stream = whole.flatten().tolist()
    assert sorted(stream[:10]) == sorted(stream[10:20]) == sorted(stream[20:30]) == list(range(10))


def test_a_trial_is_the_same_every_time(task: Task) -> None:
    one, again = (run(Landscape(MATERIAL), checkpoint(mlp()), task, [trial(30)])[0] for _ in range(2))
    assert all(np.array_equal(one[name], again[name], equal_nan=True) for name in one)


def test_a_diverging_trial_is_a_result_and_leaves_its_neighbours_alone(task: Task) -> None:
    wild = replace(task, training=Training(steps=40, batch_size=32, lr=0.01, evaluations=2))  # type: ignore[type-var]  # `Task` is a protocol; this one is a dataclass
    good, bad = trial(60, 0, 0), trial(60, 0, 80)  # 10^40 times the rate
    alone = run(Landscape(MATERIAL), checkpoint(mlp()), wild, [good])[0]
    beside, diverged = run(Landscape(MATERIAL), checkpoint(mlp()), wild, [good, bad])
    assert int(diverged["diverged_at"]) >= 0
    assert np.isnan(diverged["score"][-1]) and np.isfinite(diverged["score"][0])
    assert int(beside["diverged_at"]) == -1
    np.testing.assert_allclose(beside["score"], alone["score"], atol=0.01)


def test_the_search_brackets_the_crossing_and_then_stops(task: Task) -> None:
    finished = carry_out(Landscape(MATERIAL), checkpoint(mlp()), task)
    found = Finished.of(finished)
    threshold = found.threshold(("local", 0.9), "score")
    means = {d: float(found.at_stop(d).mean()) for d in found.scored_at()}
    high = min(d for d, mean in means.items() if mean >= threshold)
    low = max(d for d in means if d < high)
    assert high / low <= 1.5 and means[low] < threshold <= means[high]
    assert all(len(found.scored[d, 1]) >= 5 for d in (low, high))
    tune = {t["seed"] for t, _ in finished if t["phase"] == "tune"}
    assert not tune & {t["seed"] for t, _ in finished if t["phase"] == "score"}
    assert len(finished) < 60


class Synthetic:
    """A task that is not trained: the score rises in log d around `middle`, with noise of the seeds."""

    def __init__(
        self, middle: float, full: float = 0.95, n: int = 5000, noise: float = 0.004, init: float = 0.1
    ) -> None:
        self.middle, self.full, self.n, self.noise, self.init = middle, full, n, noise, init

    def __call__(self, trial: Trial) -> Result:
        d = int(trial["d"])
        x = 1.0 if d == FULL else 1 / (1 + (self.middle / d) ** 1.5)
        rate = -0.01 * (int(trial["rate"]) - 1) ** 2
        draw = np.random.default_rng([d, int(trial["seed"]), 50 + int(trial["rate"])]).normal() * self.noise
        end = max(self.init, self.full * x + rate + draw)
        curve = np.array([self.init, end])
        numbers = {
            "n_parameters": self.n,
            "n_scales": 0,
            "n_fresh": 0,
            "chance": 0.1,
            "reference": 1.0,
            "base_lr": 1e-3,
        }
        return {"tune": curve, "score": curve, "is_loss": np.array(False), "diverged_at": np.array(-1)} | {
            name: np.array(value) for name, value in numbers.items()
        }


def searched(world: Synthetic, plan: SearchPlan | None = None) -> list[tuple[Trial, Result | Unmeasurable]]:
    finished: list[tuple[Trial, Result | Unmeasurable]] = []
    while trials := propose(finished, plan or SearchPlan()):
        finished += [(one, world(one)) for one in trials]
        assert len(finished) < 500
    return finished


def measured(finished: list[tuple[Trial, Result | Unmeasurable]]) -> list[int]:
    return Finished.of(finished).scored_at()


def test_the_rate_is_followed_to_its_best() -> None:
    assert Finished.of(searched(Synthetic(100))).best(FULL)[0] == 1
    assert pytest.approx(10**0.5) == RATE_STEP


@pytest.mark.parametrize("middle", [0.3, 3, 40, 300, 900])
def test_wherever_the_crossing_lies_it_is_bracketed_with_few_trials(middle: float) -> None:
    finished = searched(Synthetic(middle))
    truth = middle * 9 ** (1 / 1.5)  # where x = .9
    scored = measured(finished)
    if truth < 5000:
        assert min(scored) <= truth * 1.3 and max(scored) >= truth / 1.3
    assert len(finished) <= 50


def test_a_task_that_no_d_learns_is_searched_up_to_all_parameters_and_no_further() -> None:
    scored = measured(searched(Synthetic(1e6)))
    assert max(scored) == 5000


def test_d_max_bounds_the_search() -> None:
    assert max(measured(searched(Synthetic(300), SearchPlan(d_max=200)))) == 200


def test_a_checkpoint_that_can_do_the_task_is_not_searched() -> None:
    assert measured(searched(Synthetic(100, init=0.94))) == []


def test_a_doubled_budget_repeats_baseline_and_bracket() -> None:
    finished = searched(Synthetic(100), SearchPlan(budgets=(1, 2)))
    doubled = [t for t, _ in finished if t["budget"] == 2]
    assert {t["d"] for t in doubled} >= {FULL} and len({t["d"] for t in doubled}) == 3


class Patient(Synthetic):
    """Twice the budget learns the task in `gain` times fewer dimensions, to the same full score."""

    gain: float = 1.0

    def __call__(self, trial: Trial) -> Result:
        usual = self.middle
        try:
            self.middle = usual / self.gain if int(trial["budget"]) == 2 else usual
            return super().__call__(trial)
        finally:
            self.middle = usual


@pytest.mark.parametrize(("gain", "moved"), [(1.0, 0.0), (1.25, 1.0), (20.0, 1.0)])
def test_a_budget_that_moves_d_int_is_flagged_within_its_bracket_too(gain: float, moved: float) -> None:
    world = Patient(100, noise=1e-4)
    world.gain = gain
    found = Finished.of(searched(world, SearchPlan(budgets=(1, 2), resolution=3.0)))
    doubled = at_greatest_budget(found, ("local", 0.9))
    truth = 100 * 9 ** (1 / 1.5)
    assert doubled is not None and changes(doubled, (0.9 * truth, 1.1 * truth)) == moved
    if gain < 2:  # the chord of a curved bracket is off by some per cent
        assert doubled == pytest.approx(truth / gain, rel=0.08)
    else:
        assert np.isnan(doubled)


class Plateau(Synthetic):
    """In a subspace the best rate is ten times that of full training, and below it there is nothing but noise: a search
    that follows the best of its neighbours takes a maximum of the noise for the rate."""

    def __call__(self, trial: Trial) -> Result:
        if int(trial["d"]) == FULL:
            return super().__call__(trial)
        rate = int(trial["rate"]) - 2
        result = dict(super().__call__({**trial, "rate": rate}))
        if rate < 1:
            draw = np.random.default_rng([int(trial["d"]), int(trial["seed"]), 9 + rate]).normal()
            result["tune"] = result["score"] = np.array([self.init, self.init + 0.02 * draw])
        return result


def test_a_rate_that_learns_is_found_from_a_plateau_of_noise() -> None:
    """The best of three rates was a maximum of the noise, and d_int six times what it is."""
    found = Finished.of(searched(Plateau(40)))
    truth = 40 * 9 ** (1 / 1.5)
    low, high = bracket(found, ("local", 0.9))
    assert low / 1.3 <= truth <= 1.3 * high


@pytest.mark.parametrize("init", [0.1, 0.25])  # chance is .1: a few tuning examples can be named right by luck
def test_full_training_is_tried_at_every_rate_before_it_is_said_to_learn_nothing(init: float) -> None:
    class Late(Synthetic):
        def __call__(self, trial: Trial) -> Result:
            result = dict(super().__call__(trial))
            if int(trial["rate"]) != 3:
                result["tune"] = result["score"] = np.array([self.init, self.init + 0.001 * int(trial["rate"] == 0)])
            return result

    found = Finished.of(searched(Late(40, init=init)))
    assert found.best(FULL)[0] == 3


def test_a_budget_that_was_not_doubled_says_nothing() -> None:
    assert at_greatest_budget(Finished.of(searched(Synthetic(100))), ("local", 0.9)) is None
    assert np.isnan(changes(None, (1.0, 2.0)))


def test_a_search_that_is_interrupted_anywhere_asks_for_the_same_trials() -> None:
    """What is stored is found again: propose is a function of the finished trials, not of how they came about."""
    world = Synthetic(60)
    whole = [str(sorted(t.items())) for t, _ in searched(world)]
    finished: list[tuple[Trial, Result | Unmeasurable]] = []
    asked: list[str] = []
    while trials := propose(finished, SearchPlan()):
        for one in trials:  # as after a crash in the middle of a round: the round is asked for again
            if (name := str(sorted(one.items()))) not in asked:
                asked.append(name)
        finished += [(one, world(one)) for one in trials]
        assert list(propose(list(finished), SearchPlan())) == list(propose(finished, SearchPlan()))
    assert asked == whole


def test_a_checkpoint_without_the_model_ends_the_search_at_once() -> None:
    first = propose((), SearchPlan())
    assert propose([(one, Unmeasurable("no model")) for one in first], SearchPlan()) == []


def test_the_key_of_a_trial_does_not_change_with_how_the_search_is_carried_out() -> None:
    one = Landscape(MATERIAL)
    other = replace(one, plan=SearchPlan(seeds=9, resolution=1.1), ensemble=1)
    assert one.parameters() == other.parameters()
    assert one.parameters() != replace(one, method="dense").parameters()
    assert one.parameters() != replace(one, control="shuffled_labels").parameters()


def test_said_moves_each_layer_by_its_own_scale(task: Task) -> None:
    results = run(Landscape(MATERIAL, said=True), checkpoint(mlp()), task, [trial(100, seed) for seed in (0, 1)])
    assert all(int(r["n_scales"]) == int(r["n_layers"]) == 2 for r in results)
    assert np.mean([r["score"][-1] for r in results]) > 0.7
    (too_small,) = run(Landscape(MATERIAL, said=True), checkpoint(mlp()), task, [trial(2)])
    assert isinstance(too_small, Unmeasurable) and "above that, not 2" in str(too_small)


def test_only_the_chosen_parameters_are_trained(task: Task) -> None:
    (result,) = run(Landscape(MATERIAL, trained=("2.*",)), checkpoint(mlp()), task, [trial(50)])
    assert int(result["n_parameters"]) == 650
    (factors,) = run(Landscape(MATERIAL, lora_rank=4), checkpoint(mlp()), task, [trial(50)])
    assert int(factors["n_parameters"]) == 4 * (64 + 64) + 4 * (64 + 10) == int(factors["n_fresh"])


def test_full_training_is_shared_by_all_maps_but_by_no_control(task: Task) -> None:
    """A map, or SAID, plays no part in it; shuffled labels or another start do."""
    plain, full, part = Landscape(MATERIAL), trial(FULL), trial(30)
    other = Landscape(MATERIAL, "dense", said=True)
    assert plain.shared(full) is plain and other.shared(full) == plain
    assert other.shared(part) is other
    shuffled = replace(other, control="shuffled_labels")
    assert shuffled.shared(full) == replace(plain, control="shuffled_labels")
    assert replace(other, lora_rank=2).shared(full) == replace(plain, lora_rank=2)
    short = replace(task, training=Training(steps=15, batch_size=32, lr=0.01, evaluations=1))  # type: ignore[type-var]  # `Task` is a protocol; this one is a dataclass
    mine, theirs = (run(one, checkpoint(mlp()), short, [full])[0] for one in (plain, other))
    assert mine.keys() == theirs.keys()
    assert all(np.array_equal(mine[name], theirs[name], equal_nan=True) for name in mine)


def test_said_counts_its_layers_though_the_shared_baseline_has_none() -> None:
    """With 12 layers and d from √5000 ≈ 71 down, a search that forgot λ would ask for d ≤ 12."""
    world = Synthetic(0.001)

    def layered(one: Trial) -> Result:
        return {**world(one), "n_layers": np.array(12)}

    finished: list[tuple[Trial, Result | Unmeasurable]] = []
    while trials := propose(finished, SearchPlan(), said=True):
        finished += [(one, layered(one)) for one in trials]
    assert min(int(t["d"]) for t, _ in finished if t["d"] != FULL) == 13
