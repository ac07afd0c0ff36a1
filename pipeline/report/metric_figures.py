"""What the training logged: losses and scores stand open; speed, cost and schedules are folded away."""

from __future__ import annotations

import re
from typing import Literal

import xarray as xr

from pipeline.report.blocks import Block, Details, Section, gallery, several
from pipeline.report.compare import KeyVariable
from pipeline.report.figures import Image
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
    """At most `shown` results open; None where nothing was logged."""
    if "metrics" not in tree.children:
        return None
    drawn: dict[Sort, list[Image]] = {"result": [], "other": [], "cost": []}
    for name, array in tree["metrics"].to_dataset().data_vars.items():
        long_name, units = str(array.attrs.get("long_name", name)), str(array.attrs.get("units", "1"))
        image = curves(KeyVariable("metrics", str(name), long_name, units, False, array), look)
        if image is not None:
            drawn[sort_of(long_name)].append(image)
    blocks: tuple[Block, ...] = gallery(drawn["result"][:shown])
    further = [*drawn["result"][shown:], *drawn["other"]][: 2 * shown]
    for images, noun in ((further, "further metric"), (drawn["cost"][:shown], "metric")):
        about = " of speed and cost" if images is not further else ""
        if images:
            blocks += (Details(several(len(images), noun) + about, gallery(images)),)
    return Section("metrics", "Loss and metrics of the runs", blocks)
