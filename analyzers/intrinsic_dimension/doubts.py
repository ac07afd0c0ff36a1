"""Why a crossing should not be believed as it stands: flags that the report carries beside every d_int.

A score that hardly depends on d, or a threshold inside the noise, still crosses somewhere; these say so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from analyzers.intrinsic_dimension.crossing import Crossing, ScoreCurve

UNDECIDED, WIDE, NEAR_START, FLAT, INTERPOLATED, UNFINISHED, NOT_LEARNED, RATES, FEW_SEEDS = (
    1 << bit for bit in range(9)
)
MEANINGS = {
    UNDECIDED: "the noise of the seeds reaches beyond the d that were tried",
    WIDE: "the interval spans more than a factor of 4",
    NEAR_START: "the threshold is within two standard deviations of a trial from the score before training",
    FLAT: "the score at the greatest d tried is not above that at the least by more than noise",
    INTERPOLATED: "the scored d on either side are more than a factor of 2 apart, or half of all that is learned lies "
    "between them: the interval does not show where",
    UNFINISHED: "the search has not ended",
    NOT_LEARNED: "full training itself hardly rises above chance, so no d is meaningful",
    RATES: "the rates chosen on either side are a factor of 10 apart: their tuning is in doubt",
    FEW_SEEDS: "fewer than three seeds on a side: the interval is too narrow",
}
"""Code → sentence; a cell's flag is the sum of its codes."""
WIDE_RATIO = 4.0
BRACKET_RATIO = 2.0
JUMP_SHARE = 0.5
RATE_STEPS = 2
"""Rates are √10 apart."""
LEAST_SEEDS = 3


def doubts(
    curve: ScoreCurve,
    threshold: float,
    found: Crossing,
    finished: bool,
    rates: Mapping[int, int] | None = None,
    chance: float = math.nan,
) -> int:
    """The sum of the codes that hold of a crossing; 0: none. `rates`: d → the rate step it was scored with."""
    inside = found.censored == 0 and found.value > 0
    start = float(curve.means[0]) if curve.d[0] == 0 else math.nan
    closed = found.low > 0 and math.isfinite(found.high)  # an open interval is undecided, which says more
    wide = inside and closed and found.high / found.low > WIDE_RATIO
    near = start < threshold <= start + 2 * curve.spread
    sides = _sides(curve, found.value) if inside else ()
    of_sides = [rates[int(curve.d[i])] for i in sides if int(curve.d[i]) in rates] if rates else []
    told = {
        UNDECIDED: found.undecided,
        WIDE: wide,
        NEAR_START: near,
        FLAT: found.censored >= 0 and found.value != 0 and not curve.rises(),
        INTERPOLATED: inside and _interpolated(curve, sides, start),
        UNFINISHED: not finished,
        NOT_LEARNED: threshold <= chance,
        RATES: bool(of_sides) and max(of_sides) - min(of_sides) >= RATE_STEPS,
        FEW_SEEDS: any(int(curve.n[i]) < LEAST_SEEDS for i in sides),
    }
    return sum(code for code, holds in told.items() if holds)


def _sides(curve: ScoreCurve, value: float) -> tuple[int, ...]:
    """Where in the curve the trained d stand that enclose a value."""
    trained = [i for i, d in enumerate(curve.d) if d > 0]
    low = max((i for i in trained if curve.d[i] <= value), default=trained[0])
    high = min((i for i in trained if curve.d[i] >= value), default=trained[-1])
    return low, high


def _interpolated(curve: ScoreCurve, sides: tuple[int, ...], start: float) -> bool:
    """Whether the trained d that enclose a value are far from each other, in d or in what is learned between them."""
    low, high = sides
    learned = curve.baseline - (start if math.isfinite(start) else 0.0)
    jump = curve.means[high] - curve.means[low]
    return bool(curve.d[high] > BRACKET_RATIO * curve.d[low] or abs(jump) > JUMP_SHARE * abs(learned))
