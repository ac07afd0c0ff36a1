"""The analyzer of tuned weights: spectra of W0 + Δ of adapters, beside those of full fine-tunes, on one axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import xarray as xr
from pydantic import Field

from analyzers.contract import Derived, Statistic, View
from analyzers.weight_spectra.analyzer import WeightSpectra, WeightSpectraParameters
from analyzers.weight_spectra.on_base import OnBase, ViewOnBase
from analyzers.weight_spectra.variables import VARIABLES

_OF_WHOLE_CHECKPOINTS = ("welore_threshold", "welore_rank_reduction", "welore_class")
"""These are shares of all weights of a checkpoint; an adapter's are in its base."""


class MergedSpectraParameters(WeightSpectraParameters):
    """Settings of ``--set merged_spectra.KEY=VALUE``; those that are false by default cost more and are on request."""

    side: int = Field(1024, ge=1, description="longest shorter side of a matrix whose W0 + Δ is measured")
    track: Literal[False] = Field(False, description="modes are followed by weight_spectra alone")


class MergedSpectra(WeightSpectra):
    """Singular values of the weights that adapters make (W0 + Δ), and of the same matrices of full fine-tunes."""

    name = "merged_spectra"
    version = 1
    variables = tuple(v for v in VARIABLES if v.name not in _OF_WHOLE_CHECKPOINTS)
    Parameters = MergedSpectraParameters

    def statistics(self) -> Sequence[Statistic]:
        """Those of `weight_spectra`, of weights and of adapters on their base."""
        of_weights = super().statistics()
        return (*of_weights, *(OnBase(statistic, self.parameters.side) for statistic in of_weights))

    def derive(self, view: View) -> Derived:
        """The variables of `weight_spectra` over the matrices that some adapter changes; full σ of the adapters alone,
        since /weight_spectra has those of full runs."""
        on_base = ViewOnBase(view, self.parameters.side)
        if not on_base.matrices:
            return Derived(xr.Dataset(), notes=(self._why_nothing(view),))
        derived = super().derive(on_base)
        adapters = {run.id for run in view.runs if run.adapter}
        dataset = derived.dataset.drop_vars(_OF_WHOLE_CHECKPOINTS, errors="ignore")
        runs = {name: spectra for name, spectra in derived.runs.items() if spectra.attrs["run"] in adapters}
        return Derived(dataset, runs, derived.notes)

    def _why_nothing(self, view: View) -> str:
        """Why there is no matrix to show."""
        if not any(run.adapter for run in view.runs):
            return "No run here is an adapter: there is no W0 + Δ, and weight_spectra has the weights of full runs."
        return (
            f"No adapter here has a Δ whose shorter side is at most {self.parameters.side}: "
            "--set merged_spectra.side=N measures larger ones."
        )
