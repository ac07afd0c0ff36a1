"""The analyzer: which statistics it needs, and how the report's variables follow from what is stored."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import xarray as xr

from analyzers.contract import Analyzer, AnalyzerParameters, Derived, Statistic, Variable, View
from analyzers.intruder_dimensions import derivation, verdicts
from analyzers.intruder_dimensions.across_runs import ChangeAcrossRuns
from analyzers.intruder_dimensions.births import TunedOverlap, TunedOverlapTwo, of_births
from analyzers.intruder_dimensions.change import Change
from analyzers.intruder_dimensions.intruders import Intruders
from analyzers.intruder_dimensions.matched import IntruderMatched, IntruderMatchedSpectral
from analyzers.intruder_dimensions.matched_null import NORMS, IntruderMatchedNull
from analyzers.intruder_dimensions.max_t import DIRECTIONS
from analyzers.intruder_dimensions.methods_note import notes_on_methods
from analyzers.intruder_dimensions.null import IntruderNull
from analyzers.intruder_dimensions.parameters import IntruderParameters
from analyzers.intruder_dimensions.spectrum import UpdateSpectrum
from analyzers.intruder_dimensions.total_null import TotalNull
from analyzers.intruder_dimensions.variables import BY_NAME, DELTA_SIGMA, VARIABLES


class IntruderDimensions(Analyzer):
    """Intruder dimensions with their controls, and what fine-tuning changed, against each run's base."""

    name: ClassVar[str] = "intruder_dimensions"
    version: ClassVar[int] = 3
    variables: ClassVar[tuple[Variable, ...]] = VARIABLES
    Parameters: ClassVar[type[AnalyzerParameters]] = IntruderParameters

    def statistics(self) -> tuple[Statistic, ...]:
        """Scores, change and σ(Δ) always; the births and the controls unless they are switched off."""
        parts = self._parts()
        return tuple(part for part in parts.values() if part is not None)

    def derive(self, view: View) -> Derived:
        """All variables, from stored scores and spectra; nothing is factorized."""
        settings: IntruderParameters = self.parameters
        parts = self._parts()
        arrays = derivation.of_scores(view, parts["intruders"], settings)
        # What takes most memory on its way comes first, while little else is held.
        births = of_births(view, arrays["similarity"], settings.ks, settings.epsilons) if settings.births else {}
        arrays |= derivation.of_change(view, parts["change"], parts["spectrum"], settings)
        arrays |= derivation.of_flags(view, parts["intruders"], parts["change"], arrays, settings)
        norms = arrays["delta_spectral_norm"]
        arrays["spectral_ratio"] = derivation.spectral_ratio(view, parts["intruders"], norms, settings)
        arrays["total_intruders"] = derivation.totals(arrays["n_intruders"])
        arrays["total_intruders_matrices"] = derivation.counted(arrays["n_intruders"])
        arrays["base_kind"] = derivation.base_kinds(view)
        notes = derivation.notes_on_bases(view) + derivation.notes_on_shapes(view)
        notes += derivation.notes_on_totals(view, arrays["total_intruders_matrices"])
        if parts["null"] is not None:
            arrays |= self._null(view, parts, arrays["n_intruders"])
        else:
            notes += ("The null is switched off: a count of intruders alone does not show that training made them.",)
        arrays |= births
        compared: tuple[str, ...] = ()
        if settings.matched:
            matched, compared = self._matched(view, parts)
            arrays |= matched
            notes += (derivation.ONE_RUN,) if len(compared) < 2 else ()
        if parts["across"] is not None:
            arrays |= derivation.of_runs(view, parts["across"], settings)
        notes += notes_on_methods(view, parts["intruders"], parts["null"])
        coordinates = self._coordinates(view, compared)
        return Derived(
            _dataset(view, arrays, coordinates),
            derivation.delta_spectra(view, parts["spectrum"], DELTA_SIGMA),
            notes,
        )

    def _null(self, view: View, parts: dict[str, Any], counts: np.ndarray) -> dict[str, np.ndarray]:
        """The null, with all the draws there are, the excess over it, and the p of the sums."""
        arrays = derivation.of_null(view, parts["null"], counts.shape, self.parameters)
        sweeps = verdicts.sweeps_of(view, parts["total"])
        verdicts.refine_nulls(view, arrays, sweeps, self.parameters)
        arrays["excess_intruders"] = counts - arrays["n_intruders_null"]
        return arrays | verdicts.of_sweeps(view, sweeps, self.parameters)

    def _matched(self, view: View, parts: dict[str, Any]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
        """Counts at matched norms with their nulls, and the runs compared."""
        arrays: dict[str, np.ndarray] = {}
        common: dict[str, np.ndarray] = {}
        compared: tuple[str, ...] = ()
        for norm, ending in (("frobenius", ""), ("spectral", "_spectral")):
            counts, scores, norms, compared = derivation.of_matched(view, parts[f"matched{ending}"], self.parameters)
            arrays |= {f"n_intruders_matched{ending}": counts, f"similarity_matched{ending}": scores}
            arrays[f"matched{ending}_norm"] = norms
            common[norm] = scores[:, 0]
        if parts["matched_null"] is not None:
            arrays |= verdicts.of_matched_null(view, parts["matched_null"], common, self.parameters)
        return arrays, compared

    def _parts(self) -> dict[str, Any]:
        s: IntruderParameters = self.parameters
        return {
            "intruders": Intruders(k_max=s.scored),
            "spectrum": UpdateSpectrum(),
            "change": Change(s.subspace_ranks, s.top_fraction),
            "overlap": TunedOverlap(s.scored) if s.births else None,
            "overlap_two": TunedOverlapTwo(s.scored) if s.births else None,
            "null": IntruderNull(draws=s.draws, k=s.scored) if s.null else None,
            "total": TotalNull(s.draws, s.most_draws, s.scored, s.ks, s.epsilons) if s.null else None,
            "matched": IntruderMatched(k_max=s.scored) if s.matched else None,
            "matched_spectral": IntruderMatchedSpectral(k_max=s.scored) if s.matched else None,
            "matched_null": IntruderMatchedNull(s.draws, s.scored) if s.matched and s.null else None,
            "across": ChangeAcrossRuns(s.top_fraction, s.phi_ranks) if s.across_runs else None,
        }

    def _coordinates(self, view: View, compared: tuple[str, ...]) -> dict[str, Any]:
        s: IntruderParameters = self.parameters
        return {
            "side": ["left", "right"],
            "rank": np.arange(1, s.scored + 1),
            "k": np.array(s.ks),
            "epsilon": np.array(s.epsilons),
            "subspace_rank": np.array(s.subspace_ranks),
            "phi_i": np.array(s.phi_ranks),
            "phi_j": np.array(s.phi_ranks),
            "matched_to": ["geometric_mean", *compared],
            "norm": list(NORMS),
            "direction": list(DIRECTIONS),
            "other_run": [run.id for run in derivation.compared_runs(view)],
        }


def _dataset(view: View, arrays: dict[str, np.ndarray], coordinates: dict[str, Any]) -> xr.Dataset:
    dataset = view.dataset(arrays, [BY_NAME[name] for name in arrays])
    return dataset.assign_coords({name: (name, values) for name, values in coordinates.items() if name in dataset.dims})
