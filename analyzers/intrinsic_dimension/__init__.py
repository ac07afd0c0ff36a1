"""Intrinsic dimension of checkpoints: of the objective landscape, of representations, of a run's path.

The page docs/intrinsic-dimension.md says what each number means and how not to read it.
"""

from analyzers.intrinsic_dimension.analyzer import IntrinsicDimension

__all__ = ["IntrinsicDimension"]
