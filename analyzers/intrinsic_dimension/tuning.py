"""What the tuning adds to the spread of a score: with other seeds, another rate could have been chosen.

The rate at a d is the best of a few trials on the tuning split, and the scored trials all use it: their spread does not
show what another choice would have given. A search tunes each d once, so what it saw at neighbouring d is put together.
The best tuning score at (d, rate) is fitted as level(d) + response(rate), by least squares. A tuning trial has noise of
standard deviation σ, which the scored trials show, since they are evaluated on the tuning split too. Then a rate is
chosen as often as response + σ ε is greatest there, and over these choices the response has the spread returned here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from analyzers.intrinsic_dimension.search import Finished

CHOICES = 4096
"""Simulated choices of the rate."""


def spread_by_tuning(finished: Finished, ds: Sequence[int]) -> float:
    """Standard deviation of the expected score over repeated tunings, pooled over the scored `ds`; 0 where none
    of them was tuned at two rates and scored with two seeds."""
    tuned = [d for d in ds if len(finished.tuned.get(d, {})) > 1]
    noise, response = _noise(finished, tuned), _response(finished, tuned)
    if len(response) < 2 or noise == 0:
        return 0.0
    draw = np.random.default_rng(0).standard_normal((CHOICES, len(response)))
    return float(response[(response + noise * draw).argmax(axis=1)].std())


def _noise(finished: Finished, ds: Sequence[int]) -> float:
    """Standard deviation of a tuning score, the mean of a search's tuning seeds, about its expectation."""
    scored = [finished.at_stop(d, split="tune") for d in ds]
    variances = [
        values.var(ddof=1) / len(next(iter(finished.tuned[d].values())))
        for d, values in zip(ds, scored, strict=True)
        if len(values) > 1
    ]
    return math.sqrt(float(np.mean(variances))) if variances else 0.0


def _response(finished: Finished, ds: Sequence[int]) -> np.ndarray:
    """(rates,) how the tuning score depends on the rate, but for a constant."""
    cells = [
        (d, rate, float(best))
        for d in ds
        for rate, curves in finished.tuned[d].items()
        if np.isfinite(best := np.mean(curves, axis=0)[1:].max(initial=-np.inf))
    ]
    levels, rates = sorted({d for d, _, _ in cells}), sorted({rate for _, rate, _ in cells})
    design = np.zeros((len(cells), len(levels) + len(rates)))
    for row, (d, rate, _) in enumerate(cells):
        design[row, levels.index(d)] = design[row, len(levels) + rates.index(rate)] = 1
    return np.linalg.lstsq(design, np.array([best for _, _, best in cells]), rcond=None)[0][len(levels) :]
