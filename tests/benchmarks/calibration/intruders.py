"""Size of the verdict on a run's total of intruders, under its own null, and what it takes in draws.

Every run is real to the statistics: three matrices W0 of iid entries with a decaying spectrum, and updates of rank 4
with Haar-random directions, so that nothing but the size of Δ makes intruders. Runs are judged alone and in threes, as
the runs of one report are. Before: a count at the left side, k = 10 and ε = .5 outside the 95 % interval of 20 draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from analyzers.contract import Context, LowRank, Result, Sum, Trial, Unit
from analyzers.intruder_dimensions.counts import count_below, null_sums, prediction_interval
from analyzers.intruder_dimensions.intruders import Intruders
from analyzers.intruder_dimensions.max_t import holm, monte_carlo_p
from analyzers.intruder_dimensions.null import IntruderNull
from analyzers.intruder_dimensions.spectrum import UpdateSpectrum
from analyzers.intruder_dimensions.total_null import Sweep, TotalNull, sweep_of
from analyzers.linalg.haar import haar_frame
from tests.analyzers.intruder_dimensions.memory import measure, observe
from tests.benchmarks.calibration.rows import Row

SHAPES = ((32, 32), (48, 24), (24, 64), (64, 64))
RUNS = 300
"""Of each shape."""
MATRICES, RANK, FAMILY = 3, 4, 3
STATISTIC = TotalNull()
THIN = (136, 136)
"""Where draws are made in the base's coordinates by small condensed problems; the shapes above take a dense Gram."""
THIN_RUNS, THIN_MATRICES = 1000, 1


@dataclass(frozen=True)
class Judged:
    """One run: p of both directions, draws, and whether the old rule gave a verdict at ε = .5 and at any ε."""

    p: np.ndarray
    draws: int
    old: bool
    old_anywhere: bool


def rows(scale: float = 1.0) -> list[Row]:
    """The table; see the module."""
    listed: list[Row] = []
    judged: list[Judged] = []
    for shape in SHAPES:
        here = [judge(shape, seed) for seed in range(max(FAMILY, math.ceil(RUNS * scale)))]
        judged += here
        listed += _sizes(f"{shape[0]} × {shape[1]}", here)
    listed += _sizes("all shapes", judged)
    thin = [judge(THIN, seed, THIN_MATRICES) for seed in range(math.ceil(THIN_RUNS * scale))]
    listed += _sizes(f"{THIN[0]} × {THIN[1]}, one matrix", thin)
    families = [judged[i : i + FAMILY] for i in range(0, len(judged) - FAMILY + 1, FAMILY)]
    for level in (0.05, 0.01):
        hits = sum(bool((holm(np.stack([run.p for run in family])) <= level).any()) for family in families)
        listed.append(Row(f"any verdict at {level}, corrected", "3 runs", level, hits, len(families)))
    for name, old in (("at ε = .5", "old"), ("at any ε", "old_anywhere")):
        hits = sum(any(getattr(run, old) for run in family) for family in families)
        listed.append(Row(f"before: any verdict {name}", "3 runs", 0.05, hits, len(families)))
    for most in (20, 40, 80, 160, 320):
        hits = sum(run.draws <= most for run in judged)
        listed.append(Row(f"at most {most} draws were enough", "all shapes", math.nan, hits, len(judged)))
    return listed


def _sizes(place: str, runs: list[Judged]) -> Iterator[Row]:
    yield Row("before: outside 95 % at ε = .5", place, 0.05, sum(run.old for run in runs), len(runs))
    yield Row("before: outside 95 % at any ε", place, 0.05, sum(run.old_anywhere for run in runs), len(runs))
    for level in (0.05, 0.01):
        for direction, word in enumerate(("more", "fewer")):
            hits = sum(bool(run.p[direction] <= level) for run in runs)
            yield Row(f"after: p ≤ {level}, {word}", place, level, hits, len(runs))


def judge(shape: tuple[int, int], seed: int, matrices: int = MATRICES) -> Judged:
    """One run under the null, measured by the statistics themselves and drawn for until its p is clear."""
    sweep = _draw(shape, seed, matrices)
    p = monte_carlo_p(sweep.exceeding(STATISTIC.ks, STATISTIC.epsilons), sweep.draws)
    ks, epsilons = (10,), STATISTIC.epsilons
    count = count_below(sweep.observed, ks, epsilons).sum(axis=0)[0, 0]
    first = sweep.similarity[: STATISTIC.block].swapaxes(0, 1)
    _, low, high = prediction_interval(null_sums(first, np.zeros(matrices, dtype=np.int64), 1, ks, epsilons))
    outside = (count < low[0, 0, 0]) | (count > high[0, 0, 0])
    return Judged(p, sweep.draws, bool(outside[epsilons.index(0.5)]), bool(outside.any()))


def _draw(shape: tuple[int, int], seed: int, matrices: int) -> Sweep:
    rng = np.random.default_rng((seed, *shape))
    observations = []
    for index in range(matrices):
        base = rng.standard_normal(shape) * np.linspace(1.5, 0.5, shape[1])
        strength = np.sort(rng.uniform(0.4, 1.4, RANK))[::-1] * np.linalg.norm(base, 2)
        left, right = haar_frame(shape[0], RANK, rng), haar_frame(shape[1], RANK, rng)
        update = LowRank(torch.from_numpy(left * strength), torch.from_numpy(right.T.copy()), 1.0)
        whole = torch.from_numpy(base)
        tuned = Sum(whole, update)
        plain = observe(tuned, whole, f"W{index}")
        inputs = {one.name: measure(one, plain) for one in (Intruders(), UpdateSpectrum())}
        spectrum = observe(tuned, whole, f"W{index}", statistics=inputs)
        inputs["intruder_null"] = measure(IntruderNull(), spectrum, seed=int(rng.integers(2**31)))
        observations.append(observe(tuned, whole, f"W{index}", statistics=inputs))
    done: list[tuple[Trial, Result]] = []
    kept: dict[str, Mapping[str, torch.Tensor]] = {}

    def remember(name: str, key: str, make: Callable[[], Mapping[str, torch.Tensor]]) -> Mapping[str, torch.Tensor]:
        if key not in kept:
            kept[key] = make()
        return kept[key]

    while proposed := STATISTIC.propose(done):
        for trial in proposed:
            context = Context(seed=int(rng.integers(2**31)), cache=remember)
            done.append((trial, STATISTIC.compute(Unit(tuple(observations), trial), context)))
    sweep = sweep_of(done)
    assert sweep is not None
    return sweep
