"""Why a crossing should not be believed as it stands: flags that the report carries beside every d_int.

A score that hardly depends on d, or a threshold inside the noise, still crosses somewhere; these say so.
"""

from __future__ import annotations

import math

from analyzers.intrinsic_dimension.crossing import Crossing, Curve

UNDECIDED, WIDE, NEAR_START, FLAT, INTERPOLATED, UNFINISHED = (1 << bit for bit in range(6))
MEANINGS = {
    UNDECIDED: "the noise of the seeds reaches beyond the d that were tried",
    WIDE: "the interval spans more than a factor of 4",
    NEAR_START: "the threshold is within two standard deviations of a trial from the score before training",
    FLAT: "the score at the greatest d tried is not above that at the least by more than noise",
    INTERPOLATED: "the scored d on either side are more than a factor of 2 apart",
    UNFINISHED: "the search has not ended",
}
"""Code → sentence; a cell's flag is the sum of its codes."""
WIDE_RATIO = 4.0
BRACKET_RATIO = 2.0


def doubts(curve: Curve, threshold: float, found: Crossing, finished: bool) -> int:
    """The sum of the codes that hold of a crossing; 0: none."""
    inside = found.censored == 0 and found.value > 0
    start = float(curve.means[0]) if curve.d[0] == 0 else math.nan
    closed = found.low > 0 and math.isfinite(found.high)  # an open interval is undecided, which says more
    wide = inside and closed and found.high / found.low > WIDE_RATIO
    near = start < threshold <= start + 2 * curve.spread
    told = {
        UNDECIDED: found.undecided,
        WIDE: wide,
        NEAR_START: near,
        FLAT: found.censored >= 0 and found.value != 0 and not curve.rises(),
        INTERPOLATED: inside and _apart(curve, found.value),
        UNFINISHED: not finished,
    }
    return sum(code for code, holds in told.items() if holds)


def _apart(curve: Curve, value: float) -> bool:
    """Whether the trained d that enclose a value are far from each other."""
    trained = [int(d) for d in curve.d if d > 0]
    low = max((d for d in trained if d <= value), default=trained[0])
    high = min((d for d in trained if d >= value), default=trained[-1])
    return high > BRACKET_RATIO * low
