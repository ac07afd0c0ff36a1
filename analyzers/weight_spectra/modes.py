"""Singular modes and spikes followed through a run: σ(t), birth and death (docs/weight-spectra.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from analyzers.contract import MatrixInfo, Stack, Statistic, View
from analyzers.tracking.follow import follow_forward
from analyzers.tracking.gather import StoredOverlaps, own_steps
from analyzers.tracking.overlaps import ONE, TWO, VectorOverlap, joint_overlap
from analyzers.tracking.tracks import Modes, modes_of, spikes_of
from analyzers.weight_spectra.statistics import Sigma, no_entries

LIMIT = 64
"""Modes of one matrix that are reported, in the order in which they are known to last."""


@dataclass(frozen=True)
class ModeOverlap(VectorOverlap):
    """Overlaps of the leading singular vectors of what is measured (an adapter's: Δ) with those of the step before.

    `side`: matrices whose shorter side is longer are refused, unless their factors are thin. It changes no number and
    stays out of the key. After σ, and so after whoever else needs these vectors has handed them over.
    """

    side: int = 1024

    name: ClassVar[str] = "mode_overlap"
    version: ClassVar[int] = 1
    against: ClassVar[str | None] = ONE
    as_stored: ClassVar[bool] = True

    def parameters(self) -> dict[str, Any]:
        """None enters the key."""
        return {}

    def inputs(self) -> tuple[Statistic, ...]:
        """All σ."""
        return (Sigma(),)

    def refuses(self, info: MatrixInfo, reference: MatrixInfo | None) -> str | None:
        """Nothing to follow, or too dear to be done unasked."""
        if info.role == "weight" and min(info.shape) > self.side:
            return (
                f"its shorter side is longer than {self.side}: its modes are followed on request "
                "(--set weight_spectra.track_side=…)"
            )
        return no_entries(info)


@dataclass(frozen=True)
class ModeOverlapTwo(ModeOverlap):
    """The same with those of two steps before."""

    name: ClassVar[str] = "mode_overlap_two"
    against: ClassVar[str | None] = TWO


def of_modes(
    view: View, overlaps: tuple[ModeOverlap, ModeOverlapTwo], spectra: Sequence[Stack], edge: np.ndarray
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """`mode_sigma` (run, step, matrix, mode), `mode_birth` and `mode_death` (run, matrix, mode), `spike_birth` and
    `spike_death` (run, matrix, mode, bulk scale), steps as float64; and notes. Empty where no run has two steps.

    edge: `mp_edge` (run, step, matrix, bulk scale).
    """
    k = overlaps[0].extent
    stored = StoredOverlaps(view, *overlaps, k)
    found: list[tuple[int, np.ndarray, Modes]] = []
    for run in range(len(view.runs)):
        for matrices, links in stored.links(run, stored.matrices(run), _joint):
            sigma = _leading(spectra, run, own_steps(view, run), matrices, k)
            found.append((run, matrices, modes_of(follow_forward(links, ~np.isnan(sigma)), sigma, LIMIT)))
    width = max((modes.born.shape[1] for _, _, modes in found), default=0)
    if not width:
        return {}, ()
    runs, steps, every, scales = edge.shape
    arrays = {"mode_sigma": np.full((runs, steps, every, width), np.nan)}
    arrays |= {name: np.full((runs, every, width), np.nan) for name in ("mode_birth", "mode_death")}
    arrays |= {name: np.full((runs, every, width, scales), np.nan) for name in ("spike_birth", "spike_death")}
    for run, chosen, modes in found:
        own, count = own_steps(view, run), modes.born.shape[1]
        arrays["mode_sigma"][run, own[:, None], chosen, :count] = modes.sigma
        entered, left = spikes_of(modes, edge[run][np.ix_(own, chosen)])
        of_steps = {"mode_birth": modes.born, "mode_death": modes.dead, "spike_birth": entered, "spike_death": left}
        for name, index in of_steps.items():
            said = np.where(index >= 0, view.steps[own][np.maximum(index, 0)].astype(float), np.nan)
            arrays[name][run, chosen, :count] = said
    return arrays, _notes(found)


def _notes(found: Sequence[tuple[int, np.ndarray, Modes]]) -> tuple[str, ...]:
    left_out = sum(int(modes.left_out.sum()) for _, _, modes in found)
    if not left_out:
        return ()
    matrices = sum(int((modes.left_out > 0).sum()) for _, _, modes in found)
    return (
        f"mode_sigma: of {matrices} matrices more than {LIMIT} modes came and went; the first {LIMIT} of each are "
        f"given, {left_out} are not. So many mean that vectors turn too far from one step to the next to be followed.",
    )


def _joint(overlap: np.ndarray) -> np.ndarray:
    return joint_overlap(overlap)[:, None]


def _leading(spectra: Sequence[Stack], run: int, steps: np.ndarray, matrices: np.ndarray, k: int) -> np.ndarray:
    """(T, M, k): the k greatest σ of some of a run's matrices, NaN where there is none or it is 0."""
    sigma = np.full((len(steps), len(matrices), k), np.nan)
    for stack in spectra:
        rows = np.flatnonzero((stack.run_index == run) & np.isin(stack.matrix_index, matrices))
        at = np.searchsorted(steps, stack.step_index[rows]), np.searchsorted(matrices, stack.matrix_index[rows])
        width = min(k, stack.values.shape[1])
        sigma[(*at, slice(0, width))] = stack.values[rows, :width]
    floor = np.finfo(np.float64).eps * sigma[:, :, :1]
    with np.errstate(invalid="ignore"):
        return np.where(sigma > floor, sigma, np.nan)
