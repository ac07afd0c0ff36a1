"""What the training logged: losses and scores stand open; speed, cost and schedules are folded away. A metric with one
value in each run is a row of a table, not a figure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Literal

import xarray as xr

from pipeline.archive.metric_words import RESULT, words_of
from pipeline.report.blocks import Block, Details, Section, from_rows, gallery, several
from pipeline.report.compare import KeyVariable
from pipeline.report.figures import Image
from pipeline.report.logged import NODE, Logged
from pipeline.report.look import Look
from pipeline.report.plots import curves

Sort = Literal["result", "cost", "other"]
SPLIT = re.compile(r"eval|evaluation|val|valid|validation|test|dev")
COST = re.compile(
    r"runtime|time|seconds?|secs?|minutes|hours|ms|wall|walltime|elapsed|duration|latency|throughput|speed|[fst]ps|"
    r"t?flo[p]?s|mfu|memory|mem|vram|gpu|cpu|ram|bytes|[gm]i?b|allocated|reserved|utili[sz]ation|power|energy"
)
"""A word in a metric's name that says what a training took."""
ROWS = 40
"""Rows of a table of single values."""


def sort_of(name: str) -> Sort:
    """Whether a logged number says how good the model is, what the training took, or neither (a learning rate).

    The last word counts first: "energy_loss" is a loss, "eval_samples_per_second" a speed."""
    words = words_of(name)
    if words and RESULT.fullmatch(words[-1]):
        return "result"
    if any(COST.fullmatch(word) for word in words) or name.endswith("/s"):
        return "cost"
    return "result" if any(RESULT.fullmatch(word) or SPLIT.fullmatch(word) for word in words) else "other"


def metrics_section(tree: xr.DataTree, look: Look, shown: int) -> Section | None:
    """At most `shown` results open; None where nothing was logged. No more figures are drawn than the page shows."""
    logged = Logged.of(tree)
    if not logged.positions:
        return None
    names: dict[Sort, list[str]] = {"result": [], "other": [], "cost": []}
    once: dict[Sort, list[str]] = {"result": [], "other": [], "cost": []}
    for name in logged.positions:
        if most := _most_steps(logged[name]):
            (names if most > 1 else once)[sort_of(logged.long_name(name))].append(name)
    drawn = {sort: _figures(logged, of_sort, look) for sort, of_sort in names.items()}
    blocks: tuple[Block, ...] = gallery(list(islice(drawn["result"], shown)))
    blocks += _values(logged, once["result"], look)
    further = list(islice(chain(drawn["result"], drawn["other"]), 2 * shown))
    left = max(0, len(names["result"]) - shown) + len(names["other"])
    blocks += _folded(further, left, "further metric", "")
    blocks += _folded(list(islice(drawn["cost"], shown)), len(names["cost"]), "metric", " of speed and cost")
    if rest := _values(logged, [*once["other"], *once["cost"]], look):
        blocks += (Details(several(len(once["other"]) + len(once["cost"]), "metric") + " logged once", rest),)
    return Section("metrics", "Loss and metrics of the runs", blocks)


def _most_steps(values: xr.DataArray) -> int:
    """The most steps at which a run has the metric; with one there is no curve to draw."""
    return max(values.notnull().sum("step").values.tolist(), default=0)


def _values(logged: Logged, names: Sequence[str], look: Look) -> tuple[Block, ...]:
    """A table of metrics that each run logged once, such as the mean loss of the whole training."""
    rows = [
        {"metric": logged.long_name(name), "run": str(run), "step": step, "value": value}
        for name in names
        for run, of_run in zip(logged[name]["run"].values, logged[name].values, strict=True)
        for step, value in zip(logged[name]["step"].values.tolist(), of_run.tolist(), strict=True)
        if value == value
    ]
    if not rows:
        return ()
    columns = {"metric": "metric", "run": "run", "step": look.steps.word, "value": "value"}
    return (from_rows("Logged once in each run.", rows, columns, ROWS),)


def _folded(images: Sequence[Image], total: int, noun: str, about: str) -> tuple[Block, ...]:
    """Figures behind a click, which says of how many metrics they are where not all are drawn."""
    if not images:
        return ()
    if len(images) == total:
        return (Details(several(total, noun) + about, gallery(images)),)
    summary = f"{len(images)} of {several(total, noun)}{about}; report.zarr has all"
    return (Details(summary, gallery(images)),)


def _figures(logged: Logged, names: Iterable[str], look: Look) -> Iterator[Image]:
    """A figure of each metric that has a value, drawn when it is asked for."""
    for name in names:
        image = curves(KeyVariable(NODE, name, logged.long_name(name), "1", False, logged[name]), look)
        if image is not None:
            yield image
