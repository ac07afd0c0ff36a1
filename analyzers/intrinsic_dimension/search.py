"""The adaptive search for d: which trials come next, given those that are finished. A pure function of them.

1. The baseline (full training from the checkpoint) and the first d are tuned: rates a factor √10 apart, extended while
   the best lies at an edge, each scored on the tuning split with seeds of its own.
2. From √D the search goes by factors of 4 until the threshold is bracketed on the tuning split, then halves the
   bracket in log d, at the nearest tuned rate.
3. The ends of the bracket are tuned and scored with at least five fresh seeds; where those disagree with the tuning
   split, the bracket moves until its ends enclose the threshold, and an end that is within two standard errors of it
   gets a further d beyond, without which the interval would be open.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from analyzers.contract import Result, Trial
from analyzers.errors import Unmeasurable

FULL = 0
"""Stands for d of full training in a trial."""
RATE_STEP = math.sqrt(10)
TUNE_SEED, SCORE_SEED = 1000, 0
"""First seeds of the two purposes; they never meet."""
JUMP = 4.0
FURTHER = 3
"""At most so many d are scored on either side of the crossing for the sake of the interval."""
RATE_RANGE = 6
"""The rate is followed this many steps (three decades) from where the task begins, no further."""
PLATEAU_RATES = 3
"""Where nothing is learned, so many rates on either side of the usual one are tried."""
PLATEAU_SHARE = 0.25
LEAST_LEARNED, KNOWN = 0.1, 0.25
"""Of accuracy, above chance: by training, and by a checkpoint that knows the task before."""

Phase = Literal["tune", "score"]
Target = tuple[Literal["local", "global"], float]


@dataclass(frozen=True)
class SearchPlan:
    """How a search is carried out. `targets`: the thresholds whose crossing is refined. `resolution`: the greatest
    ratio of a bracket's ends. `d_max`: 0 for D. `budgets` beyond 1 repeat baseline and bracket with that many times
    the steps."""

    targets: tuple[Target, ...] = (("local", 0.9),)
    resolution: float = 1.5
    seeds: int = 5
    baseline_seeds: int = 3
    tune_seeds: int = 1
    d_max: int = 0
    budgets: tuple[int, ...] = (1,)


@dataclass
class Finished:
    """The finished trials in the form the search and the derivation ask for. d is `FULL` for the baseline.

    `tuned`: d → rate step → (tune seeds, K + 1) curves on the tuning split. `scored`: (d, budget) → seed → Result.
    """

    tuned: dict[int, dict[int, list[np.ndarray]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    scored: dict[tuple[int, int], dict[int, Result]] = field(default_factory=lambda: defaultdict(dict))
    first: Result | None = None
    reasons: list[str] = field(default_factory=list)
    n_scales: int = 0

    @staticmethod
    def of(results: Iterable[tuple[Trial, Result | Unmeasurable]], said: bool = False) -> Finished:
        """Sorted by purpose. With `said` the layers' λ count as dimensions."""
        found = Finished()
        for trial, result in results:
            if isinstance(result, Unmeasurable):
                found.reasons.append(str(result))
                continue
            found.first = found.first or result
            if said:  # results of older versions tell the layers only where d was below D
                found.n_scales = max(found.n_scales, int(result.get("n_layers", result["n_scales"])))
            d = int(trial["d"])
            if trial["phase"] == "tune":
                found.tuned[d][int(trial["rate"])].append(np.asarray(result["tune"]))
            else:
                found.scored[d, int(trial["budget"])][int(trial["seed"])] = result
        return found

    @property
    def n_full(self) -> int:
        """D, the number of trained parameters."""
        assert self.first is not None
        return int(self.first["n_parameters"])

    def lr(self, rate: int) -> float:
        """The learning rate that a rate step stands for."""
        assert self.first is not None
        return float(self.first["base_lr"]) * RATE_STEP**rate

    @property
    def d_min(self) -> int:
        """The least d there can be: 1, and with SAID one more than the layers."""
        return 1 + self.n_scales

    def best(self, d: int) -> tuple[int, int, float]:
        """(rate step, index of the stop, mean tuning score there) of a tuned d; a diverged curve counts as worst."""
        found = (0, 0, -math.inf)
        for rate, curves in sorted(self.tuned[d].items(), key=lambda pair: abs(pair[0])):
            mean = np.where(np.isnan(curves), -np.inf, curves).mean(axis=0)
            stop = 1 + int(np.argmax(mean[1:])) if mean.size > 1 else 0
            if mean[stop] > found[2] or (found[1] == 0 and found[2] == -math.inf):
                found = (rate, stop, float(mean[stop]))
        return found

    def initial(self, split: Literal["tune", "score"] = "tune") -> float:
        """The mean score before any training, over the baseline's trials."""
        if split == "tune":
            curves = [curve for of_rate in self.tuned[FULL].values() for curve in of_rate]
            return float(np.mean([curve[0] for curve in curves]))
        scores = [float(r["score"][0]) for r in self.scored[FULL, 1].values()]
        return float(np.mean(scores)) if scores else self.initial("tune")

    def at_stop(self, d: int, budget: int = 1, split: Phase = "score") -> np.ndarray:
        """(seeds,) scores of the scored trials, on either split, at the stop that tuning chose; a diverged one has its
        initial score."""
        stop = self.best(d)[1]
        scores = []
        for _, result in sorted(self.scored[d, budget].items()):
            curve = np.asarray(result[split], dtype=float)
            scores.append(curve[stop] if np.isfinite(curve[stop]) else curve[0])
        return np.array(scores)

    def scored_at(self, budget: int = 1) -> list[int]:
        """The d with scored trials of a budget, ascending, without the baseline."""
        return sorted(d for (d, b), of_seed in self.scored.items() if d != FULL and b == budget and of_seed)

    def threshold(self, target: Target, split: Phase, budget: int = 1) -> float:
        """What a score must reach."""
        assert self.first is not None
        kind, level = target
        if kind == "global":
            return level * float(self.first["reference"])
        full = self.best(FULL)[2] if split == "tune" else float(self.at_stop(FULL, budget).mean())
        if bool(self.first["is_loss"]):
            start = self.initial(split)
            return start + level * (full - start)
        return level * full


