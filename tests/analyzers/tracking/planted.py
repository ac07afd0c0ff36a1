"""Series of matrices whose modes are known: fixed directions, given strengths at each step, and noise."""

from __future__ import annotations

import numpy as np
import torch

from analyzers.contract import Context, Matrix
from analyzers.tracking.follow import Links
from analyzers.tracking.overlaps import joint_overlap, overlaps
from analyzers.tracking.vectors import leading_vectors


def frames(m: int, n: int, modes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal (m, modes) and (n, modes)."""
    rng = np.random.default_rng(seed)
    return tuple(np.linalg.qr(rng.standard_normal((side, modes)))[0] for side in (m, n))


def series(strengths: np.ndarray, m: int = 30, n: int = 20, noise: float = 1e-3, seed: int = 0) -> list[torch.Tensor]:
    """W_t = Σ_j strengths[t, j] u_j v_jᵀ + noise, float64, one for each row; the noise is drawn anew at each step."""
    left, right = frames(m, n, strengths.shape[1], seed)
    rng = np.random.default_rng(seed + 1)
    return [torch.from_numpy((left * s) @ right.T + noise * rng.standard_normal((m, n))) for s in strengths]


def stored(matrices: list[torch.Tensor], k: int, lag: int) -> np.ndarray:
    """(T, 2, k, k): what the statistic of this lag stores at each step, NaN where there is no such earlier step."""
    vectors = [leading_vectors(Matrix.of(matrix), k, Context()) for matrix in matrices]
    table = np.full((len(matrices), 2, k, k), np.nan)
    for t in range(lag, len(matrices)):
        table[t] = overlaps(vectors[t], vectors[t - lag], k)
    return table


def links(matrices: list[torch.Tensor], k: int) -> Links:
    """Of one case, by the joint overlap."""
    return Links(*(joint_overlap(stored(matrices, k, lag))[:, None] for lag in (1, 2)))


def leading(matrices: list[torch.Tensor], k: int) -> np.ndarray:
    """(T, 1, k): the k greatest σ."""
    return np.array([np.linalg.svd(matrix.numpy(), compute_uv=False)[:k] for matrix in matrices])[:, None]
