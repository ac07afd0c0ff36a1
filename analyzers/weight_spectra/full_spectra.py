"""All σ of each run as a dataset of its own: sigma (step, matrix, rank), float64, NaN where a spectrum is shorter.

Spectra of very different lengths are not padded to the longest when that would waste gigabytes: then the lengths get
a dataset each, told apart by name and joined by the attribute `run`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from analyzers.contract import Stack, View

PADDING_LIMIT = 1 << 30
"""Bytes of padding that one run's dataset may carry."""


@dataclass(frozen=True)
class _SpectraPart:
    """The spectra of one run that share a length: indices into the view, and σ (count, length)."""

    steps: np.ndarray
    matrices: np.ndarray
    values: np.ndarray


def full_spectra(view: View, stacks: Sequence[Stack], shuffled: Sequence[Stack] = ()) -> dict[str, xr.Dataset]:
    """Run id → its spectra, and those of its shuffled matrices as `sigma_shuffled` where they were asked for."""
    datasets: dict[str, xr.Dataset] = {}
    for index, run in enumerate(view.runs):
        parts = _parts(stacks, index)
        if not parts:
            continue
        others = _parts(shuffled, index)
        values = sum(part.values.size for part in parts)
        steps = len({int(step) for part in parts for step in part.steps})
        matrices = len({int(matrix) for part in parts for matrix in part.matrices})
        padded = steps * matrices * max(part.values.shape[1] for part in parts)
        if 8 * (padded - values) <= PADDING_LIMIT:
            datasets[run.id] = _dataset(view, run.id, parts, others)
            continue
        for length in sorted({part.values.shape[1] for part in parts}):
            chosen = [part for part in parts if part.values.shape[1] == length]
            named = {int(matrix) for part in chosen for matrix in part.matrices}
            beside = [part for part in others if named & set(part.matrices.tolist())]
            datasets[f"{run.id}.rank{length}"] = _dataset(view, run.id, chosen, beside)
    return datasets


def _parts(stacks: Sequence[Stack], run: int) -> list[_SpectraPart]:
    parts = []
    for stack in stacks:
        rows = np.flatnonzero(stack.run_index == run)
        if len(rows):
            parts.append(_SpectraPart(stack.step_index[rows], stack.matrix_index[rows], stack.values[rows]))
    return parts


def _dataset(view: View, run: str, parts: list[_SpectraPart], others: list[_SpectraPart]) -> xr.Dataset:
    steps = np.unique(np.concatenate([part.steps for part in parts]))
    matrices = np.unique(np.concatenate([part.matrices for part in parts]))
    rank = max(part.values.shape[1] for part in parts)
    variables = {"sigma": (("step", "matrix", "rank"), _filled(parts, steps, matrices, rank), _attributes("σ"))}
    if others:
        long_name = "σ after a seeded shuffle of the entries"
        variables["sigma_shuffled"] = (
            ("step", "matrix", "rank"),
            _filled(others, steps, matrices, rank),
            _attributes(long_name),
        )
    coordinates = {
        "step": np.asarray(view.steps)[steps],
        "matrix": np.array([view.matrices[index] for index in matrices], dtype=object),
        "rank": np.arange(1, rank + 1),
    }
    return xr.Dataset(variables, coordinates, {"run": run})


def _filled(parts: list[_SpectraPart], steps: np.ndarray, matrices: np.ndarray, rank: int) -> np.ndarray:
    filled = np.full((len(steps), len(matrices), rank), np.nan)
    for part in parts:
        known = np.isin(part.matrices, matrices) & np.isin(part.steps, steps)
        rows, columns = np.searchsorted(steps, part.steps[known]), np.searchsorted(matrices, part.matrices[known])
        filled[rows, columns, : part.values.shape[1]] = part.values[known]
    return filled


def _attributes(long_name: str) -> dict[str, str]:
    return {
        "long_name": f"singular values {long_name}, descending",
        "units": "weight",
        "source": "float64, all of them",
    }
