"""Stored estimates of activations → arrays over layers, and the names of the layers in the models' order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analyzers.contract import Result, View
from analyzers.intrinsic_dimension.representation import Representation

FIELDS = {
    "two_nn": "two_nn",
    "mle": "mle",
    "participation_ratio": "participation_ratio",
    "n_points": "points",
    "n_duplicates": "duplicates",
    "tied_share": "ties",
}
"""Variable → field of the statistic."""


def of_representation(view: View, statistics: Sequence[Representation]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Arrays (run, step, task, layer) and the layers."""
    results: dict[tuple[int, int, int], Result] = {}
    for t, statistic in enumerate(statistics):
        for r, run in enumerate(view.runs):
            if run.role == "base":
                continue
            for step in run.steps:
                result = view.get(statistic, run.id, step)
                if result is not None:
                    results[r, int(np.searchsorted(view.steps, step)), t] = result
    layers = list(dict.fromkeys(str(name) for result in results.values() for name in result["layers"]))
    grid = (len(view.runs), len(view.steps), len(statistics), len(layers))
    arrays = {name: np.full(grid, np.nan) for name in FIELDS}
    arrays["gride"] = np.full((*grid, len(statistics[0].scales)), np.nan)
    for at, result in results.items():
        where = [layers.index(str(name)) for name in result["layers"]]
        for name, field in FIELDS.items():
            arrays[name][(*at, where)] = result[field]
        arrays["gride"][(*at, where)] = result["gride"]
    return arrays, layers
