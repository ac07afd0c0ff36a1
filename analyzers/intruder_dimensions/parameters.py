"""The settings of the analyzer."""

from __future__ import annotations

from pydantic import Field, field_validator

from analyzers.contract import AnalyzerParameters


class IntruderParameters(AnalyzerParameters):
    """Settings. A new ε, or a k within `k_max`, is derivation only; a larger k recomputes the scores."""

    k_max: int = Field(10, ge=1, description="how many leading singular vectors are scored and stored")
    ks: tuple[int, ...] = Field((1, 2, 5, 10), min_length=1, description="counts are given for these k")
    epsilons: tuple[float, ...] = Field((0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9), min_length=1)
    births: bool = Field(True, description="followed back over the steps: when each intruder was born")
    null: bool = Field(True, description="control: Δ's singular values with Haar-random vectors")
    draws: int = Field(20, ge=2, description="draws of the null at each step")
    most_draws: int = Field(400, ge=2, description="at the last step, where the p of a run's total is near its edge")
    matched: bool = Field(True, description="control: the runs' updates at one norm")
    across_runs: bool = Field(True, description="cosines, masks and LoRA subspaces between runs")
    subspace_ranks: tuple[int, ...] = (1, 5, 10, 50)
    top_fraction: float = Field(0.01, gt=0, le=1)
    phi_ranks: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)

    @field_validator("ks", "subspace_ranks", "phi_ranks")
    @classmethod
    def _positive(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if any(value < 1 for value in values):
            raise ValueError(f"every entry must be at least 1, got {values}")
        return tuple(sorted(set(values)))

    @field_validator("epsilons")
    @classmethod
    def _cosines(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < value <= 1 for value in values):
            raise ValueError(f"ε is compared with a cosine: every entry must lie in (0, 1], got {values}")
        return tuple(sorted(set(values)))

    @property
    def scored(self) -> int:
        """How many leading vectors are needed: `k_max`, or the largest k where that is more."""
        return max(self.k_max, *self.ks)
