"""Intruder dimensions of a tuned matrix, their controls, and what else fine-tuning changed.

The page docs/intruder-dimensions.md says what each number means and how not to read it.
"""

from analyzers.intruder_dimensions.analyzer import IntruderDimensions

__all__ = ["IntruderDimensions"]
