"""Coverage of the interval of d_int: whole searches repeated with other seeds, on the digits.

A repeat is everything that an analysis does from its first trial on: rates and stops are tuned, d is searched for, the
bracket is scored, the interval drawn. Only the seeds differ: of maps, batches, and heads.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np
import torch

from analyzers.contract import Result, Trial
from analyzers.intrinsic_dimension.crossing import DRAWS, crossing_of, isotonic
from analyzers.intrinsic_dimension.derivation import cell_of
from analyzers.intrinsic_dimension.landscape import Landscape
from analyzers.intrinsic_dimension.search import FULL, Finished
from analyzers.intrinsic_dimension.task import Built, Training
from analyzers.models import Models, WholeCheckpoint
from pipeline.models import nets
from pipeline.models.array_task import Classification
from pipeline.models.tasks import read_task
from tests.analyzers.intrinsic_dimension.trials import MATERIAL, checkpoint, mlp, run
from tests.benchmarks.calibration.rows import Row

STEPS = (0, 10, 30)
"""The checkpoints of a run of 64-32-10 on the digits."""
TRAINING = Training(steps=200, batch_size=32, lr=0.01, evaluations=4)
REPEATS, APART = 100, 10_000
"""Searches of each, and the distance between the seeds of two of them."""
SEEDS, TRUTH_SEED = 128, 5_000_000
"""Behind every expectation, and the first of them."""
GRID, RATES, BASELINE_RATES = (103, 124, 149, 179), range(5), range(4)
"""d about the crossing, and the rates that its tunings choose among."""
STATISTIC = Landscape(MATERIAL, ensemble=128)
Search = list[tuple[Trial, Result]]


class FreshHead(Classification):
    """The digits with a last layer that is drawn anew for every seed, as a classifier on a language model has."""

    def build(self, checkpoint: WholeCheckpoint, models: Models, seed: int, random: bool) -> Built:
        """The checkpoint's net, but for its last layer."""
        net = nets.chain(checkpoint, self.model, self.activation)
        head = net.get_submodule("2")
        assert isinstance(head, torch.nn.Linear)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head.reset_parameters()
        return Built(net, ("2.weight", "2.bias"))


@dataclass(frozen=True)
class World:
    """A checkpoint and its task."""

    name: str
    state: dict[str, torch.Tensor]
    task: Classification

    def train(self, trials: list[Trial]) -> list[Result]:
        """Their results; trials of equal d are trained together."""
        return run(STATISTIC, checkpoint(self.state), self.task, trials)

    def searches(self, repeats: range) -> list[Search]:
        """Whole searches side by side: one round of all of them is trained at once."""
        finished: list[Search] = [[] for _ in repeats]
        while asked := [
            (done, repeat, trial)
            for done, repeat in zip(finished, repeats, strict=True)
            for trial in STATISTIC.propose(done)
        ]:
            moved: list[Trial] = [
                {**trial, "seed": int(trial["seed"]) + APART * (1 + repeat)} for _, repeat, trial in asked
            ]
            for (done, _, trial), result in zip(asked, self.train(moved), strict=True):
                done.append((trial, result))
        return finished


@functools.cache
def worlds() -> tuple[World, ...]:
    """Three checkpoints of one run, and the last one with a fresh head."""
    task = read_task("digits")[2]
    assert isinstance(task, Classification)
    task = replace(task, training=TRAINING)
    states = _run_of_training(task)
    each = [World(f"step {step}", state, task) for step, state in states.items()]
    return (*each, World(f"step {STEPS[-1]}, fresh head", states[STEPS[-1]], FreshHead(**vars(task))))


def _run_of_training(task: Classification) -> dict[int, dict[str, torch.Tensor]]:
    state = mlp((64, 32, 10))
    net = nets.chain(checkpoint(state), "mlp", "relu")
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    draw = torch.Generator().manual_seed(0)
    states: dict[int, dict[str, torch.Tensor]] = {}
    for step in range(STEPS[-1] + 1):
        if step in STEPS:
            states[step] = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        batch = task.data("train").take(torch.randint(len(task.data("train")), (64,), generator=draw))
        optimizer.zero_grad()
        task.loss(net(*batch.inputs), batch.targets).backward()
        optimizer.step()
    return states


