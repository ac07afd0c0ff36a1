"""Shapes and roles of all matrices of a view as arrays, for vectorised derivation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analyzers.contract import Stack, View
from analyzers.weight_spectra.statistics import is_circuit


@dataclass(frozen=True)
class Matrices:
    """Per (run, matrix): p = min(m, n), N = max(m, n) (0 where there is no such matrix), weight and circuit roles."""

    p: np.ndarray
    N: np.ndarray
    weight: np.ndarray
    circuit: np.ndarray

    def sizes(self, stack: Stack) -> tuple[np.ndarray, np.ndarray]:
        """p and N of each spectrum of a stack of σ, (count,). The p of a circuit is its d_head: what it carries."""
        at = (stack.run_index, stack.matrix_index)
        carried = stack.values.shape[1]
        return np.where(self.circuit[at], carried, np.maximum(self.p[at], carried)), self.N[at]

    def is_weight(self, stack: Stack) -> np.ndarray:
        """Which rows of the stack are dense weights, bool (count,)."""
        result: np.ndarray = self.weight[stack.run_index, stack.matrix_index]
        return result


def matrices_of(view: View) -> Matrices:
    """Reads the description of every matrix of every run once."""
    shape = (len(view.runs), len(view.matrices))
    p, N = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    weight, circuit = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    for i, run in enumerate(view.runs):
        for k, name in enumerate(view.matrices):
            info = view.info(run.id, name)
            if info is None:
                continue
            p[i, k], N[i, k] = min(info.shape), max(info.shape)
            weight[i, k], circuit[i, k] = info.role in ("weight", "merged"), is_circuit(info)
    return Matrices(p, N, weight, circuit)
