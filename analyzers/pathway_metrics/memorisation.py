"""Which samples were memorised when, from their losses over the steps of a run (2506.21551)."""

from __future__ import annotations

import numpy as np

DELTA = 0.05
SHARE = 0.225
"""Of a domain's samples, how many are to be memorised before the last checkpoint: the paper has 20–25 %."""


def memorised_from(losses: np.ndarray, epsilon: np.ndarray | float, delta: float = DELTA) -> np.ndarray:
    """(N,) int: the first step index t* from which on ℓ(t) ≤ ε and |ℓ(t) − ℓ(T)| ≤ δ for all t ≥ t*; −1 for never.

    losses: (T, N); epsilon: one, or one per sample. The last step alone is no evidence and counts as never.
    """
    settled = (losses <= epsilon) & (np.abs(losses - losses[-1]) <= delta)
    since = np.logical_and.accumulate(settled[::-1], axis=0)[::-1]
    first = np.where(since.any(0), since.argmax(0), -1)
    return np.where(first < len(losses) - 1, first, -1)


def choose_epsilon(losses: np.ndarray, domains: np.ndarray, delta: float = DELTA, share: float = SHARE) -> np.ndarray:
    """(N,) each sample's ε: per domain, the least with which `share` of its samples are memorised before the last step.

    NaN in a domain where even no limit makes that many settle (then no sample of it counts as memorised).
    losses: (T, N), domains: (N,) codes.
    """
    epsilon = np.full(losses.shape[1], np.nan)
    if len(losses) < 2:
        return epsilon
    settled = np.abs(losses[-2] - losses[-1]) <= delta
    needed = np.maximum(losses[-2], losses[-1])
    for domain in np.unique(domains):
        rows = np.flatnonzero((domains == domain) & settled & np.isfinite(needed))
        wanted = int(np.ceil(share * (domains == domain).sum()))
        if len(rows) >= max(1, wanted):
            epsilon[domains == domain] = np.sort(needed[rows])[wanted - 1]
    return epsilon
