"""The analyzer: how a mixture of experts routes a probe over training, with the controls beside each number."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from analyzers.contract import Analyzer, AnalyzerParameters, Derived, Result, RunInfo, Statistic, Variable, View
from analyzers.models import Material
from analyzers.pathway_metrics import derivation, vocabulary
from analyzers.pathway_metrics.collect import Collected
from analyzers.pathway_metrics.correlation import correlation, of_differences
from analyzers.pathway_metrics.distances import PathwayDistances
from analyzers.pathway_metrics.neurons import Neurons
from analyzers.pathway_metrics.routing import Routing
from analyzers.pathway_metrics.variables import BY_NAME, CORRELATED, VARIABLES

NO_PROBE = "No probe set was given, so nothing was measured: name one with --probe FILE (docs/pathways.md)."


class PathwayParameters(AnalyzerParameters):
    """Settings. Thresholds recompute distances from stored routing; nothing but a new probe runs the model again."""

    probes: tuple[Material, ...] = ()
    model: str | None = Field(None, description="package.module:factory that makes the model from its config")
    kind: Literal["experts", "neurons"] = Field("experts", description="neurons: of dense models, our own definition")
    thresholds: tuple[float, ...] = Field((0.5, 0.6, 0.7, 0.8), min_length=1)
    top_k: int | None = Field(None, ge=1, description="this many experts of each layer instead of a threshold")
    neurons: int = Field(8, ge=1, le=64, description="neurons of each layer in a dense pathway")
    modules: str | None = Field(None, description="glob on the modules that read a dense layer's activations")
    exact_samples: int = Field(4096, ge=2, le=8192, description="up to so many samples all pairs are compared")
    pairs: int = Field(200_000, ge=100, description="drawn pairs above that")
    resamples: int = Field(200, ge=20, description="resamples and permutations of the grouped ratio")

    @field_validator("thresholds")
    @classmethod
    def _shares(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < value <= 1 for value in values):
            raise ValueError(f"a threshold is a share of the routing weight: every entry must lie in (0, 1]: {values}")
        return tuple(sorted(set(values)))


class PathwayMetrics(Analyzer):
    """Pathways of a probe set through experts: distances, grouped ratio, consistency, load, saturation."""

    name: ClassVar[str] = "pathway_metrics"
    version: ClassVar[int] = 2
    variables: ClassVar[tuple[Variable, ...]] = VARIABLES
    Parameters: ClassVar[type[AnalyzerParameters]] = PathwayParameters

    def statistics(self) -> tuple[Statistic, ...]:
        """Per probe the routing (or the neurons) and its distances at each threshold; none without a probe."""
        s: PathwayParameters = self.parameters
        return tuple(
            statistic
            for probe in s.probes
            for statistic in (self._source(probe), *(self._distances(probe, t) for t in self._thresholds()))
        )

    def _thresholds(self) -> tuple[float, ...]:
        s: PathwayParameters = self.parameters
        return s.thresholds if s.kind == "experts" and s.top_k is None else (1.0,)

    def _source(self, probe: Material) -> Routing | Neurons:
        return self._distances(probe, self._thresholds()[0]).source()

    def _distances(self, probe: Material, threshold: float) -> PathwayDistances:
        s: PathwayParameters = self.parameters
        top_k = s.neurons if s.kind == "neurons" else s.top_k
        return PathwayDistances(probe, s.model, s.kind, threshold, top_k, s.exact_samples, s.pairs, s.modules)

    def derive(self, view: View) -> Derived:
        """All variables, from stored routing and distances."""
        s: PathwayParameters = self.parameters
        if not s.probes:
            return Derived(view.dataset({}, []), notes=(NO_PROBE,))
        collected = Collected([run.id for run in view.runs], view.steps, [p.name for p in s.probes], self._thresholds())
        for at_run, run in enumerate(view.runs):
            for at_probe, probe in enumerate(s.probes):
                self._of_run(view, run, at_run, probe, at_probe, collected)
        if not collected.found:
            return Derived(view.dataset({}, []), notes=("No checkpoint could be measured; the reasons are listed.",))
        arrays = collected.arrays() | self._correlations(collected)
        dataset = view.dataset(arrays, [BY_NAME[name] for name in arrays])
        coordinates = {**collected.coordinates(), "metric": list(CORRELATED)}
        dataset = dataset.assign_coords({n: (n, v) for n, v in coordinates.items() if n in dataset.dims})
        return Derived(dataset, notes=self._notes(view, collected))

    def _of_run(
        self, view: View, run: RunInfo, at_run: int, probe: Material, at_probe: int, collected: Collected
    ) -> None:
        s: PathwayParameters = self.parameters
        source = self._source(probe)
        there = [(step, got) for step in run.steps if (got := view.get(source, run.id, step)) is not None]
        if not there:
            return
        since, epsilon = derivation.memorisation([result for _, result in there])
        collected.put((at_run, None, at_probe), {"memorisation_epsilon": epsilon})
        last = there[-1][1]
        if s.kind == "experts":
            counts = {
                "vocabulary_frequent": int(last["vocabulary_frequent"]),
                "vocabulary_kept": len(last["vocabulary"]),
            }
            collected.put((at_run, None, at_probe), counts)
        for at, (step, result) in enumerate(there):
            place = (at_run, int(step), at_probe)
            fields: dict[str, Any] = {"probe_loss": derivation.mean(result["loss"])}
            if since is not None:
                fields["memorised_fraction"] = float(((since >= 0) & (since <= at)).mean())
            if s.kind == "experts":
                fields |= derivation.of_routing(result) | derivation.of_last(result, last)
            names = [str(name) for name in result["routers" if s.kind == "experts" else "layers"]]
            domains = [str(name) for name in result.get("domain_names", ())]
            collected.put(place, fields, names, domains)
            if s.kind == "experts" and result is last:
                collected.put_table(at_run, at_probe, vocabulary.shares(result), names)
            groups = self._groups(result, since)
            for at_cut, threshold in enumerate(self._thresholds()):
                stored = view.get(self._distances(probe, threshold), run.id, step)
                if stored is not None:
                    collected.put_cut(place, at_cut, derivation.of_distances(stored, groups, s.resamples))

    def _groups(self, result: Result, since: np.ndarray | None) -> dict[str, np.ndarray]:
        groups = {column: result[f"{column}_codes"] for column in derivation.GROUPS if f"{column}_codes" in result}
        if since is not None and len(np.unique(since[since >= 0])) > 1:
            groups["memorised"] = since
        return groups

    def _correlations(self, collected: Collected) -> dict[str, np.ndarray]:
        """Of the metrics over the steps with the probe's loss, at the threshold nearest 0.7 and the first grouping."""
        nearest = int(np.argmin(np.abs(np.array(self._thresholds()) - 0.7)))
        shape = (len(collected.runs), len(collected.probes), len(CORRELATED))
        names = ("", "_low", "_high", "_n", "_n_eff", "_of_levels")
        found = {f"loss_correlation{suffix}": np.full(shape, np.nan) for suffix in names}
        arrays = collected.arrays()
        loss = arrays.get("probe_loss")
        for at, metric in enumerate(CORRELATED):
            values = arrays.get(metric)
            if loss is None or values is None:
                continue
            while values.ndim > 3:
                values = values[:, :, :, nearest] if values.shape[3] == len(self._thresholds()) else values[..., 0]
            for run, probe in np.ndindex(shape[:2]):
                x, y = values[run, :, probe], loss[run, :, probe]
                of_changes, r = of_differences(x, y), correlation(x, y).r
                values_of = (of_changes.r, of_changes.low, of_changes.high, of_changes.n, of_changes.n_eff, r)
                for suffix, value in zip(names, values_of, strict=True):
                    found[f"loss_correlation{suffix}"][run, probe, at] = value
        return found

    def _notes(self, view: View, collected: Collected) -> tuple[str, ...]:
        s: PathwayParameters = self.parameters
        notes = [
            "Raw pathway distance follows pathway length: read it beside the length, the normalised distance and the "
            "grouped ratio.",
            "pathway_consistency is the paper's C, 0 by construction at two routers and ill-conditioned at three; "
            "consistency_cosine has no such flaw.",
            "Correlations are of the changes from step to step; an interval needs 8 that count effectively.",
        ]
        if s.kind == "neurons":
            notes = ["Neuron pathways of dense models are varve's own definition: no agreed one exists.", *notes[2:]]
        return tuple(notes)
