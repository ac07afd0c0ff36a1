"""The axis of training steps: one scale for a whole page, ticks only where there are steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from pipeline.report.step_units import STEP, axis_label, word_of

MARGIN = 0.03


@dataclass(frozen=True)
class StepScale:
    """`threshold`: 0 for a linear axis, else the least positive step: logarithmic above it.

    `from_zero`: there is a step 0 (or a negative one), so that the axis is linear below the threshold.
    """

    threshold: float = 0.0
    from_zero: bool = False
    unit: str = STEP

    @staticmethod
    def of(steps: np.ndarray, unit: str = STEP) -> StepScale:
        """The scale for all steps that a page shows; `unit` as `step_units.unit_of` gives it."""
        if not log_steps(steps):
            return StepScale(unit=unit)
        return StepScale(float(steps[steps > 0].min()), bool(steps.min() <= 0), unit)

    @property
    def label(self) -> str:
        """The axis' label."""
        return axis_label(self.unit)

    @property
    def word(self) -> str:
        """What a sentence calls a step: "step", "epoch"."""
        return word_of(self.unit)

    def at(self, step: int) -> str:
        """ "step 500", "epoch 3"."""
        return f"{self.word} {step}"

    def draw(self, axes: Axes, steps: np.ndarray) -> None:
        """Scales, limits and labels the x axis for the steps of one figure."""
        axes.set_xlabel(self.label)
        low, high = float(steps.min()), float(steps.max())
        if self.threshold:
            if self.from_zero or low <= 0:
                axes.set_xscale("symlog", linthresh=self.threshold, linscale=0.4)
            else:
                axes.set_xscale("log")
            ticks = log_ticks(low, high, self.threshold)
            axes.set_xticks(ticks, [short(tick) for tick in ticks])
            axes.xaxis.set_minor_locator(NullLocator())
        else:
            axes.xaxis.set_major_formatter(lambda value, _: short(value))
        transform = axes.xaxis.get_transform()
        ends = transform.transform(np.array([low, high], dtype=float))
        room = MARGIN * (ends[1] - ends[0]) or 0.5 * (abs(ends[0]) or 1.0)
        axes.set_xlim(*transform.inverted().transform(np.array([ends[0] - room, ends[1] + room])))


def log_steps(steps: np.ndarray) -> bool:
    """Whether steps are better shown on a logarithmic axis: they span 50-fold and crowd at the start."""
    positive = steps[steps > 0]
    return bool(
        positive.size > 2
        and positive.max() / positive.min() >= 50
        and np.median(np.unique(positive)) < 0.2 * positive.max()
    )


def log_ticks(low: float, high: float, threshold: float) -> list[float]:
    """Round numbers from `low` to `high`, none beyond; 0 where it lies between; the ends where nothing else does."""
    first = max(low, threshold)
    decades = math.log10(high / first) if high > first else 0.0
    factors: tuple[int, ...] = (1, 2, 5) if decades < 1.2 else (1, 3) if decades < 2.2 else (1,)
    every = max(1, math.ceil(decades / 6))
    exponents = range(math.floor(math.log10(first)), math.floor(math.log10(max(high, first))) + 1)
    ticks = [f * 10.0**e for e in exponents if e % every == 0 for f in factors if first <= f * 10.0**e <= high]
    if len(ticks) < 2:
        ticks = sorted({step for step in (max(low, 0.0) or first, high) if step > 0})
    return [*([0.0] if low <= 0 <= high else []), *ticks]


def short(step: float) -> str:
    """ "3500", "20k", "1.5M"."""
    if abs(step) >= 1e6:
        return f"{step / 1e6:g}M"
    return f"{step / 1e3:g}k" if abs(step) >= 10_000 else f"{step:g}"
