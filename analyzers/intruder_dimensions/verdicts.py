"""From the draws of the nulls to what a report may say of sums over matrices: p, its error, its correction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from analyzers.contract import View
from analyzers.intruder_dimensions.counts import count_below, null_summary, null_sums, prediction_interval
from analyzers.intruder_dimensions.derivation import Arrays, most_possible, run_index, run_results
from analyzers.intruder_dimensions.matched_null import NORMS, IntruderMatchedNull
from analyzers.intruder_dimensions.max_t import DIRECTIONS, clopper_pearson, exceedances, holm, monte_carlo_p
from analyzers.intruder_dimensions.total_null import Sweep, TotalNull, sweep_of

if TYPE_CHECKING:
    from analyzers.intruder_dimensions.parameters import IntruderParameters


def sweeps_of(view: View, statistic: TotalNull) -> dict[int, Sweep]:
    """The draws of each run's last step, by the run's index."""
    read = {i: sweep_of(view.trials(statistic, run=run.id)) for i, run in enumerate(view.runs) if run.role == "run"}
    return {index: sweep for index, sweep in read.items() if sweep is not None}


def of_sweeps(view: View, sweeps: Mapping[int, Sweep], settings: IntruderParameters) -> Arrays:
    """The p of each run and direction, with its Monte-Carlo interval; Holm corrects over the view's runs and both."""
    grid = (len(view.runs), len(DIRECTIONS))
    table = {name: np.full(grid, np.nan) for name in ("p", "p_low", "p_high", "p_sure")}
    draws, tested = np.full(grid[0], np.nan), np.full(grid[0], np.nan)
    for run, sweep in sweeps.items():
        exceeding = sweep.exceeding(settings.ks, settings.epsilons)
        table["p"][run] = monte_carlo_p(exceeding, sweep.draws)
        table["p_low"][run], table["p_high"][run] = clopper_pearson(exceeding, sweep.draws)
        sure = sweep.exceeding(settings.ks, settings.epsilons, sure=True)
        table["p_sure"][run] = monte_carlo_p(np.maximum(sure, exceeding), sweep.draws)
        draws[run], tested[run] = sweep.draws, len(sweep.matrices)
    table["p_corrected"] = holm(table["p"])
    arrays = {f"total_intruders_{name}": values for name, values in table.items()}
    return arrays | {"total_intruders_draws": draws, "total_intruders_tested": tested}


def refine_nulls(view: View, arrays: Arrays, sweeps: Mapping[int, Sweep], settings: IntruderParameters) -> None:
    """Replaces the null's means and intervals at the last step of the runs that have further draws, in place."""
    place = {matrix: index for index, matrix in enumerate(view.matrices)}
    for run, sweep in sweeps.items():
        if sweep.draws <= settings.draws:
            continue
        step = int(np.searchsorted(view.steps, sweep.step))
        columns = np.array([place[str(matrix)] for matrix in sweep.matrices])
        by_matrix = sweep.similarity.swapaxes(0, 1)
        for end, values in zip(
            ("", "_low", "_high"), null_summary(by_matrix, settings.ks, settings.epsilons), strict=True
        ):
            arrays[f"n_intruders_null{end}"][run, step, columns] = values
        if np.isfinite(arrays["n_intruders_null"][run, step]).all(axis=(1, 2, 3)).sum() == columns.size:
            for end, values in zip(("", "_low", "_high"), _sum_interval(by_matrix, settings), strict=True):
                arrays[f"total_intruders_null{end}"][run, step] = values


def of_matched_null(
    view: View, statistic: IntruderMatchedNull, matched: Mapping[str, np.ndarray], settings: IntruderParameters
) -> Arrays:
    """The null of the counts at the runs' common norm: per matrix, summed over matrices, and the p of the sum.

    matched: scores (run, matrix, 2, k) at the geometric mean of each norm.
    """
    cells = (2, len(settings.ks), len(settings.epsilons))
    grid = (len(view.runs), len(NORMS))
    ends = ("", "_low", "_high")
    each = {end: np.full((*grid, len(view.matrices), *cells), np.nan, dtype=np.float32) for end in ends}
    stacked: dict[tuple[int, int], list[tuple[int, np.ndarray]]] = {}
    places = run_index(view)
    for matrix, result, members in run_results(view, statistic):
        for row, name in enumerate(members):
            if name not in places:
                continue  # a run of another group
            run = places[name]
            for norm in range(len(NORMS)):
                scores = result["similarity"][norm, row, : settings.draws]
                if not np.isnan(scores).all():
                    stacked.setdefault((run, norm), []).append((matrix, scores))
                    for end, values in zip(
                        ends, null_summary(scores[None], settings.ks, settings.epsilons), strict=True
                    ):
                        each[end][run, norm, matrix] = values[0]
    totals = {name: np.full((*grid, *cells), np.nan) for name in ("", *(f"_null{end}" for end in ends))}
    p = np.full((*grid, len(DIRECTIONS)), np.nan)
    tested = np.full(grid, np.nan)
    for (run, norm), rows in stacked.items():
        own = matched[NORMS[norm]][run, [matrix for matrix, _ in rows]]
        by_matrix = np.stack([scores for _, scores in rows])
        count = count_below(own, settings.ks, settings.epsilons).sum(axis=0, dtype=np.float64)
        totals[""][run, norm] = count
        tested[run, norm] = len(rows)
        for end, values in zip(ends, _sum_interval(by_matrix, settings), strict=True):
            totals[f"_null{end}"][run, norm] = values
        draws = _sums(by_matrix, settings)
        exceeding = exceedances(np.stack([count.ravel()] * 2), draws.reshape(len(draws), -1))
        p[run, norm] = monte_carlo_p(exceeding, len(draws))
    arrays = {f"n_intruders_matched_null{end}": values for end, values in each.items()}
    return (
        arrays
        | {f"total_matched{name}": values for name, values in totals.items()}
        | {"total_matched_p": p}
        | {"total_matched_tested": tested}
    )


def _sums(by_matrix: np.ndarray, settings: IntruderParameters) -> np.ndarray:
    """(draws, 2, ks, epsilons): counts of each draw added over matrices."""
    return null_sums(by_matrix, np.zeros(len(by_matrix), dtype=np.int64), 1, settings.ks, settings.epsilons)[0]


def _sum_interval(by_matrix: np.ndarray, settings: IntruderParameters) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and 95 % interval of the sum over matrices, no higher than the number of scores."""
    mean, low, high = prediction_interval(_sums(by_matrix, settings)[None])
    most = _sums(most_possible(by_matrix), settings)[0]
    return mean[0], low[0], np.minimum(high[0], most)