def expected_crossing(world: World, grid: tuple[int, ...], seeds: int) -> float:
    """d at which the expected score reaches .9 of the expected baseline: the mean over `seeds` tunings, one seed each,
    of the mean over as many fresh trainings with the rate and the stop that the tuning chose, at every d of `grid`;
    interpolated as a search does."""
    baseline = _expected(world, FULL, BASELINE_RATES, seeds)
    means = np.array([_expected(world, d, RATES, seeds) for d in grid])
    at = crossing_of(np.array(grid), isotonic(means, np.ones(len(grid))), np.asarray(0.9 * baseline))
    assert int(at.kind) == 0, f"{world.name}: .9 of {baseline:.3f} is not reached between {grid[0]} and {grid[-1]}"
    return float(at.value)


def _expected(world: World, d: int, rates: range, seeds: int) -> float:
    trials: list[Trial] = [
        {"phase": "score", "d": d, "seed": TRUTH_SEED + i, "rate": rate, "budget": 1}
        for rate in rates
        for i in range(seeds)
    ]
    results = world.train(trials)
    curves = {
        split: np.array([result[split] for result in results]).reshape(len(rates), seeds, -1)
        for split in ("tune", "score")
    }
    tune = np.where(np.isnan(curves["tune"]), -np.inf, curves["tune"])
    score = np.where(np.isnan(curves["score"]), curves["score"][..., :1], curves["score"]).mean(axis=1)
    rate, chosen = len(rates) // 2, []
    for i in [*range(seeds), *range(seeds)]:  # each begins at the last one's rate, the first round warms up
        rate, stop = _climb(tune[:, i], rate)
        chosen.append(score[rate, stop])
    return float(np.mean(chosen[seeds:]))


def _climb(tune: np.ndarray, start: int) -> tuple[int, int]:
    """(rate, stop) that a search chooses from (rates, stops) scores of one seed: neighbours are tried until the best
    rate lies between two."""
    tried = {start}
    while True:
        best = max(tried, key=lambda rate: float(tune[rate, 1:].max()))
        around = {rate for rate in (best - 1, best, best + 1) if 0 <= rate < len(tune)}
        if around <= tried:
            return best, 1 + int(tune[best, 1:].argmax())
        tried |= around


def rows(scale: float = 1.0) -> list[Row]:
    """The table; see the module."""
    listed: list[Row] = []
    totals = dict.fromkeys(INTERVALS, (0, 0))
    for world in worlds():
        truth = expected_crossing(world, GRID, max(8, round(SEEDS * scale)))
        searches = world.searches(range(max(2, round(REPEATS * scale))))
        for name, interval in INTERVALS.items():
            held = sum(low <= truth <= high for low, high in map(interval, searches))
            listed.append(Row(name, f"{world.name}, d_int {truth:.0f}", 0.95, held, len(searches)))
            totals[name] = (totals[name][0] + held, totals[name][1] + len(searches))
    listed += [Row(name, "all", 0.95, *total) for name, total in totals.items()]
    return listed


def now(search: Search) -> tuple[float, float]:
    """The interval of an analysis."""
    curve = cell_of(STATISTIC, search, "run@0").curve
    assert curve is not None
    at = curve.crossing(0.9 * curve.baseline, 0.9 * curve.draws.baseline)
    return at.low, at.high


def before(search: Search) -> tuple[float, float]:
    """Residuals pooled over d, drawn independently, and nothing of the tuning."""
    finished = Finished.of(search)
    ds = finished.scored_at()
    scores = [finished.at_stop(d) for d in (FULL, *ds)]
    widened = [(v - v.mean()) * np.sqrt(len(v) / (len(v) - 1)) for v in scores]
    rng = np.random.default_rng(0)
    pooled = np.concatenate(widened[1:])
    start = np.full(DRAWS, finished.initial("score"))
    means = [v.mean() + rng.choice(pooled, (DRAWS, len(v))).mean(axis=1) for v in scores[1:]]
    baseline = scores[0].mean() + rng.choice(widened[0], (DRAWS, len(widened[0]))).mean(axis=1)
    fits = isotonic(np.stack([start, *means], axis=1), np.array([1.0, *map(len, scores[1:])]))
    at = crossing_of(np.array([0, *ds]), fits, 0.9 * baseline)
    low = np.where(at.kind == 1, at.limit, np.where(at.kind == -1, 0.0, at.value))
    high = np.where(at.kind == 1, np.inf, np.where(at.kind == -1, at.limit, at.value))
    return float(np.quantile(low, 0.025, method="inverted_cdf")), float(np.quantile(high, 0.975, method="inverted_cdf"))


INTERVALS = {"before: residuals pooled over d": before, "now: by seeds and tunings": now}
