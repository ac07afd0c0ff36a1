"""How the vectors behind the scores were found, for the reader of a report: what was proven, what was factorized."""

from __future__ import annotations

from collections import Counter

import numpy as np

from analyzers.contract import Stack, View
from analyzers.intruder_dimensions.intruders import Intruders
from analyzers.intruder_dimensions.null import IntruderNull
from analyzers.linalg import methods
from analyzers.linalg.certified_pairs import SMALLEST
from analyzers.linalg.dense_top import FROM

Counts = Counter[int]


def notes_on_methods(view: View, scores: Intruders, null: IntruderNull | None) -> tuple[str, ...]:
    """One sentence each for adapters, for large dense matrices and for the null of adapters, where there are any.

    Small matrices are factorized by choice, and a W that equals W0 needs no vectors: neither is counted.
    """
    adapters, dense = _by_method(view, scores)
    notes = []
    if adapters:
        notes.append(
            f"Vectors of adapters: {_share(adapters, methods.ADAPTER)} matrices certified in the base's singular "
            f"coordinates{_others(adapters, methods.ADAPTER)}."
        )
    if dense:
        notes.append(
            f"Vectors of dense matrices of at least {FROM} rows and columns: {_share(dense, methods.KRYLOV)} by the "
            f"certified iteration{_others(dense, methods.KRYLOV)}."
        )
    if null is not None:
        draws, factorized = _null_draws(view, null)
        if draws:
            fast = draws - factorized
            rest = f"; full factorization {factorized}" if factorized else ""
            notes.append(f"Draws of adapters' null: {fast} of {draws} certified in the base's coordinates{rest}.")
    return tuple(notes)


def _by_method(view: View, scores: Intruders) -> tuple[Counts, Counts]:
    adapters, dense = Counter[int](), Counter[int]()
    for stack in view.stacks(scores, "method"):
        codes = stack.values.astype(int)
        is_adapter, smaller = _kinds(view, stack)
        found = codes >= 0
        adapters.update(codes[found & is_adapter & (smaller >= SMALLEST)].tolist())
        dense.update(codes[found & ~is_adapter & (smaller >= FROM)].tolist())
    return adapters, dense


def _null_draws(view: View, null: IntruderNull) -> tuple[int, int]:
    draws = factorized = 0
    for stack in view.stacks(null, "dense"):
        is_adapter, smaller = _kinds(view, stack)
        chosen = is_adapter & (smaller >= SMALLEST)
        draws += int(chosen.sum()) * null.draws
        factorized += int(np.minimum(stack.values[chosen], null.draws).sum())
    return draws, factorized


def _kinds(view: View, stack: Stack) -> tuple[np.ndarray, np.ndarray]:
    """Of each row: whether it is an adapter's update, and its smaller side."""
    known: dict[tuple[int, int], tuple[bool, int]] = {}
    for place in set(zip(stack.run_index.tolist(), stack.matrix_index.tolist(), strict=True)):
        info = view.info(view.runs[place[0]].id, view.matrices[place[1]])
        known[place] = (False, 0) if info is None else (info.role == "delta", min(info.shape))
    rows = [known[place] for place in zip(stack.run_index.tolist(), stack.matrix_index.tolist(), strict=True)]
    return np.array([row[0] for row in rows], dtype=bool), np.array([row[1] for row in rows], dtype=int)


def _share(counts: Counts, code: int) -> str:
    return f"{counts[code]} of {counts.total()}"


def _others(counts: Counts, code: int) -> str:
    rest = [f"{methods.NAMES[other]} {count}" for other, count in sorted(counts.items()) if other != code]
    return f"; instead, {', '.join(rest)}" if rest else ""
