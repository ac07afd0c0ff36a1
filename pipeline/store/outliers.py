"""A checkpoint that stands apart from both of its neighbours while these agree with each other.

For step t between a and b the ratio is min(‖t − a‖, ‖t − b‖) / ‖b − a‖. On a straight path it is at most 1/2, on a
random walk about 1/√2 at most, around a fixed point about 1: a path has to come back to make it large. A step is an
outlier where the ratio is at least `APART`, and at least `APART` times the median ratio of the run's other steps (a run
whose every second checkpoint is an average of weights has large ratios everywhere, and no outlier). The distances along
a run, whether its steps are even or log-spaced and whatever the learning rate does, do not matter: only these three do.

The first and the last step have one neighbour and cannot be judged; two wrong steps in a row hide each other.
False alarms were measured by tests/benchmarks/outliers.py; docs/report.md gives the numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

APART = 3.0
FEWEST = 4
"""Checkpoints that a run must have: with three there is one ratio and nothing to compare it with."""


@dataclass(frozen=True)
class Outlier:
    """Index of the step, and its distances to the one before, to the one after, and of these two."""

    at: int
    before: float
    after: float
    between: float


def outliers(count: int, distance: Callable[[int, int], float]) -> tuple[Outlier, ...]:
    """The outliers among `count` checkpoints in order; `distance` gives that of two of them."""
    if count < FEWEST:
        return ()
    steps = np.array([distance(at, at + 1) for at in range(count - 1)])
    over = np.array([distance(at, at + 2) for at in range(count - 2)])
    closer = np.minimum(steps[:-1], steps[1:])
    ratios = np.divide(closer, over, out=np.where(closer > 0, np.inf, 0.0), where=over > 0)  # (count − 2,)
    listed = []
    for at, ratio in enumerate(ratios):
        usual = float(np.median(np.delete(ratios, at)))
        if ratio >= APART * max(1.0, usual):
            listed.append(Outlier(at + 1, float(steps[at]), float(steps[at + 1]), float(over[at])))
    return tuple(listed)
