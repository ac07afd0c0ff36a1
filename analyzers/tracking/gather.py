"""Stored overlaps, run by run and step by step, as the functions of `follow` want them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from analyzers.contract import Stack, Statistic, View
from analyzers.tracking.follow import Links

MATRICES_AT_ONCE = 64
"""Of one run: what is derived from a thousand steps of them stays below a gigabyte."""
Cases = Callable[[np.ndarray], np.ndarray]
"""Overlaps (N, 2, k, k) → the magnitudes (N, S, k, k) to follow by, for S cases of each matrix."""


def own_steps(view: View, run: int) -> np.ndarray:
    """Where the steps of a run stand among the view's, int64, ascending."""
    return np.searchsorted(view.steps, np.asarray(view.runs[run].steps, dtype=np.int64))


class StoredOverlaps:
    """What is stored of two `VectorOverlap`s, `one` with the previous step and `two` with that before it."""

    def __init__(self, view: View, one: Statistic, two: Statistic, k: int) -> None:
        self._view = view
        self._k = k
        self._lags: tuple[list[Stack], ...] = tuple(list(view.stacks(s, "overlap")) for s in (one, two))

    def matrices(self, run: int) -> np.ndarray:
        """Indices of the run's matrices that have an overlap between two neighbouring steps."""
        found = [stack.matrix_index[stack.run_index == run] for stack in self._lags[0]]
        return np.unique(np.concatenate(found)) if found else np.zeros(0, dtype=np.int64)

    def links(self, run: int, matrices: np.ndarray, cases: Cases) -> Iterator[tuple[np.ndarray, Links]]:
        """The links of some of a run's matrices, a few at a time: (their indices, T × (matrices · S) links).

        The S cases of a matrix stand one after the other. NaN where nothing is stored.
        """
        steps = own_steps(self._view, run)
        for start in range(0, len(matrices), MATRICES_AT_ONCE):
            chosen = matrices[start : start + MATRICES_AT_ONCE]
            one, two = (self._table(stacks, run, steps, chosen, cases) for stacks in self._lags)
            yield chosen, Links(one, two)

    def _table(
        self, stacks: list[Stack], run: int, steps: np.ndarray, matrices: np.ndarray, cases: Cases
    ) -> np.ndarray:
        k = self._k
        width = cases(np.zeros((1, 2, k, k))).shape[1]
        table = np.full((len(steps), len(matrices), width, k, k), np.nan, dtype=np.float32)
        for stack in stacks:
            rows = np.flatnonzero((stack.run_index == run) & np.isin(stack.matrix_index, matrices))
            at = np.searchsorted(steps, stack.step_index[rows]), np.searchsorted(matrices, stack.matrix_index[rows])
            table[at] = cases(stack.values[rows][:, :, :k, :k])
        return table.reshape(len(steps), len(matrices) * width, k, k)
