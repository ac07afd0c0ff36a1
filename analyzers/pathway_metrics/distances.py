"""The statistic `pathway_distances`: edit distances between the pathways of a probe's samples, from stored routing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from analyzers.contract import Context, Cost, MatrixInfo, Result, Statistic, Unit
from analyzers.errors import Unmeasurable
from analyzers.models import Material
from analyzers.pathway_metrics.edit_distance import all_pairs, some_pairs
from analyzers.pathway_metrics.neurons import Neurons, neuron_pathways
from analyzers.pathway_metrics.pathways import Pathways, pathways_of
from analyzers.pathway_metrics.routing import Routing


@dataclass(frozen=True)
class PathwayDistances(Statistic):
    """Levenshtein distances over (layer, expert) tokens, between N samples' pathways cut at `threshold`.

    Up to `exact_samples` samples: `distance` (N(N−1)/2,) uint8 or uint16, all pairs i < j in row order. Above: the
    same of `pairs` drawn pairs i ≠ j, with `left` and `right` (P,) int32. `length` (N,) int32 of each pathway.
    `of` is the statistic that knows the pathways: `Routing`, or `Neurons` (whose threshold is ignored).
    """

    name: ClassVar[str] = "pathway_distances"
    version: ClassVar[int] = 1
    scope: ClassVar[Any] = "checkpoint"
    reads_matrices: ClassVar[bool] = False

    probe: Material
    model: str | None = None
    kind: str = "experts"
    threshold: float = 0.7
    top_k: int | None = None
    exact_samples: int = 4096
    pairs: int = 200_000
    modules: str | None = None

    def inputs(self) -> tuple[Statistic, ...]:
        """The routing, or the neurons' activity."""
        return (self.source(),)

    def source(self) -> Routing | Neurons:
        """The statistic that the pathways are taken from."""
        if self.kind == "neurons":
            return Neurons(self.probe, self.model, self.modules)
        return Routing(self.probe, self.model)

    def cost(self, infos: Sequence[MatrixInfo]) -> Cost:
        """For a thousand samples of a hundred tokens; larger probes are not known here."""
        return Cost(seconds=1.5, memory_bytes=512 * 2**20)

    def compute(self, unit: Unit, context: Context) -> Result:
        """All pairs, or drawn ones."""
        stored = unit.statistics[self.source().name]
        pathways = self.pathways(stored)
        count = len(pathways)
        if count < 2:
            raise Unmeasurable(f"the probe has {count} sample: a distance needs two")
        length = pathways.lengths.astype(np.int32)
        if count <= self.exact_samples:
            square = all_pairs(pathways, context.device)
            return {"distance": _small(square[np.triu_indices(count, 1)]), "length": length}
        draw = np.random.default_rng(context.seed)
        left = draw.integers(0, count, self.pairs)
        right = (left + draw.integers(1, count, self.pairs)) % count
        found = some_pairs(pathways, left, right, context.device)
        return {
            "distance": _small(found),
            "length": length,
            "left": left.astype(np.int32),
            "right": right.astype(np.int32),
        }

    def pathways(self, stored: Result) -> Pathways:
        """The pathways of a stored result of `source`."""
        if self.kind == "neurons":
            return neuron_pathways(stored, self.top_k or 8)
        return pathways_of(stored["weight"], self.threshold, self.top_k)


def _small(distances: np.ndarray) -> np.ndarray:
    return distances.astype(np.uint8) if distances.max(initial=0) < 256 else distances.astype(np.uint16)
