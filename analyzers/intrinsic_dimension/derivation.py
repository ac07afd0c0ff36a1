"""Stored trials → the landscape's arrays: curves, thresholds, crossings with their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analyzers.contract import View
from analyzers.intrinsic_dimension.budget import at_greatest_budget, changes
from analyzers.intrinsic_dimension.crossing import ScoreCurve
from analyzers.intrinsic_dimension.doubts import doubts
from analyzers.intrinsic_dimension.landscape import Landscape
from analyzers.intrinsic_dimension.search import FULL, Finished, Target
from analyzers.intrinsic_dimension.tuning import spread_by_tuning
from analyzers.linalg.hashing import stable_seed

THRESHOLDS = ("local", "local_corrected", "run", "run_corrected", "global")
"""Fractions of this checkpoint's baseline, of the run's best one, and of the task's reference; `corrected`: of what
lies above chance (above no training, for a loss)."""
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Cell:
    """One checkpoint × task × method: what its finished trials say. `curve` is None until the baseline is scored;
    `diverged_lr`: the least rate at which one diverged. `complete`: the search has ended."""

    found: Finished
    curve: ScoreCurve | None
    n_trials: int
    n_diverged: int
    diverged_lr: float
    complete: bool


def label(statistic: Landscape) -> str:
    """How the report names a method: "did one_hot", "said fastfood, shuffled_labels"."""
    named = f"{'said' if statistic.said else 'did'} {statistic.method}"
    if statistic.lora_rank:
        named += f" of lora r{statistic.lora_rank}"
    return named if statistic.control == "none" else f"{named}, {statistic.control}"


def cells(view: View, statistics: Sequence[Landscape]) -> dict[tuple[int, int, str, str], Cell]:
    """(run index, step index, task, method) → what is stored of it."""
    found: dict[tuple[int, int, str, str], Cell] = {}
    steps = {int(step): index for index, step in enumerate(view.steps)}
    for statistic in statistics:
        for r, run in enumerate(view.runs):
            if run.role == "base":
                continue
            for step in run.steps:
                trials = view.trials(statistic, run.id, step)
                if trials:
                    at = (r, steps[step], statistic.task.name, label(statistic))
                    found[at] = cell_of(statistic, trials, f"{run.id}@{step}")
    return found


def cell_of(
    statistic: Landscape, trials: Sequence[tuple[Mapping[str, object], Mapping[str, np.ndarray]]], where: str
) -> Cell:
    """The finished trials of one search, and their curve where there is enough for one. `where` seeds the bootstrap."""
    finished = Finished.of(trials, statistic.said)
    diverged = [float(result["lr"]) for _, result in trials if int(result["diverged_at"]) >= 0]
    least = min(diverged, default=float("nan"))
    curve = None
    baseline = finished.at_stop(FULL) if finished.scored.get((FULL, 1)) else np.empty(0)
    if baseline.size:
        scores = {d: finished.at_stop(d) for d in finished.scored_at()}
        scores[0] = np.array([finished.initial("score")])
        curve = ScoreCurve(
            scores,
            baseline,
            stable_seed(where),
            tuning=spread_by_tuning(finished, finished.scored_at()),
            baseline_tuning=spread_by_tuning(finished, [FULL]),
        )
    return Cell(finished, curve, len(trials), len(diverged), least, not statistic.propose(trials))


def of_landscape(
    view: View,
    found: Mapping[tuple[int, int, str, str], Cell],
    tasks: Sequence[str],
    methods: Sequence[str],
    levels: Sequence[float],
) -> tuple[Arrays, np.ndarray]:
    """All arrays, and the d that occur, ascending (0: no training)."""
    every = {int(d) for cell in found.values() for d in cell.found.tuned if d != FULL}
    every |= {int(d) for cell in found.values() if cell.curve is not None for d in cell.curve.d}
    d = np.array(sorted(every), dtype=np.int64)
    grid = (len(view.runs), len(view.steps), len(tasks), len(methods))
    crossing = (*grid, len(THRESHOLDS), len(levels))
    arrays: Arrays = {
        **{n: np.full(crossing, np.nan) for n in ("d_int", "d_int_low", "d_int_high", "censored", "d_int_limit")},
        "d_int_flag": np.full(crossing, np.nan),
        **{n: np.full(crossing, np.nan) for n in ("threshold_score", "budget_changes", "d_int_doubled")},
        **{n: np.full((*grid, len(d)), np.nan) for n in ("score", "score_low", "score_high")},
        **{n: np.full((*grid, len(d)), np.nan) for n in ("tune_score", "learning_rate", "n_seeds")},
        **{n: np.full(grid, np.nan) for n in ("baseline_score", "baseline_low", "baseline_high", "initial_score")},
        **{n: np.full(grid, np.nan) for n in ("chance_score", "n_trained", "n_fresh", "n_trials", "n_diverged")},
        "diverged_lr": np.full(grid, np.nan),
    }
    best = _best_of_run(found)
    for (r, s, task, method), cell in found.items():
        at = (r, s, tasks.index(task), methods.index(method))
        _fill_cell(arrays, at, cell, d)
        if cell.curve is None:
            continue
        for i, threshold in enumerate(THRESHOLDS):
            for j, level in enumerate(levels):
                _fill_crossing(arrays, (*at, i, j), cell, threshold, level, best[r, task, method])
    return arrays, d


def _best_of_run(found: Mapping[tuple[int, int, str, str], Cell]) -> dict[tuple[int, str, str], ScoreCurve]:
    best: dict[tuple[int, str, str], ScoreCurve] = {}
    for (r, _, task, method), cell in found.items():
        if cell.curve is not None:
            known = best.get((r, task, method))
            if known is None or cell.curve.baseline > known.baseline:
                best[r, task, method] = cell.curve
    return best


def _fill_cell(arrays: Arrays, at: tuple[int, ...], cell: Cell, d: np.ndarray) -> None:
    first = cell.found.first
    assert first is not None
    arrays["n_trials"][at] = cell.n_trials
    arrays["n_diverged"][at] = cell.n_diverged
    arrays["diverged_lr"][at] = cell.diverged_lr
    arrays["n_trained"][at] = first["n_parameters"]
    arrays["n_fresh"][at] = first["n_fresh"]
    arrays["chance_score"][at] = first["chance"]
    place = {int(one): index for index, one in enumerate(d)}
    for one in cell.found.tuned:
        if one == FULL:
            continue
        rate, _, score = cell.found.best(one)
        arrays["tune_score"][(*at, place[one])] = score if np.isfinite(score) else np.nan
        arrays["learning_rate"][(*at, place[one])] = cell.found.lr(rate)
    curve = cell.curve
    if curve is None:
        return
    arrays["baseline_score"][at] = curve.baseline
    arrays["baseline_low"][at], arrays["baseline_high"][at] = np.quantile(curve.draws.baseline, (0.025, 0.975))
    arrays["initial_score"][at] = curve.means[0]
    # Drawn residuals are those of all d, and could take an accuracy beyond its ends.
    least, most = (0.0, 1.0) if np.isfinite(first["chance"]) else (-np.inf, np.inf)
    for i, one in enumerate(curve.d):
        where = (*at, place[int(one)])
        arrays["score"][where], arrays["n_seeds"][where] = curve.means[i], curve.n[i]
        arrays["score_low"][where], arrays["score_high"][where] = max(curve.low[i], least), min(curve.high[i], most)


def _fill_crossing(
    arrays: Arrays, at: tuple[int, ...], cell: Cell, threshold: str, level: float, best: ScoreCurve
) -> None:
    first, curve = cell.found.first, cell.curve
    assert first is not None and curve is not None
    kind, _, corrected = threshold.partition("_")
    is_loss = bool(first["is_loss"])
    floor = float(curve.means[0]) if is_loss else float(first["chance"]) if corrected else 0.0
    if is_loss and corrected:
        return  # a loss is measured from no training on as it is
    if kind == "global":
        reference = float(first["reference"])
        if not np.isfinite(reference):
            return
        value, drawn = level * reference, None
    else:
        of = curve if kind == "local" else best
        value, drawn = floor + level * (of.baseline - floor), floor + level * (of.draws.baseline - floor)
    arrays["threshold_score"][at] = value
    found = curve.crossing(value, drawn)
    rates = {one: cell.found.best(one)[0] for one in cell.found.scored_at() if one in cell.found.tuned}
    if not cell.found.scored_at() and found.censored == 1:
        return  # only the baseline is there yet: nothing says where the crossing is
    arrays["d_int"][at], arrays["censored"][at], arrays["d_int_limit"][at] = found.value, found.censored, found.limit
    arrays["d_int_low"][at], arrays["d_int_high"][at] = found.low, found.high
    arrays["d_int_flag"][at] = doubts(curve, value, found, cell.complete, rates, float(first["chance"]))
    if threshold in ("local", "global"):
        target: Target = ("local" if threshold == "local" else "global", level)
        doubled = at_greatest_budget(cell.found, target)
        arrays["d_int_doubled"][at] = math.nan if doubled is None else doubled
        arrays["budget_changes"][at] = changes(doubled, (found.low, found.high))