def usual_trials(plan: SearchPlan) -> int:
    """About how many trials a search takes: four rates of the baseline; for each target twelve of the first d, the ends
    and between, and four d scored; a doubled budget repeats what was scored of a bracket."""
    tuned = plan.tune_seeds * (4 + 12 * len(plan.targets))
    again = (len(plan.budgets) - 1) * (plan.baseline_seeds + 2 * plan.seeds * len(plan.targets))
    return tuned + plan.baseline_seeds + 4 * plan.seeds * len(plan.targets) + again


def propose(
    results: Sequence[tuple[Trial, Result | Unmeasurable]], plan: SearchPlan, said: bool = False
) -> list[Trial]:
    """The trials of the next round; empty when every target is bracketed or known to be out of reach."""
    found = Finished.of(results, said)
    if found.first is None:
        return [] if found.reasons else _tune(FULL, (-1, 0, 1), plan)
    if found.reasons:
        return []  # what a checkpoint lacks for one trial it lacks for all
    if more := _tuning(found, FULL, plan):
        return more
    if not math.isfinite(found.best(FULL)[2]):
        return []  # full training diverges at every rate: there is nothing to compare with
    wanted: dict[str, Trial] = {}
    _add(wanted, _scoring(found, FULL, plan.baseline_seeds, 1))
    finished = True
    for target in _targets(found, plan):
        more = _towards(found, target, plan)
        finished &= not more
        _add(wanted, more)
    if finished and not wanted:
        for budget in plan.budgets:
            if budget == 1:
                continue
            _add(wanted, _scoring(found, FULL, plan.baseline_seeds, budget))
            for target in _targets(found, plan):
                for d in bracket(found, target):
                    _add(wanted, _scoring(found, d, plan.seeds, budget))
    return list(wanted.values())


def bracket(found: Finished, target: Target) -> tuple[int, ...]:
    """The scored d next to the threshold's crossing: (below, reached), or one of them where it was censored."""
    threshold = found.threshold(target, "score")
    means = {d: float(found.at_stop(d).mean()) for d in found.scored_at()}
    reached = [d for d, mean in means.items() if mean >= threshold]
    if not reached:
        return tuple(sorted(means)[-1:])
    high = min(reached)
    below = [d for d in means if d < high]
    return (*sorted(below)[-1:], high)


