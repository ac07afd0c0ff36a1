"""Prints analyzers/linalg/gaussian_tables.py: the laws of Gaussian spectra, simulated once at 104 shapes and smoothed.

    nice -n 5 python -m tests.benchmarks.gaussian_tables DRAWS > analyzers/linalg/gaussian_tables.py

The draws of a shape are kept under DRAWS, and what is there is not simulated again. All of it: 7 CPU minutes.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from analyzers.linalg.gaussian_null import edge_features, gaussian_eigenvalues, law_features
from analyzers.linalg.marchenko_pastur import fit_bulk, median, median_scale, spike_edge
from analyzers.linalg.powerlaw import MINIMUM_VALUES, fit_power_law
from analyzers.linalg.spectra import EPSILON

SIDES = (2, 4, 6, 10, 12, 16, 24, 40, 64, 128, 256, 512, 1024)
RATIOS = (1, 0.85, 2 / 3, 1 / 2, 1 / 4, 1 / 8, 1 / 32, 1 / 1024)
DRAWS = {128: 10000, 256: 6000, 512: 2500, 1024: 700}
"""Matrices per shape; 16000 of smaller ones."""
KS_SIDE = 12
"""Of smaller matrices, those with a spike have no bulk of ten: another law."""
KS_LEVELS = (0.99, 0.9, 0.75, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002)
ALPHA_LEVELS = (
    *(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5),
    *(0.65, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998),
)

Sample = tuple[int, int, np.ndarray]
"""M, N and one number per draw."""


def simulate(M: int, N: int) -> dict[str, np.ndarray]:
    """Of every draw: λ1 over the edge for each estimated s, the KS distance for each s, and α."""
    draws = DRAWS.get(M, 16000)
    spectra = gaussian_eigenvalues(M, N, draws, np.random.default_rng([M, N, draws, 77]))
    edge = spike_edge(1.0, M, N)
    plain = np.sqrt(np.median(spectra, axis=1) / (N * median(M / N)))
    of_median = spectra[:, 0] / plain**2 / edge
    medians = np.array([median_scale(values, N, 0.0, float(np.quantile(of_median, 0.95))) for values in spectra])
    others = np.roll(medians, 1)  # the s of a shuffled Gaussian matrix is that of another Gaussian matrix
    of_shuffle = spectra[:, 0] / others**2 / edge
    results = {"edge_median": of_median, "edge_shuffle": of_shuffle}
    if M >= KS_SIDE:
        totals = np.sqrt(spectra.mean(axis=1) / N)
        scales = {"total": (totals, None), "median": (medians, of_median), "shuffle": (others, of_shuffle)}
        for name, (chosen, ratios) in scales.items():
            widening = 1.0 if ratios is None else float(np.quantile(ratios, 0.95))
            fits = [fit_bulk(values, N, float(s), widening) for values, s in zip(spectra, chosen, strict=True)]
            results[f"ks_{name}"] = np.array([fit.ks for fit in fits])
    if M >= MINIMUM_VALUES:
        sigma = np.sqrt(spectra)
        results["alpha"] = np.array([fit_power_law(row, N * EPSILON * float(row[0])).alpha for row in sigma])
    return results


def quantile(values: np.ndarray, share: float) -> tuple[float, float]:
    """A quantile and its standard error."""
    spread = math.sqrt(share * (1 - share) / len(values))
    low, middle, high = np.quantile(values, [max(share - spread, 0.0), share, min(share + spread, 1.0)])
    return float(middle), float(high - low) / 2


def smoothed(
    samples: Sequence[Sample], share: float, features: Callable[[int, int], np.ndarray], least_error: float
) -> list[float]:
    """Coefficients of the features that give the quantile at every shape, by weighted least squares."""
    rows = np.array([features(M, N) for M, N, _ in samples])
    points = np.array([quantile(values, share) for _, _, values in samples])
    weights = 1 / np.maximum(points[:, 1], least_error)
    return [float(c) for c in np.linalg.lstsq(rows * weights[:, None], points[:, 0] * weights, rcond=None)[0]]


def table(name: str, rows: Sequence[Sequence[float]], about: str) -> str:
    """One array as source."""
    lines = []
    for row in rows:
        numbers = [f"{value:.5g}" for value in row]
        lines.append(f"    [{', '.join(numbers[:8])},\n     {', '.join(numbers[8:])}],")
    return "\n".join([f"{name} = np.array([", *lines, "])", f'"""{about}"""', ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("draws", type=Path)
    folder = parser.parse_args().draws
    folder.mkdir(parents=True, exist_ok=True)
    samples: dict[str, list[Sample]] = {}
    for M in SIDES:
        for N in (round(M / q) for q in RATIOS):
            path = folder / f"{M}x{N}.npz"
            if not path.exists():
                np.savez(path, **simulate(M, N))  # type: ignore[arg-type]  # numpy's stub takes the names for options
            for name, values in np.load(path).items():
                samples.setdefault(name, []).append((M, N, values[np.isfinite(values)]))
    print(
        '"""Laws of Gaussian spectra by shape; printed by tests/benchmarks/gaussian_tables.py, not to be edited."""\n'
    )
    print("from __future__ import annotations\n\nimport numpy as np\n\n# fmt: off\n")
    for name in ("median", "shuffle"):
        ratios = [(M, N, values - 1) for M, N, values in samples[f"edge_{name}"] if M >= 4]
        about = f"Widening of the spike edge for s by {name}, over `edge_features`."
        print(table(f"EDGE_{name.upper()}", [smoothed(ratios, 0.95, edge_features, 1e-4)], about))
    print(f'KS_LEVELS = np.array({list(KS_LEVELS)})\n"""Upper tail probabilities."""\n')
    for name in ("total", "median", "shuffle"):
        scaled = [(M, N, M * values) for M, N, values in samples[f"ks_{name}"]]
        about = f"M · KS distance for s by {name}: one row per level, over `law_features`."
        print(table(f"KS_{name.upper()}", [smoothed(scaled, 1 - p, law_features, 1e-3) for p in KS_LEVELS], about))
    levels = [list(ALPHA_LEVELS)[:9], list(ALPHA_LEVELS)[9:]]
    listed = ",\n    ".join(str(some)[1:-1] for some in levels)
    print(f'ALPHA_LEVELS = np.array([\n    {listed},\n])\n"""Cumulative probabilities."""\n')
    logs = [(M, N, np.log((values - 1) * math.sqrt(M / N))) for M, N, values in samples["alpha"]]
    about = "ln((α − 1) √(M/N)): one row per level, over `law_features`."
    print(table("ALPHA", [smoothed(logs, p, law_features, 1e-3) for p in ALPHA_LEVELS], about), end="")


if __name__ == "__main__":
    main()
