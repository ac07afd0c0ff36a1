"""Intruder counts and their controls, summed over the matrices of each run."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from analyzers.intruder_dimensions.max_t import ALPHA, DIRECTIONS, holm
from pipeline.report import groups
from pipeline.report.blocks import number
from pipeline.report.compare import prefer

NODE = "intruder_dimensions"
NAMES = {
    "count": "n_intruders",
    "count_low": "n_intruders_low",
    "count_high": "n_intruders_high",
    "null": "n_intruders_null",
    "null_sum": "total_intruders_null",
    "null_low": "total_intruders_null_low",
    "null_high": "total_intruders_null_high",
    "matched": "n_intruders_matched",
}
"""Quantity → variable of the node."""
_TESTED = ("p", "p_low", "p_high", "p_sure", "draws", "tested")
NORMS = {"frobenius": "‖Δ‖_F", "spectral": "‖Δ‖₂"}


@dataclass(frozen=True)
class SweepTest:
    """The test of one run's totals over its whole sweep, at its last step. Of each direction (more, fewer):

    `p` with its Monte-Carlo interval `low` … `high`, `corrected` over the report's runs and both directions, and
    `sure`, the same with all undetermined scores counted against the direction. `draws` of the null; `tested` matrices.
    """

    p: np.ndarray
    low: np.ndarray
    high: np.ndarray
    corrected: np.ndarray
    sure: np.ndarray
    draws: int
    tested: int

    def verdict(self) -> str:
        """In words, with the p that they rest on: of the direction that is found, else of the smaller p."""
        direction = int(np.argmin(self.corrected + 1e-9 * self.p))
        p, low, high, corrected = (_p(a[direction]) for a in (self.p, self.low, self.high, self.corrected))
        word = DIRECTIONS[direction]
        numbers = f"p = {p} for {word} ({low} to {high}, {self.draws} draws), corrected {corrected}"
        if self.corrected[direction] > ALPHA:
            return f"not distinguishable from chance: {numbers}"
        doubt = "" if self.sure[direction] <= ALPHA else ", unless rounding decides the undetermined ones"
        return f"{word} than chance{doubt}: {numbers}"


@dataclass(frozen=True)
class Matched:
    """Sums over a run's matrices at the norm common to the runs, and those of its null (NaN: none)."""

    norm: str
    count: float
    null: float
    low: float
    high: float

    def chance(self) -> str:
        """The null's mean and 95 % interval; empty where there is none."""
        return f"{number(self.null)} ({number(self.low)} to {number(self.high)})" if self.null >= 0 else ""


@dataclass(frozen=True)
class Totals:
    """Sums over one run's matrices along x (steps, or thresholds ε); NaN where a control was not measured.

    `count_low`, `count_high`: without and with the scores that rounding leaves undetermined. `null`: mean of updates
    with random directions, `null_low` and `null_high` the 95 % interval of their sum over matrices, draw by draw.
    `matched`: at the common norm, at the last step only. `excess`: count − null over the matrices that have both.
    `matrices`: how many have a count; `matched_matrices`: how many a matched one. `test`: of the sweep at the last
    step. `at_common_norm`: the sums at the norms common to the runs, Frobenius and spectral, with their nulls.
    """

    run: str
    x: np.ndarray
    step: int
    count: np.ndarray
    count_low: np.ndarray
    count_high: np.ndarray
    null: np.ndarray
    null_low: np.ndarray
    null_high: np.ndarray
    matched: np.ndarray
    excess: np.ndarray
    matrices: int = 0
    matched_matrices: int = 0
    test: SweepTest | None = None
    at_common_norm: tuple[Matched, ...] = ()

    def verdict(self) -> str:
        """How the counts at the last step stand to the null over all sides, k and ε, in words."""
        if np.isnan(self.null[-1]):
            return "no null computed"
        if self.test is None:
            return "no verdict: the report has no test of the sweep"
        if self.test.tested < self.matrices:
            absent = self.matrices - self.test.tested
            return f"no verdict: {absent} of {self.matrices} matrices have no null"
        return self.test.verdict()


def has_counts(tree: xr.DataTree) -> bool:
    """Whether the report has intruder counts over runs, steps and matrices."""
    return bool(_counted(tree))


def _counted(tree: xr.DataTree) -> list[xr.Dataset]:
    """The datasets of groups of runs with counts over runs, steps and matrices."""
    having = (dataset for dataset in groups.datasets(tree, NODE) if "n_intruders" in dataset)
    return [dataset for dataset in having if {"run", "step", "matrix"} <= set(dataset["n_intruders"].dims)]


def over_steps(tree: xr.DataTree) -> tuple[list[Totals], str]:
    """Each run's totals at each of its steps, at the preferred side, k and ε; and which these are."""
    return _totals(tree, "step")


def over_epsilon(tree: xr.DataTree) -> tuple[list[Totals], str]:
    """Each run's totals at its last measured step for every ε, at the preferred side and k; none without a sweep."""
    return _totals(tree, "epsilon")


def _totals(tree: xr.DataTree, along: str) -> tuple[list[Totals], str]:
    of_groups = [_totals_of(dataset, along) for dataset in _counted(tree)]
    labels = [label for totals, label in of_groups if totals]
    return _corrected([one for totals, _ in of_groups for one in totals]), labels[0] if labels else ""