def _targets(found: Finished, plan: SearchPlan) -> list[Target]:
    assert found.first is not None
    has_reference = math.isfinite(float(found.first["reference"]))
    return [target for target in plan.targets if target[0] == "local" or has_reference]


def _towards(found: Finished, target: Target, plan: SearchPlan) -> list[Trial]:
    """The next trials for one threshold."""
    d_min = found.d_min
    d_max = min(plan.d_max or found.n_full, found.n_full)
    if d_min > d_max:
        return []
    threshold = found.threshold(target, "tune")
    ready = len(found.scored[FULL, 1]) >= plan.baseline_seeds
    if found.initial("score") >= found.threshold(target, "score") if ready else found.initial() >= threshold:
        return []  # reached before any training, so that d_int is 0; or that waits for the baseline's fresh seeds
    scored = _reached(found, target, plan)
    if scored:
        further = _next(scored, 0, (d_min, d_max), plan.resolution, plan.resolution)
        if not isinstance(further, int):
            beyond = _beyond(found, target, further, (d_min, d_max), plan)
            return [] if beyond is None else _tuning(found, beyond, plan) or _scoring(found, beyond, plan.seeds, 1)
    explored = {d: found.best(d)[2] >= threshold for d in found.tuned if d != FULL}
    if len(explored) == 1 and (more := _tuning(found, next(iter(explored)), plan)):
        return more  # the other d begin from its rate
    start = min(max(round(math.sqrt(found.n_full)), d_min), d_max)
    ends = _next(explored, start, (d_min, d_max), JUMP, plan.resolution)
    if isinstance(ends, int):
        first = not explored
        near = _nearest_rate(found, ends)
        return _tune(ends, (near - 1, near, near + 1) if first else (near,), plan)
    tuning = [trial for d in ends for trial in _tuning(found, d, plan)]
    if tuning:
        return tuning
    for d in ends:
        if d not in scored:
            return [trial for d in ends for trial in _scoring(found, d, plan.seeds, 1)]
    further = _next(scored, ends[0], (d_min, d_max), plan.resolution, plan.resolution)
    if not isinstance(further, int):
        return []
    return _tuning(found, further, plan) or _scoring(found, further, plan.seeds, 1)


def _beyond(
    found: Finished, target: Target, ends: tuple[int, ...], bounds: tuple[int, int], plan: SearchPlan
) -> int | None:
    """A d outside the bracket, where one of its ends is too near the threshold to tell, and nothing beyond tells."""
    threshold = found.threshold(target, "score")
    each = {d: found.at_stop(d) for d in found.scored_at() if len(found.scored[d, 1]) >= plan.seeds}
    spread = np.concatenate([(v - v.mean()) * math.sqrt(len(v) / max(1, len(v) - 1)) for v in each.values()])
    baseline = found.at_stop(FULL)
    own = float(baseline.std(ddof=1)) if len(baseline) > 1 else 0.0
    margin = 2 * math.sqrt(float((spread**2).mean()) / plan.seeds + own**2 / max(1, len(baseline)))
    low, high = ends[0], ends[-1]
    means = {d: float(v.mean()) for d, v in each.items()}
    reaches = means[high] >= threshold
    above, under = [d for d in means if d >= high], [d for d in means if d <= low]
    if reaches and len(above) < FURTHER and not any(means[d] - margin >= threshold for d in above):
        top = max(means)
        return min(max(round(top * plan.resolution), top + 1), bounds[1]) if top < bounds[1] else None
    if len(under) < FURTHER and not any(means[d] + margin < threshold for d in under):
        bottom = min(means)
        return max(min(round(bottom / plan.resolution), bottom - 1), bounds[0]) if bottom > bounds[0] else None
    return None


