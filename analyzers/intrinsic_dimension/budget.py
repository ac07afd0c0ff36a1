"""Whether a longer training would give another d_int: the bracket's two ends, trained again with a greater budget."""

from __future__ import annotations

import math

from analyzers.intrinsic_dimension.search import FULL, Finished, Target, bracket


def at_greatest_budget(found: Finished, target: Target) -> float | None:
    """d_int between the bracket's ends, linear in log d, at the greatest budget measured; NaN where the bracket no
    longer encloses it; None where no greater budget was measured, or the threshold has no bracket of two."""
    budgets = [budget for d, budget in found.scored if d == FULL and budget > 1 and found.scored[d, budget]]
    ends = bracket(found, target)
    if not budgets or len(ends) < 2:
        return None
    budget = max(budgets)
    if any(not found.scored.get((d, budget)) for d in ends):
        return None
    low, high = ends
    below, above = (float(found.at_stop(d, budget).mean()) for d in ends)
    threshold = found.threshold(target, "score", budget)
    if not below < threshold <= above:
        return math.nan
    return low * (high / low) ** ((threshold - below) / (above - below))


def changes(doubled: float | None, interval: tuple[float, float]) -> float:
    """1 where d_int at the greater budget lies outside its interval at the usual one, or outside the bracket; 0 where
    inside; NaN where it was not measured."""
    if doubled is None:
        return math.nan
    return float(not interval[0] <= doubled <= interval[1])
