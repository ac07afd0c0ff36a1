"""One p for a whole sweep of counts, from draws of its null: max-T, its Monte-Carlo error, and when to stop drawing.

Counts at different k, ε and sides have different scales and are strongly dependent. Each is standardised, the largest
standardised count is the statistic T, and T is compared with the T of the draws, which went through the same maximum.
"""

from __future__ import annotations

import numpy as np
from scipy.special import betaincinv

ALPHA = 0.05
"""The level of a verdict, after the correction over runs and directions."""
DIRECTIONS = ("more", "fewer")
STOP_RISK = 0.001
"""Two-sided, of the Clopper-Pearson interval whose lower end stops a sequence of draws."""
_LEAST_SPREAD = 0.5
"""Of a standardised count: counts are whole, and a cell that is 0 in nearly all draws must not rule the maximum."""


def max_t(observed: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """T (2,) of the observed counts and (B, 2) of each draw, for more and fewer than the null.

    observed: (2, cells) counts to be tested for more and for fewer; draws: (B, cells). Mean and spread of a cell are
    taken over the B draws *and* the observed count, so that under the null all B + 1 are treated alike, and the p of
    `exceedances` has exactly the size it claims, however few the draws.
    """
    observed, draws = np.asarray(observed, dtype=float), np.asarray(draws, dtype=float)
    number = len(draws) + 1
    own, of_draws = np.empty(2), np.empty((len(draws), 2))
    for direction, sign in enumerate((1.0, -1.0)):
        mean = (draws.sum(axis=0) + observed[direction]) / number
        variance = (((draws - mean) ** 2).sum(axis=0) + (observed[direction] - mean) ** 2) / number
        spread = np.maximum(np.sqrt(variance), _LEAST_SPREAD)
        own[direction] = (sign * (observed[direction] - mean) / spread).max(initial=-np.inf)
        of_draws[:, direction] = (sign * (draws - mean) / spread).max(axis=1, initial=-np.inf)
    return own, of_draws


def exceedances(observed: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """How many draws have a T at least as large as the observed one, (2,) for more and fewer; see `max_t`."""
    own, of_draws = max_t(observed, draws)
    slack = 1e-9 * np.maximum(1.0, np.abs(own))  # equal counts are ties, whatever the order of summation
    counts: np.ndarray = (of_draws >= own - slack).sum(axis=0)
    return counts


def monte_carlo_p(exceeding: np.ndarray, draws: int) -> np.ndarray:
    """p = (1 + exceeding) / (1 + draws): the chance that a null's T is at least as large, never 0."""
    return (1.0 + np.asarray(exceeding, dtype=float)) / (1.0 + draws)


def clopper_pearson(exceeding: np.ndarray, draws: int, risk: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """The interval (low, high) that holds the p of infinitely many draws with probability 1 − risk at least."""
    counts = np.asarray(exceeding, dtype=float)
    low = np.where(counts > 0, betaincinv(np.maximum(counts, 1), draws - counts + 1, risk / 2), 0.0)
    high = np.where(counts < draws, betaincinv(counts + 1, np.maximum(draws - counts, 1), 1 - risk / 2), 1.0)
    return low, high


def next_total(exceeding: np.ndarray, draws: int, most: int) -> int:
    """How many draws there should be: `draws` where they decide, else twice as many, at most `most`.

    They decide once both directions' p are surely above .025, which the smaller of the two must reach to be .05 after
    the correction: the lower end of the 99.9 % Clopper-Pearson interval lies above it. Every p that ends a sequence
    early is then above .05, so a p of .05 or less always has `most` draws (of up to 400) and exactly its size. What
    `most` draws would call .025 or less is missed with a probability of .0005 per look and direction at most.
    """
    low, _ = clopper_pearson(exceeding, draws, STOP_RISK)
    return draws if draws >= most or bool((low > ALPHA / len(DIRECTIONS)).all()) else min(2 * draws, most)


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's correction over all p that are not NaN, in the shape given. It holds under any dependence."""
    flat = np.asarray(p, dtype=float).ravel()
    corrected = np.full(flat.shape, np.nan)
    order = np.argsort(flat, kind="stable")[: np.isfinite(flat).sum()]
    steps = np.arange(order.size, 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps * flat[order]), 1.0)
    return corrected.reshape(np.shape(p))
