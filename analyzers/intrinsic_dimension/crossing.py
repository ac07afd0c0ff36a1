"""Where the score reaches a threshold: a monotone fit over log d, and its bootstrap interval.

Scores at the measured d are pooled to be non-decreasing (isotonic regression, weighted by seeds) and joined by
straight lines in log d. The bootstrap draws residuals about each d's mean, pooled over all d (few seeds at a d know
little of their own spread) and widened by √(n/(n−1)); the baseline's seeds are drawn too, so that a local threshold's
own uncertainty is inside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

DRAWS = 1000


@dataclass(frozen=True)
class Crossing:
    """`value` with its 95 % interval. `censored`: 1 where no measured d reached (value is the greatest measured), −1
    where the least measured d did (value is that d; 0 when nothing need be trained). An end is inf beyond d_max."""

    value: float
    low: float
    high: float
    censored: int


def isotonic(means: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The non-decreasing least-squares fit, (…, n) with weights (n,), by the min–max formula
    fit_i = max_{a≤i} min_{b≥i} mean(a..b): exact, and vectorised over draws for the few points of a search."""
    n = means.shape[-1]
    sums = np.concatenate((np.zeros((*means.shape[:-1], 1)), np.cumsum(means * weights, axis=-1)), axis=-1)
    counts = np.concatenate(([0.0], np.cumsum(weights)))
    fit = np.full(means.shape, -np.inf)
    for a in range(n):
        pooled = np.stack([(sums[..., b + 1] - sums[..., a]) / (counts[b + 1] - counts[a]) for b in range(a, n)], -1)
        least = np.minimum.accumulate(pooled[..., ::-1], axis=-1)[..., ::-1]
        fit[..., a:] = np.maximum(fit[..., a:], least)
    return fit


def crossing_of(d: np.ndarray, fit: np.ndarray, threshold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(value, censored) of fits (…, n) over d (n,), ascending, d[0] may be 0. Thresholds (…)."""
    reached = fit >= threshold[..., None]
    any_reached = reached.any(axis=-1)
    at = np.argmax(reached, axis=-1)
    before = np.maximum(at - 1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        x = np.log(d.astype(float))
        low, high = (
            np.take_along_axis(fit, before[..., None], -1)[..., 0],
            np.take_along_axis(fit, at[..., None], -1)[..., 0],
        )
        share = np.where(high > low, (threshold - low) / (high - low), 1.0)
        between = np.exp(x[before] + share * (x[at] - x[before]))
    below = any_reached & ((at == 0) | (d[before] == 0)) & (d[at] >= 0)
    value = np.where(below, d[at], between)
    value = np.where(any_reached, value, d[-1])
    censored = np.where(any_reached, np.where(below & (d[at] > 0), -1, 0), 1)
    censored = np.where(any_reached & (d[at] == 0), -1, censored)
    return value.astype(float), censored


@dataclass(frozen=True)
class Draws:
    """Bootstrapped mean scores at each d (draws, n), of the baseline (draws,), and of no training (draws,)."""

    fits: np.ndarray
    baseline: np.ndarray


class Curve:
    """Scores over d with their bootstrap. `scores`: d → (seeds,); 0 for no training. `baseline`: (seeds,)."""

    def __init__(
        self, scores: Mapping[int, np.ndarray], baseline: np.ndarray, seed: int = 0, draws: int = DRAWS
    ) -> None:
        self.d = np.array(sorted(scores), dtype=np.int64)
        each = [np.asarray(scores[int(d)], dtype=float) for d in self.d]
        self.n = np.array([len(values) for values in each])
        self.means = np.array([values.mean() for values in each])
        self.baseline = float(baseline.mean())
        rng = np.random.default_rng(seed)
        # No training is exact (one value, no seed in it), so it has no residuals and takes none.
        pooled = _residuals([values for d, values in zip(self.d, each, strict=True) if d > 0])
        drawn = np.stack(
            [
                mean + (rng.choice(pooled, (draws, n)).mean(axis=1) if pooled.size and d > 0 else np.zeros(draws))
                for d, mean, n in zip(self.d, self.means, self.n, strict=True)
            ],
            axis=1,
        )
        own = _residuals([baseline])
        shift = rng.choice(own, (draws, len(baseline))).mean(axis=1) if own.size else np.zeros(draws)
        self.fit = isotonic(self.means, self.n.astype(float))
        self.draws = Draws(isotonic(drawn, self.n.astype(float)), self.baseline + shift)
        spread = np.quantile(drawn, (0.025, 0.975), axis=0)
        self.low, self.high = spread[0], spread[1]

    def crossing(self, threshold: float, drawn: np.ndarray | None = None) -> Crossing:
        """Where the fit reaches `threshold`; `drawn` are the thresholds of the draws, where they vary."""
        value, censored = crossing_of(self.d, self.fit, np.asarray(threshold))
        of_draws = np.full(len(self.draws.fits), threshold) if drawn is None else drawn
        values, codes = crossing_of(self.d, self.draws.fits, of_draws)
        values = np.where(codes == 1, np.inf, values)
        low, high = np.quantile(values, (0.025, 0.975), method="inverted_cdf")
        low = min(low, float(self.d[-1]))  # above the greatest d that was measured, no more is known
        return Crossing(float(value), float(low), float(high), int(censored))


def _residuals(groups: list[np.ndarray]) -> np.ndarray:
    parts = [(v - v.mean()) * np.sqrt(len(v) / (len(v) - 1)) for v in groups if len(v) > 1]
    return np.concatenate(parts) if parts else np.empty(0)
