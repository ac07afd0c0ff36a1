"""What the training logged: losses and scores stand open; speed, cost and schedules are folded away."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Literal

import xarray as xr

from pipeline.report.blocks import Block, Details, Section, gallery, several
from pipeline.report.compare import KeyVariable
from pipeline.report.figures import Image
from pipeline.report.logged import NODE, Logged
from pipeline.report.look import Look
from pipeline.report.plots import curves

Sort = Literal["result", "cost", "other"]
RESULT = re.compile(
    r"loss(es)?|acc(uracy)?|f1|precision|recall|auc|auroc|mcc|matthews|bleu|rouge[0-9l]*|perplexity|ppl|rewards?|returns?|"
    r"scores?|errors?|nll|bp[bc]|[cw]er|r?mse|mae|r2|m?iou|dice|correlation|pearson|spearmanr?|exact|ndcg|elo|top[0-9]+"
)
"""A word in a metric's name that says how good a model is."""
SPLIT = re.compile(r"eval|evaluation|val|valid|validation|test|dev")
COST = re.compile(
    r"runtime|time|seconds?|secs?|minutes|hours|ms|wall|walltime|elapsed|duration|latency|throughput|speed|[fst]ps|"
    r"t?flo[p]?s|mfu|memory|mem|vram|gpu|cpu|ram|bytes|[gm]i?b|allocated|reserved|utili[sz]ation|power|energy"
)
"""A word in a metric's name that says what a training took."""


def sort_of(name: str) -> Sort:
    """Whether a logged number says how good the model is, what the training took, or neither (a learning rate).

    The last word counts first: "energy_loss" is a loss, "eval_samples_per_second" a speed."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).lower()
    words = re.findall(r"[a-z]+[0-9]*", spaced)
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
    for name in logged.positions:
        names[sort_of(logged.long_name(name))].append(name)
    drawn = {sort: _figures(logged, of_sort, look) for sort, of_sort in names.items()}
    blocks: tuple[Block, ...] = gallery(list(islice(drawn["result"], shown)))
    further = list(islice(chain(drawn["result"], drawn["other"]), 2 * shown))
    left = max(0, len(names["result"]) - shown) + len(names["other"])
    blocks += _folded(further, left, "further metric", "")
    blocks += _folded(list(islice(drawn["cost"], shown)), len(names["cost"]), "metric", " of speed and cost")
    return Section("metrics", "Loss and metrics of the runs", blocks)


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
