"""How often the rule for outlier checkpoints (`pipeline.store.outliers`) is wrong, and how often it finds one.

python -m tests.benchmarks.outliers

Paths without an outlier: random walks, and walks around a fixed point, of several dimensions; gradient descent on a
quadratic with noise, warm-up and decay. Steps are even or log-spaced. A run counts as a false alarm where any of its
steps is called an outlier. Found: one step in the middle replaced by weights from elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from pipeline.store.outliers import outliers
from pipeline.store.sketches import WIDTH

COUNTS = (5, 10, 30, 100)
"""Checkpoints of a run."""
LENGTH = 4000
"""Training steps."""


def even(count: int) -> np.ndarray:
    """Steps with equal gaps."""
    return np.linspace(0, LENGTH, count).astype(int)


def log_spaced(count: int) -> np.ndarray:
    """0, then steps with equal ratios, as far as there are whole numbers."""
    return np.unique(np.concatenate([[0], np.geomspace(1, LENGTH, count - 1).astype(int)]))


def walk(dimension: int, steps: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(step, dimension): a random walk, seen at `steps`."""
    gaps = np.sqrt(np.diff(steps))[:, None]
    start = np.zeros((1, dimension))
    return np.concatenate([start, np.cumsum(rng.standard_normal((len(steps) - 1, dimension)) * gaps, axis=0)])


def around_a_point(dimension: int, steps: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Independent states around a minimum, as with a constant rate at the end of training."""
    return rng.standard_normal((len(steps), dimension))


def training(dimension: int, steps: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Momentum descent on a quadratic of power-law curvature with noisy gradients, warm-up and cosine decay."""
    curvature = np.arange(1, dimension + 1) ** -1.2
    weights, velocity = rng.standard_normal(dimension) * 3, np.zeros(dimension)
    seen, wanted = [], set(steps.tolist())
    for step in range(LENGTH + 1):
        if step in wanted:
            seen.append(weights.copy())
        rate = 0.15 * min(step / 200, 1) * (0.5 + 0.5 * np.cos(np.pi * step / LENGTH))
        velocity = 0.9 * velocity - curvature * weights - 0.5 * rng.standard_normal(dimension)
        weights = weights + rate * velocity
    return np.array(seen)


def flagged(path: np.ndarray, rng: np.random.Generator | None = None) -> list[int]:
    """Indices that the rule calls outliers. With `rng` distances come from a sketch, as in the report."""
    if rng is not None:
        path = path @ (rng.standard_normal((path.shape[1], WIDTH)) / np.sqrt(WIDTH))
    return [one.at for one in outliers(len(path), lambda a, b: float(np.linalg.norm(path[a] - path[b])))]


Kind = Callable[[int, np.ndarray, np.random.Generator], np.ndarray]


def rates(
    kind: Kind, dimension: int, grid: Callable[[int], np.ndarray], count: int, trials: int
) -> tuple[float, float]:
    """(share of runs with a false alarm, share of runs in which the replaced step and no other is found)."""
    rng = np.random.default_rng([*kind.__name__.encode(), dimension, count])  # the same in every process
    false = right = 0
    for _ in range(trials):
        path = kind(dimension, grid(count), rng)
        false += bool(flagged(path, rng))
        at = int(rng.integers(1, len(path) - 1))
        strange = path.copy()
        strange[at] = rng.standard_normal(dimension) * np.linalg.norm(path, axis=1).max() * 5 / np.sqrt(dimension)
        right += flagged(strange, rng) == [at]
    return false / trials, right / trials


def rows(trials: int) -> Iterator[tuple[str, int, str, int, float, float]]:
    """kind, dimension, spacing, checkpoints, false alarms, found"""
    for kind, dimensions in (
        (walk, (1, 2, 3, 5, 10, 100)),
        (around_a_point, (1, 2, 3, 5, 10, 100)),
        (training, (200,)),
    ):
        for dimension in dimensions:
            for grid in (even, log_spaced):
                for count in COUNTS:
                    runs = trials if kind is not training else max(10, trials // 20)
                    yield kind.__name__, dimension, grid.__name__, count, *rates(kind, dimension, grid, count, runs)


if __name__ == "__main__":
    print("path            dimensions  steps       checkpoints  false alarms  found")
    for name, dimension, grid_name, count, false, right in rows(400):
        print(f"{name:15} {dimension:10} {grid_name:11} {count:11} {false:13.4f} {right:6.3f}")
