"""True error rates of `weight_spectra`: sizes of its p-values, spikes in noise, coverage of α's interval.

"Before": the spike edge of a known s for every s, and one frozen set of 100 draws (of α 200) that all p-values of a
shape come from. α's interval is judged over matrices diag(σ) G/√N, G Gaussian, which differ by chance only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from analyzers.linalg.gaussian_null import (
    alpha_position,
    bulk_p_value,
    edge_widening,
    gaussian_eigenvalues,
    scaled_gaussian_eigenvalues,
    tail_p_value,
)
from analyzers.linalg.marchenko_pastur import fit_bulk, median_scale
from analyzers.linalg.powerlaw import fit_power_law
from analyzers.weight_spectra.nulls import alpha_interval
from tests.benchmarks.calibration.rows import Row

SHAPES = ((48, 48, 4000), (200, 200, 2000), (100, 400, 3000), (40, 4000, 4000))
"""M, N and matrices: square small, square larger, tall, very tall. None is a shape of the tables."""
SCALES = ("total", "median", "shuffle")
SIZES = (0.05, 0.01)
REPEATS = 200
INTERVAL_DRAWS = 100


def rows(scale: float) -> list[Row]:
    """All rates; `scale`: share of the trials."""
    measured: list[Row] = []
    for M, N, count in SHAPES:
        measured += bulk_rows(M, N, max(int(scale * count), 20))
        measured += alpha_rows(M, N, max(int(scale * count), 20))
    for name, (population, N) in ensembles().items():
        measured += coverage_rows(name, population, N, max(int(scale * REPEATS), 10))
    return measured


def seeded(*key: int) -> np.random.Generator:
    """Apart from all seeds of the product and of its tables."""
    return np.random.default_rng([20261128, *key])


def row(what: str, place: str, nominal: float, hits: np.ndarray) -> Row:
    """The share of hits."""
    return Row(what, place, nominal, int(np.sum(hits)), len(hits))


def scales_of(spectra: np.ndarray, N: int, widened: bool) -> Iterator[tuple[str, np.ndarray, float]]:
    """Each choice of s for Gaussian spectra (draws, M), and the widening of its edge."""
    M = spectra.shape[1]
    widening = {scale: edge_widening(M, N, scale) if widened else 1.0 for scale in SCALES}
    medians = np.array([median_scale(values, N, 0.0, widening["median"]) for values in spectra])
    chosen = (np.sqrt(spectra.mean(axis=1) / N), medians, np.roll(medians, 1))
    yield from zip(SCALES, chosen, widening.values(), strict=True)


def fitted(spectra: np.ndarray, N: int, widened: bool) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Each choice of s: which spectra have a spike, and the KS distances of their bulks."""
    for scale, chosen, widening in scales_of(spectra, N, widened):
        fits = [fit_bulk(values, N, float(s), widening) for values, s in zip(spectra, chosen, strict=True)]
        yield scale, np.array([fit.n_spikes > 0 for fit in fits]), np.array([fit.ks for fit in fits])


def bulk_rows(M: int, N: int, count: int) -> list[Row]:
    """Spikes in noise, and the sizes of mp_ks_p."""
    spectra, frozen = (gaussian_eigenvalues(M, N, n, seeded(M, N, n)) for n in (count, 100))
    null = {scale: np.sort(distances) for scale, _, distances in fitted(frozen, N, widened=False)}
    measured = []
    for when, widened in (("before", False), ("now", True)):
        for scale, spiked, distances in fitted(spectra, N, widened):
            place = f"{M} × {N}, {scale}"
            p = np.array([bulk_p_value(M, N, scale, d) if widened else tail_p_value(null[scale], d) for d in distances])
            measured.append(row(f"a spike in noise, {when}", place, 0.05, spiked))
            measured += [row(f"mp_ks_p ≤ {size}, {when}", place, size, p <= size) for size in SIZES]
    return measured


def alpha_rows(M: int, N: int, count: int) -> list[Row]:
    """The sizes of alpha_p_value."""
    drawn = (np.sqrt(gaussian_eigenvalues(M, N, n, seeded(M, N, n, 1))) for n in (count, 200))
    alphas, null = (np.array([fit_power_law(sigma).alpha for sigma in some]) for some in drawn)
    before = np.array([(1 + (null <= alpha).sum()) / 201 for alpha in alphas])
    now = np.array([alpha_position(M, N, float(alpha)) for alpha in alphas])
    return [
        row(f"alpha_p_value ≤ {size}, {when}", f"{M} × {N}", size, p <= size)
        for when, p in (("before", before), ("now", now))
        for size in SIZES
    ]


def ensembles() -> dict[str, tuple[np.ndarray, int]]:
    """Populations of σ, and N."""
    places = (np.arange(50) + 0.5) / 50
    spiked = np.where(np.arange(50) < 5, np.geomspace(8, 2, 50), 1.0)
    return {
        "power law, α = 2.5, 50 × 50": (places ** -(1 / 3), 50),
        "power law, α = 2.5, 50 × 200": (places ** -(1 / 3), 200),
        "power law, α = 4, 50 × 50": (places ** -(1 / 6), 50),
        "five spikes on a bulk, 50 × 100": (spiked, 100),
        "noise, 50 × 50": (np.ones(50), 50),
        "noise, 50 × 500": (np.ones(50), 500),
    }


def coverage_rows(name: str, population: np.ndarray, N: int, count: int) -> list[Row]:
    """How often the interval of one matrix holds the median α of its ensemble, and the α of another matrix of it."""
    generator = seeded(len(population), N, *name.encode())
    spectra = np.sqrt(scaled_gaussian_eigenvalues(population, N, 2 * count, generator))
    fits = [fit_power_law(sigma) for sigma in spectra]
    alphas = np.array([fit.alpha for fit in fits])
    centre, own, others = float(np.median(alphas)), alphas[:count], alphas[count:]
    iid = 1.96 * np.array([(fit.alpha - 1) / math.sqrt(fit.n_tail) for fit in fits[:count]])
    drawn = zip(spectra[:count], own, strict=True)
    low, high = np.array([alpha_interval(s, float(alpha), N, INTERVAL_DRAWS, generator) for s, alpha in drawn]).T
    return [
        row("α ± 1.96 alpha_sigma_iid holds the median α", name, 0.95, np.abs(own - centre) <= iid),
        row("alpha_interval holds the median α", name, 0.95, (low <= centre) & (centre <= high)),
        row("alpha_interval holds another matrix's α", name, math.nan, (low <= others) & (others <= high)),
    ]
