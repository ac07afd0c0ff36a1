"""Where the score reaches a threshold: a monotone fit over log d, and its bootstrap interval.

Scores at the measured d are pooled to be non-decreasing (isotonic regression, weighted by seeds) and joined by
straight lines in log d. The bootstrap multiplies the residuals of a seed by one normal number, the same at every d and
in the baseline (a seed draws its batches and its head everywhere, so its scores rise and fall together). The variance
is that of each d, shrunk towards that of all d, since few seeds know little of their spread; for the same reason the
draws are Student's. Each mean also varies by what another tuning could have made of it (`tuning`). A local threshold
moves with the baseline of the same draw.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

DRAWS = 1000
PRIOR = 4
"""Degrees of freedom with which the variance over all d counts beside that of the seeds of one d."""


@dataclass(frozen=True)
class Crossing:
    """Where a curve reaches a threshold.

    `censored`: 1 where no measured d reached it, −1 where the least measured d did, 0 between, and where nothing need
    be trained (`value` 0). A censored crossing has no `value` (NaN): it lies above (at or below) `limit`, the greatest
    (least) d measured, which is NaN elsewhere. [`low`, `high`] is the 95 % interval; a side that was not tried is open:
    `low` 0, `high` inf. `undecided`: within the interval it is censored otherwise than at its estimate.
    """

    value: float
    low: float
    high: float
    censored: int
    limit: float
    undecided: bool


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


@dataclass(frozen=True)
class Crossings:
    """Of many fits: `value` and `limit` as in `Crossing`; `kind`: −2 before any training, −1 at or below the least d
    measured, 0 between, 1 above all."""

    value: np.ndarray
    limit: np.ndarray
    kind: np.ndarray


def crossing_of(d: np.ndarray, fit: np.ndarray, threshold: np.ndarray) -> Crossings:
    """Crossings of fits (…, n) over d (n,), ascending, d[0] may be 0. Thresholds (…)."""
    reached = fit >= threshold[..., None]
    any_reached = reached.any(axis=-1)
    at = np.argmax(reached, axis=-1)
    before = np.maximum(at - 1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        x = np.log(d.astype(float))
        low, high = (np.take_along_axis(fit, index[..., None], -1)[..., 0] for index in (before, at))
        share = np.where(high > low, (threshold - low) / (high - low), 1.0)
        between = np.exp(x[before] + share * (x[at] - x[before]))
    least = (at == 0) | (d[before] == 0)
    kind = np.where(~any_reached, 1, np.where(d[at] == 0, -2, np.where(least, -1, 0)))
    value = np.where(kind == 0, between, np.where(kind == -2, 0.0, np.nan))
    limit = np.where(kind == 1, float(d[-1]), np.where(kind == -1, d[at].astype(float), np.nan))
    return Crossings(value, limit, kind)


@dataclass(frozen=True)
class Draws:
    """Bootstrapped mean scores at each d (draws, n), of the baseline (draws,), and of no training (draws,)."""

    fits: np.ndarray
    baseline: np.ndarray


class ScoreCurve:
    """Scores over d with their bootstrap. `scores`: d → (seeds,); 0 for no training. `baseline`: (seeds,). The same
    place in any of them is the same seed. `tuning` and `baseline_tuning`: standard deviations that repeated tuning adds
    to the mean at a d and to the baseline's."""

    def __init__(
        self,
        scores: Mapping[int, np.ndarray],
        baseline: np.ndarray,
        seed: int = 0,
        draws: int = DRAWS,
        tuning: float = 0.0,
        baseline_tuning: float = 0.0,
    ) -> None:
        self.d = np.array(sorted(scores), dtype=np.int64)
        each = [np.asarray(scores[int(d)], dtype=float) for d in self.d]
        self.n = np.array([len(values) for values in each])
        self.means = np.array([values.mean() for values in each])
        self.baseline = float(baseline.mean())
        self.fit = isotonic(self.means, self.n.astype(float))
        rng = np.random.default_rng(seed)
        shared = rng.standard_normal((draws, max(len(baseline), *self.n)))
        # No training is exact: one value, with neither a seed nor a rate in it.
        trained = [values for d, values in zip(self.d, each, strict=True) if d > 0]
        residuals, own = _residuals(trained), _residuals([baseline])
        shifts = [
            _shift(values, residuals, tuning, shared, rng) if d > 0 else np.zeros(draws)
            for d, values in zip(self.d, each, strict=True)
        ]
        drawn = self.means + np.stack(shifts, axis=1)
        of_baseline = self.baseline + _shift(baseline, own, baseline_tuning, shared, rng)
        self.draws = Draws(isotonic(drawn, self.n.astype(float)), of_baseline)
        spread = np.quantile(drawn, (0.025, 0.975), axis=0)
        self.low, self.high = spread[0], spread[1]
        every = np.concatenate((residuals, own))
        self._spread = float(np.sqrt(np.mean(every**2))) if every.size else float("nan")

    def crossing(self, threshold: float, drawn: np.ndarray | None = None) -> Crossing:
        """Where the fit reaches `threshold`; `drawn` are the thresholds of the draws, where they vary."""
        own = crossing_of(self.d, self.fit, np.asarray(threshold))
        of_draws = np.full(len(self.draws.fits), threshold) if drawn is None else drawn
        all_of = crossing_of(self.d, self.draws.fits, of_draws)
        lows = np.where(all_of.kind == 1, all_of.limit, np.where(all_of.kind == -1, 0.0, all_of.value))
        highs = np.where(all_of.kind == 1, np.inf, np.where(all_of.kind == -1, all_of.limit, all_of.value))
        low = float(np.quantile(lows, 0.025, method="inverted_cdf"))
        high = float(np.quantile(highs, 0.975, method="inverted_cdf"))
        kinds = np.quantile(all_of.kind, (0.025, 0.975), method="inverted_cdf")
        kind = int(own.kind)
        return Crossing(
            float(own.value), low, high, 0 if kind == -2 else kind, float(own.limit), bool((kinds != kind).any())
        )

    @property
    def spread(self) -> float:
        """Standard deviation of one trial's score about its mean, pooled over d and the baseline; NaN without two
        seeds anywhere."""
        return self._spread

    def rises(self) -> bool:
        """Whether the mean score at the greatest d is above that at the least by two standard errors of their
        difference; True where there are not two d with fresh seeds."""
        trained = np.flatnonzero(self.d > 0)
        if trained.size < 2 or not np.isfinite(self._spread):
            return True
        first, last = trained[0], trained[-1]
        error = self._spread * float(np.sqrt(1 / self.n[first] + 1 / self.n[last]))
        return bool(self.means[last] - self.means[first] > 2 * error)


def _residuals(groups: list[np.ndarray]) -> np.ndarray:
    parts = [(v - v.mean()) * np.sqrt(len(v) / (len(v) - 1)) for v in groups if len(v) > 1]
    return np.concatenate(parts) if parts else np.empty(0)


def _shift(
    values: np.ndarray, residuals: np.ndarray, tuning: float, shared: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """(draws,) of how far the mean of `values` (seeds,) may lie from its expectation. `residuals`: of all d; `shared`
    (draws, seeds): the multipliers."""
    n = len(values)
    centred = values - values.mean()
    squares = float(np.square(centred).sum())
    freedom = PRIOR + n - 1
    variance = (PRIOR * float(np.square(residuals).mean()) + squares) / freedom if residuals.size else 0.0
    alone = rng.standard_normal(len(shared))
    unit = shared[:, :n] @ (centred / math.sqrt(squares)) if squares > 0 else alone
    student = unit * np.sqrt(freedom / rng.chisquare(freedom, len(shared)))
    return math.sqrt(variance / n) * student + tuning * rng.standard_normal(len(shared))