def _corrected(totals: list[Totals]) -> list[Totals]:
    """With every p corrected over all runs of the report, those of other groups included, and both directions."""
    tests = [of_run.test for of_run in totals if of_run.test is not None]
    if not tests:
        return totals
    pairs = zip(holm(np.stack([test.p for test in tests])), holm(np.stack([test.sure for test in tests])), strict=True)
    corrected = iter([replace(test, corrected=p, sure=sure) for test, (p, sure) in zip(tests, pairs, strict=True)])
    return [of_run if of_run.test is None else replace(of_run, test=next(corrected)) for of_run in totals]


def _totals_of(dataset: xr.Dataset, along: str) -> tuple[list[Totals], str]:
    if along not in dataset["n_intruders"].dims:
        return [], ""
    label, arrays = "", {}
    for field, name in NAMES.items():
        array = dataset.get(name)
        if array is None:
            continue
        if "matrix" not in array.dims:
            array = array.expand_dims("matrix")  # a sum already
        shown = []
        for dim in [d for d in ("side", "k", "epsilon", "matched_to") if d != along and d in array.dims]:
            array, part = prefer(array, dim)
            shown.append(part)
        further = [d for d in array.dims if d not in ("run", "step", "matrix", along)]
        arrays[field] = array.isel(dict.fromkeys(further, 0)).load()
        if field == "count":
            label = ", ".join(shown)
    runs = [str(r) for r in arrays["count"]["run"].values]
    listed = (_of_run(dataset, arrays, i, run, along) for i, run in enumerate(runs))
    return [totals for totals in listed if totals is not None], label


def _of_run(dataset: xr.Dataset, arrays: dict[str, xr.DataArray], index: int, run: str, along: str) -> Totals | None:
    count = arrays["count"].isel(run=index)
    measured = np.flatnonzero(count.notnull().any([d for d in count.dims if d != "step"]).values)
    if not measured.size:
        return None
    chosen = measured if along == "step" else measured[-1:]
    x = np.asarray(count["step"].values)[chosen] if along == "step" else np.asarray(count["epsilon"].values)
    tables = {field: _table(array.isel(run=index), chosen, along, x.size) for field, array in arrays.items()}
    absent = np.full((x.size, 1), np.nan)
    mean = tables.get("null", absent)
    low, high = (_sum(tables.get(field, absent)) for field in ("null_low", "null_high"))
    null = _sum(tables["null_sum"]) if "null_sum" in tables else _sum(mean)
    return Totals(
        run,
        x,
        int(count["step"].values[measured[-1]]),
        _sum(tables["count"]),
        _sum(tables.get("count_low", absent)),
        _sum(tables.get("count_high", absent)),
        null,
        low,
        high,
        _sum(tables.get("matched", absent)),
        _sum(tables["count"] - mean),
        int(np.isfinite(tables["count"]).any(axis=0).sum()),
        int(np.isfinite(tables.get("matched", absent)).any(axis=0).sum()),
        _test(dataset, index),
        _matched(dataset, index),
    )


def _test(dataset: xr.Dataset, run: int) -> SweepTest | None:
    """Not corrected yet; None where the report has no p of the run."""
    if "total_intruders_p" not in dataset or dataset["total_intruders_p"].isel(run=run).isnull().any():
        return None
    of_run = {ending: dataset[f"total_intruders_{ending}"].isel(run=run).values for ending in _TESTED}
    p, low, high, sure, draws, tested = (of_run[ending] for ending in _TESTED)
    return SweepTest(p, low, high, p, sure, int(draws), int(tested))


def _matched(dataset: xr.Dataset, run: int) -> tuple[Matched, ...]:
    """At the preferred side, k and ε; empty where nothing was matched."""
    if "total_matched" not in dataset:
        return ()
    names = ("total_matched", *(f"total_matched_null{end}" for end in ("", "_low", "_high")))
    chosen = [dataset[name].isel(run=run) for name in names]
    for dim in ("side", "k", "epsilon"):
        chosen = [prefer(array, dim)[0] if dim in array.dims else array for array in chosen]
    rows = zip(chosen[0]["norm"].values, *(array.values for array in chosen), strict=True)
    return tuple(Matched(NORMS[str(norm)], *map(float, row)) for norm, *row in rows if np.isfinite(row[0]))


def _p(value: float) -> str:
    """A p or an end of its interval: two figures, and never 0 or 1 by rounding."""
    return f"{value:.2g}" if value < 0.995 else f"{value:.3g}"


def _table(array: xr.DataArray, steps: np.ndarray, along: str, length: int) -> np.ndarray:
    """(x, matrix). What has no step is known at the last one only."""
    if along == "epsilon":
        one = array.isel(step=int(steps[0])) if "step" in array.dims else array
        return np.asarray(one.transpose("epsilon", "matrix").values, dtype=float)
    if "step" in array.dims:
        return np.asarray(array.isel(step=steps).transpose("step", "matrix").values, dtype=float)
    last = np.full((length, array.sizes["matrix"]), np.nan)
    last[-1] = array.values
    return last


def _sum(table: np.ndarray) -> np.ndarray:
    """Over matrices, leaving NaN out; NaN where there is nothing else."""
    return np.where(np.isnan(table).all(axis=1), np.nan, np.nansum(table, axis=1))
