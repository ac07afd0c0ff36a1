"""What is claimed of series of checkpoints: the random walk beside a path, and correlations with the loss.

"Before": the interval of the levels' correlation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from analyzers.intrinsic_dimension.path import centred, shares
from analyzers.intrinsic_dimension.walk import dimension_of_moves, interval
from analyzers.pathway_metrics.correlation import Correlation, correlation, of_differences
from tests.benchmarks.calibration.rows import Row

WALKS = 400
PAIRS = 1000
SPECTRA = {
    "2 dimensions": np.ones(2),
    "30 dimensions": np.ones(30),
    "1000 dimensions": np.ones(1000),
    "1/i of 1000 (34 dimensions)": 1 / np.arange(1, 1001),
}
STEPS = {"8 even": np.arange(8), "40 even": np.arange(40), "12 doubling": np.append(0, 2 ** np.arange(11))}
LENGTHS = (12, 24, 60)


def rows(scale: float) -> list[Row]:
    """All rates; `scale`: share of the trials."""
    draw = np.random.default_rng(0)
    return [*_walks(max(int(scale * WALKS), 20), draw), *_correlations(max(int(scale * PAIRS), 20), draw)]


def _walks(count: int, draw: np.random.Generator) -> Iterator[Row]:
    for name, spectrum in SPECTRA.items():
        for label, steps in STEPS.items():
            held = 0
            for _ in range(count):
                moves = draw.standard_normal((len(steps) - 1, len(spectrum))) * np.sqrt(spectrum)
                moves *= np.sqrt(np.diff(steps))[:, None]
                points = np.vstack([np.zeros(len(spectrum)), moves.cumsum(axis=0)])
                share = shares(centred(points @ points.T))[0]
                low, high = interval(steps, dimension_of_moves(moves @ moves.T))
                held += low[0] <= share <= high[0]
            yield Row("share of a walk's first component in its interval", f"{name}, {label} steps", 0.95, held, count)


def _correlations(count: int, draw: np.random.Generator) -> Iterator[Row]:
    kinds: dict[str, Callable[[int], np.ndarray]] = {
        "linear trends": lambda n: draw.choice([-1, 1]) * np.arange(n) * 8 / n + draw.standard_normal(n),
        "decays": lambda n: 4 * np.exp(-np.arange(n) * 3 / n) + 0.3 * draw.standard_normal(n),
        "random walks": lambda n: draw.standard_normal(n).cumsum(),
        "white noise": lambda n: draw.standard_normal(n),
    }
    ways: dict[str, Callable[[np.ndarray, np.ndarray], Correlation]] = {
        "before: of levels": correlation,
        "now: of changes": of_differences,
    }
    for name, make in kinds.items():
        for n in LENGTHS:
            pairs = [(make(n), make(n)) for _ in range(count)]
            for way, measure in ways.items():
                given = [one for one in (measure(x, y) for x, y in pairs) if np.isfinite(one.low)]
                missed = sum(one.low > 0 or one.high < 0 for one in given)
                if given:
                    yield Row(
                        f"independent series, interval without 0, {way}", f"{name}, {n} steps", 0.05, missed, len(given)
                    )
