"""What a Gram matrix of a path tells: its principal components beside those of a random walk, steps, distances."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Path:
    """`explained`, `explained_null` (T − 1,) shares of variance, descending; `components` (T, c) the path in its first
    components; `effective` and `effective_null`: (Σλ)²/Σλ² of the two; `distance` (T,) from the first step;
    `cosine` (T,) of a step with the one before it, NaN where there are not two, or one has no length; `moves` (T − 1,
    T − 1) the Gram of the moves from step to step."""

    explained: np.ndarray
    explained_null: np.ndarray
    components: np.ndarray
    effective: float
    effective_null: float
    distance: np.ndarray
    cosine: np.ndarray
    moves: np.ndarray


def centred(gram: np.ndarray) -> np.ndarray:
    """J G J, J = 1 − 11ᵀ/T: the Gram about the path's mean."""
    return gram - gram.mean(axis=0, keepdims=True) - gram.mean(axis=1, keepdims=True) + gram.mean()


def random_walk(steps: np.ndarray) -> np.ndarray:
    """Expected Gram J L diag(Δt) Lᵀ J of a random walk in many dimensions observed at these steps, (T, T): the
    covariance of a Brownian path, min(t_s, t_t), about its mean."""
    t = steps.astype(float) - float(steps[0])
    return centred(np.minimum.outer(t, t))


def shares(gram: np.ndarray) -> np.ndarray:
    """Eigenvalues of a centred Gram over their sum, descending, (T − 1,); NaN where nothing moved."""
    values = np.clip(np.linalg.eigvalsh((gram + gram.T) / 2)[::-1][: len(gram) - 1], 0, None)
    total = values.sum()
    return values / total if total > 0 else np.full(len(values), np.nan)


def effective_dimension(explained: np.ndarray) -> float:
    """(Σλ)²/Σλ²."""
    return float(1 / np.sum(explained**2)) if np.isfinite(explained).all() and explained.size else float("nan")


def principal(centred_gram: np.ndarray, components: int, last: int) -> np.ndarray:
    """(T, c) coordinates along the first principal components. Those of point `last` are no less than point 0's: the
    path runs to the right and up, whatever the solver's signs."""
    values, vectors = np.linalg.eigh((centred_gram + centred_gram.T) / 2)
    kept = min(components, len(values))
    coordinates = np.zeros((len(values), components))
    coordinates[:, :kept] = (vectors * np.sqrt(np.clip(values, 0, None)))[:, ::-1][:, :kept]
    signs = np.sign(coordinates[last] - coordinates[0])
    return np.asarray(coordinates * np.where(signs == 0, 1, signs))


@dataclass(frozen=True)
class Joint:
    """Several runs in one basis: `explained` (N − 1,) shares of the variance of all N checkpoints; `components` (N, c);
    `shares` (R, c) of the variance of each run's own path (about its own mean) along these components, NaN where the
    run does not move."""

    explained: np.ndarray
    components: np.ndarray
    shares: np.ndarray


def joint_of(gram: np.ndarray, run_index: np.ndarray, components: int) -> Joint:
    """The principal components of all checkpoints together, and what they hold of each run's path."""
    c = centred(gram)
    coordinates = principal(c, components, int(np.flatnonzero(run_index == run_index[0])[-1]))
    held = np.full((int(run_index.max()) + 1, components), np.nan)
    for run in range(len(held)):
        rows = np.flatnonzero(run_index == run)
        total = float(np.trace(centred(gram[np.ix_(rows, rows)])))
        if len(rows) > 1 and total > 0:
            own = coordinates[rows] - coordinates[rows].mean(axis=0)
            held[run] = (own**2).sum(axis=0) / total
    return Joint(shares(c), coordinates, held)


def path_of(gram: np.ndarray, steps: np.ndarray, components: int = 3) -> Path:
    """Everything from the (T, T) Gram of the differences from the first step."""
    c = centred(gram)
    explained = shares(c)
    null = shares(random_walk(steps))
    coordinates = principal(c, components, len(steps) - 1)
    moves = np.diff(np.eye(len(steps)), axis=0) @ gram @ np.diff(np.eye(len(steps)), axis=0).T
    lengths = np.sqrt(np.clip(np.diag(moves), 0, None))
    with np.errstate(divide="ignore", invalid="ignore"):
        cosines = np.diag(moves, 1) / (lengths[:-1] * lengths[1:])
    cosine = np.full(len(steps), np.nan)
    cosine[2:] = cosines
    distance = np.sqrt(np.clip(np.diag(gram), 0, None))
    return Path(
        explained, null, coordinates, effective_dimension(explained), effective_dimension(null), distance, cosine, moves
    )