def _next(
    reached: Mapping[int, bool], start: int, bounds: tuple[int, int], jump: float, resolution: float
) -> int | tuple[int, ...]:
    """The next d to look at, or the ends of the bracket when it is narrow enough or censored.

    The bracket is the least d that reached the threshold and the greatest below it that was looked at.
    """
    d_min, d_max = bounds
    if not reached:
        return start
    yes = [d for d, ok in reached.items() if ok]
    if not yes:
        top = max(reached)
        return (top,) if top >= d_max else min(max(round(top * jump), top + 1), d_max)
    high = min(yes)
    below = [d for d in reached if d < high]
    if not below:
        return (high,) if high <= d_min else max(min(round(high / jump), high - 1), d_min)
    low = max(below)
    if high / low <= resolution or high - low <= 1:
        return (low, high)
    middle = round(math.sqrt(low * high))
    return min(max(middle, low + 1), high - 1)


def _reached(found: Finished, target: Target, plan: SearchPlan) -> dict[int, bool]:
    """Whether the mean score of each completely scored d reached the threshold."""
    if len(found.scored[FULL, 1]) < plan.baseline_seeds:
        return {}
    threshold = found.threshold(target, "score")
    complete = [d for d in found.scored_at() if len(found.scored[d, 1]) >= plan.seeds]
    return {d: float(found.at_stop(d).mean()) >= threshold for d in complete}


def _tuning(found: Finished, d: int, plan: SearchPlan) -> list[Trial]:
    """Rates still to be tried at d: the best one's neighbours, until the best lies between two."""
    tried = sorted(found.tuned[d]) if d in found.tuned else []
    if not tried:
        near = _nearest_rate(found, d)
        return _tune(d, (near - 1, near, near + 1), plan)
    best, _, score = found.best(d)
    if math.isfinite(score) and not _learns(found, d, score):
        # On a plateau the best rate is that of the noise: all about the usual one are tried before it is believed.
        centre = 0 if d == FULL else found.best(FULL)[0]
        across = range(max(centre - PLATEAU_RATES, -RATE_RANGE), min(centre + PLATEAU_RATES, RATE_RANGE) + 1)
        if missing := [rate for rate in across if rate not in tried]:
            return _tune(d, missing, plan)
    if not math.isfinite(score):
        best = min(tried)
    around = [rate for rate in (best - 1, best + 1) if rate not in tried and abs(rate) <= RATE_RANGE]
    if not math.isfinite(score):
        around = [rate for rate in around if rate < best]
    return _tune(d, around, plan)


def _learns(found: Finished, d: int, score: float) -> bool:
    """Whether the best rate gets off the ground: a quarter of what full training learns, and that above chance."""
    assert found.first is not None
    start, chance = found.initial(), float(found.first["chance"])
    if d == FULL:
        # A few tuning examples can be named right before training. Of a loss there is no chance level.
        floor = chance if start > chance + KNOWN else max(chance, start)
        return not score < floor + LEAST_LEARNED
    full = found.best(FULL)[2]
    return score - start >= PLATEAU_SHARE * (full - start) or full <= start


def _nearest_rate(found: Finished, d: int) -> int:
    """The best rate of the nearest d (in log d) that was tuned between neighbours; where there is none, the
    baseline's."""
    known = [one for one in found.tuned if one != FULL and len(found.tuned[one]) > 1]
    if not known:
        return found.best(FULL)[0] if found.tuned.get(FULL) else 0
    return found.best(min(known, key=lambda one: abs(math.log(one / d))))[0]


def _tune(d: int, rates: Iterable[int], plan: SearchPlan) -> list[Trial]:
    return [
        {"phase": "tune", "d": d, "seed": TUNE_SEED + i, "rate": rate, "budget": 1}
        for rate in rates
        for i in range(plan.tune_seeds)
    ]


def _scoring(found: Finished, d: int, seeds: int, budget: int) -> list[Trial]:
    rate = found.best(d)[0]
    there = found.scored.get((d, budget), {})
    return [
        {"phase": "score", "d": d, "seed": SCORE_SEED + i, "rate": rate, "budget": budget}
        for i in range(seeds)
        if SCORE_SEED + i not in there
    ]


def _add(wanted: dict[str, Trial], trials: Iterable[Trial]) -> None:
    for trial in trials:
        wanted.setdefault(str(sorted(trial.items())), trial)
