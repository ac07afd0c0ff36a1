"""WeLore's split of matrices into low-rank ones (LRC) and others (N-LRC) by one threshold on normalised spectra."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def normalised(sigma: np.ndarray) -> np.ndarray:
    """σ̂ = (σ − σp) / (σ1 − σp) of each spectrum, (count, k); NaN where all σ are equal. sigma: descending."""
    with np.errstate(divide="ignore", invalid="ignore"):
        result: np.ndarray = (sigma - sigma[:, -1:]) / (sigma[:, :1] - sigma[:, -1:])
    return result


def threshold(spectra: Sequence[np.ndarray], total_reduction: float) -> float:
    """The one t at which the fraction of all σ̂ < t first reaches `total_reduction`; NaN without any σ̂.

    spectra: σ̂ of the stated set, 1-D arrays of any lengths, NaN ignored. t stands just above the σ̂ that is needed,
    so that 'σ̂ < t' includes it. Source: WeLore, 2407.11239 (there t is searched on a grid).
    """
    pooled = np.concatenate([values[np.isfinite(values)] for values in spectra]) if spectra else np.empty(0)
    if not len(pooled):
        return float("nan")
    needed = int(np.ceil(total_reduction * len(pooled) - 1e-9))
    if needed <= 0:
        return 0.0
    return float(np.nextafter(np.partition(pooled, needed - 1)[needed - 1], np.inf))


def reduction(unit: np.ndarray, t: np.ndarray) -> np.ndarray:
    """mean(σ̂ < t) of each spectrum, (count,); unit: σ̂ (count, k), t: (count,)."""
    below = (unit < t[:, None]).mean(axis=1)
    result: np.ndarray = np.where(np.isfinite(unit).all(axis=1) & np.isfinite(t), below, np.nan)
    return result
