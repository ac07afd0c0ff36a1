"""The true error rates of the statistics in `weight_spectra`: sizes of its p-values and spikes, coverage of α's interval.

    nice -n 5 python -m tests.benchmarks.calibration --only spectra

Prints the tables of docs/calibration.md, each rate with its Monte-Carlo standard error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

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
from analyzers.weight_spectra.nulls import alpha_scatter

SHAPES = ((48, 48, 4000), (200, 200, 2000), (100, 400, 3000), (40, 4000, 4000))
"""Square small, square larger, tall, very tall: M, N, matrices. None is a shape of the tables."""
SCALES = ("total", "median", "shuffle")
REPEATS = 200
INTERVAL_DRAWS = 100


def rate(hits: np.ndarray) -> str:
    """A share with its standard error."""
    share = float(np.mean(hits))
    return f"{share:.3f} ± {math.sqrt(share * (1 - share) / len(hits)):.3f}"


def seeded(*key: int) -> np.random.Generator:
    """Apart from all seeds of the product and of its tables."""
    return np.random.default_rng([20261128, *key])


def scales_of(spectra: np.ndarray, N: int, widened: bool) -> Iterator[tuple[str, np.ndarray, float]]:
    """Each choice of s for Gaussian spectra (draws, M), and the widening of its edge."""
    M = spectra.shape[1]
    widening = {scale: edge_widening(M, N, scale) if widened else 1.0 for scale in SCALES}
    medians = np.array([median_scale(values, N, 0.0, widening["median"]) for values in spectra])
    chosen = (np.sqrt(spectra.mean(axis=1) / N), medians, np.roll(medians, 1))
    yield from zip(SCALES, chosen, widening.values(), strict=True)


def bulk_rows(M: int, N: int, count: int) -> Iterator[str]:
    """Spikes in noise and the sizes of mp_ks_p: as they were, with one frozen set of 100 draws, and as they are."""
    spectra, frozen = (gaussian_eigenvalues(M, N, n, seeded(M, N, n)) for n in (count, 100))
    before = {}
    for scale, s, _ in scales_of(frozen, N, widened=False):
        before[scale] = np.sort([fit_bulk(values, N, float(x)).ks for values, x in zip(frozen, s, strict=True)])
    plain = {}
    for scale, s, _ in scales_of(spectra, N, widened=False):
        fits = [fit_bulk(values, N, float(x)) for values, x in zip(spectra, s, strict=True)]
        spiked = np.array([fit.n_spikes > 0 for fit in fits])
        plain[scale] = spiked, np.array([tail_p_value(before[scale], fit.ks) for fit in fits])
    for scale, s, widening in scales_of(spectra, N, widened=True):
        fits = [fit_bulk(values, N, float(x), widening) for values, x in zip(spectra, s, strict=True)]
        spiked = np.array([fit.n_spikes > 0 for fit in fits])
        p = np.array([bulk_p_value(M, N, scale, fit.ks) for fit in fits])
        old_spiked, old_p = plain[scale]
        rates = [old_spiked, spiked, old_p <= 0.05, p <= 0.05, old_p <= 0.01, p <= 0.01]
        yield f"| {M} × {N} | {scale} | {' | '.join(map(rate, rates))} |"


def alpha_row(M: int, N: int, count: int) -> str:
    """The sizes of alpha_p_value, with 200 shared draws and by the table, and the share of α in 2 … 6."""
    spectra, frozen = (np.sqrt(gaussian_eigenvalues(M, N, n, seeded(M, N, n, 1))) for n in (count, 200))
    alphas, null = (np.array([fit_power_law(sigma).alpha for sigma in some]) for some in (spectra, frozen))
    before = np.array([(1 + (null <= alpha).sum()) / 201 for alpha in alphas])
    p = np.array([alpha_position(M, N, float(alpha)) for alpha in alphas])
    rates = [before <= 0.05, p <= 0.05, before <= 0.01, p <= 0.01]
    return f"| {M} × {N} | {' | '.join(map(rate, rates))} |"


def ensembles() -> dict[str, tuple[np.ndarray, int]]:
    """Populations of σ, and N: matrices diag(σ) G/√N of one of them differ by chance only."""
    places = (np.arange(100) + 0.5) / 100
    heavy = places ** -(1 / (2 * (2.5 - 1)))
    return {
        "power law, α = 2.5, 100 × 100": (heavy, 100),
        "power law, α = 2.5, 100 × 400": (heavy, 400),
        "power law, α = 4, 100 × 100": (places ** -(1 / (2 * (4 - 1))), 100),
        "bulk with ten spikes, 100 × 200": (np.where(np.arange(100) < 10, np.geomspace(8, 2, 100), 1.0), 200),
        "noise, 100 × 100": (np.ones(100), 100),
        "noise, 60 × 600": (np.ones(60), 600),
    }


def coverage_row(name: str, population: np.ndarray, N: int) -> str:
    """How often the interval of one matrix holds the median α of all matrices of its ensemble, and of another one."""
    generator = seeded(len(name), N)
    spectra = np.sqrt(scaled_gaussian_eigenvalues(population, N, 2 * REPEATS, generator))
    alphas = np.array([fit_power_law(sigma).alpha for sigma in spectra])
    centre, others = float(np.median(alphas)), alphas[REPEATS:]
    bounds = np.empty((REPEATS, 2))
    for row, (sigma, alpha) in enumerate(zip(spectra[:REPEATS], alphas, strict=False)):
        bounds[row] = 1 + (alpha - 1) * alpha_scatter(sigma, N, INTERVAL_DRAWS, generator)
    low, high = bounds.T
    iid = np.abs(alphas[:REPEATS] - centre) <= 1.96 * np.array([spread(sigma) for sigma in spectra[:REPEATS]])
    held = [iid, (low <= centre) & (centre <= high), (low <= others) & (others <= high)]
    return f"| {name} | {centre:.2f} | {' | '.join(map(rate, held))} | {np.median((high - low) / (alphas[:REPEATS] - 1)):.2f} |"


def spread(sigma: np.ndarray) -> float:
    """alpha_sigma_iid."""
    fit = fit_power_law(sigma)
    return (fit.alpha - 1) / math.sqrt(fit.n_tail)


def report(emit: Callable[[str], None] = print) -> None:
    """All tables, as Markdown."""
    emit("| shape | s | spike, before | spike, now | p ≤ .05, before | now | p ≤ .01, before | now |")
    emit("|---|---|---|---|---|---|---|---|")
    for shape in SHAPES:
        for row in bulk_rows(*shape):
            emit(row)
    emit("\n| shape | p ≤ .05, before | now | p ≤ .01, before | now |\n|---|---|---|---|---|")
    for shape in SHAPES:
        emit(alpha_row(*shape))
    emit("\n| ensemble | median α | α ± 1.96 alpha_sigma_iid | alpha_interval | another matrix | relative width |")
    emit("|---|---|---|---|---|---|")
    for name, (population, N) in ensembles().items():
        emit(coverage_row(name, population, N))
