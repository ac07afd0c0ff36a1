"""How much of a spectrum independent noise would explain: Marchenko–Pastur fits, judged against their own null.

`s`, the standard deviation of the noise, is a named choice: "total", "median" or "shuffle".
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from analyzers import costs
from analyzers.contract import Cache, Content, Context, Cost, MatrixInfo, Observation, Result, Statistic, Unit
from analyzers.errors import ParameterError
from analyzers.linalg.blocks import dense64
from analyzers.linalg.gaussian_null import bulk_p_value, edge_widening, gaussian_eigenvalues, tail_p_value
from analyzers.linalg.marchenko_pastur import NO_FIT, BulkFit, fit_bulk, median_scale
from analyzers.linalg.powerlaw import MINIMUM_VALUES
from analyzers.linalg.spectra import singular_values
from analyzers.weight_spectra.statistics import (
    Entries,
    Sigma,
    input_of,
    matrix_of,
    no_entries,
    power_law_floor,
    shape_of,
)

BULK_SCALES = ("total", "median", "shuffle")
_NULL_VERSION = 2


@dataclass(frozen=True)
class ShuffledSigma(Statistic):
    """All σ after a seeded permutation of the entries: the spectrum that the entries' own law has without structure.

    Field: `sigma` float64 descending (p,). The seed derives from the unit's key.
    """

    name = "shuffled_sigma"
    version = 1
    scope = "matrix"

    def refuses(self, info: MatrixInfo, reference: MatrixInfo | None) -> str | None:
        """Only dense weights are shuffled: the entries of a product are not exchangeable."""
        return no_entries(info) or not_a_weight(info, "a shuffle of its entries")

    def compute(self, unit: Unit, context: Context) -> Result:
        """The permutation is drawn on the CPU, so that devices agree."""
        content = matrix_of(unit.only).content()
        shuffled = shuffle_entries(content, context.generator())
        return {"sigma": singular_values(shuffled).sigma.cpu().numpy().copy()}


@dataclass(frozen=True)
class MarchenkoPasturFit(Statistic):
    """The bulk under each choice of s, with the p-value of its distance to the law.

    Fields, each float64 (len(scales),): `s`, `edge`, `upper` (λ+), `n_spikes`, `ks`, `ks_p`. The edge of an estimated s
    is widened by the error of s. The null of `ks` is that of Gaussian matrices of this shape, for each of which s is
    fitted anew: a tabulated law, or so many `draws` at exactly this shape.
    s is at least that of rounding; where it is no more, there is no bulk to judge: `upper` and `ks` are NaN. All are
    NaN where fewer than 20 σ of a larger matrix are above rounding.
    """

    scales: tuple[str, ...] = ("total", "median")
    draws: int | None = None

    name = "mp_fit"
    version = 3
    scope = "matrix"
    reads_matrices = False

    def __post_init__(self) -> None:
        for scale in self.scales:
            if scale not in BULK_SCALES:
                raise ParameterError(f"bulk scale {scale!r} is unknown; known: {', '.join(BULK_SCALES)}")

    def inputs(self) -> tuple[Statistic, ...]:
        """σ, the entries' std, and the shuffled σ where s is to come from them."""
        shuffled = (ShuffledSigma(),) if "shuffle" in self.scales else ()
        return (Sigma(), Entries(), *shuffled)

    def refuses(self, info: MatrixInfo, reference: MatrixInfo | None) -> str | None:
        """The law is one of matrices of independent entries, not of products."""
        if min(info.shape) < 2:
            return f"a {info.shape[0]} × {info.shape[1]} matrix has no bulk of singular values"
        return not_a_weight(info, "the Marchenko–Pastur law")

    def cost(self, infos: Sequence[MatrixInfo]) -> Cost:
        """A fit, and a null that is drawn once per shape: 2.6 µs · M + 8.1 ns · M² a draw, measured."""
        sides = {tuple(sorted(info.shape)) for info in infos}
        null = costs.python(sum((2.6e-6 * m + 8.1e-9 * m * m) * (self.draws or 0) for m, _ in sides))
        fit = Cost.of(
            [costs.python(sum(7e-4 + 3e-7 * m for m in map(min, (i.shape for i in infos))))],
            1 << 26,
            "cpu",
            result_bytes=130 * len(infos),
        )
        return replace(fit, once=(null,) if self.draws else ())

    def compute(self, unit: Unit, context: Context) -> Result:
        """See `analyzers.linalg.marchenko_pastur.fit_bulk`."""
        observation = unit.only
        M, N = sorted(shape_of(observation))
        # A power of two changes no digit, and keeps the squares of entries near 1e170 finite.
        exponent = int(np.frexp(input_of(observation, "sigma")["sigma"][0])[1])
        fits = self._fits(observation, M, N, exponent)
        judged = [(scale, fit.ks) for scale, fit in zip(self.scales, fits, strict=True)]
        if self.draws is None:
            p_values = [bulk_p_value(M, N, scale, ks) for scale, ks in judged]
        else:
            null = bulk_null(M, N, self.draws, context.cache)
            p_values = [tail_p_value(null[scale], ks) for scale, ks in judged]
        with np.errstate(over="ignore"):  # λ of σ beyond 1e154: inf
            edge, upper = np.ldexp([[fit.edge for fit in fits], [fit.upper for fit in fits]], 2 * exponent)
        return {
            "s": np.ldexp([fit.s for fit in fits], exponent),
            "edge": edge,
            "upper": upper,
            "n_spikes": np.array([float(fit.n_spikes) if fit.n_spikes >= 0 else math.nan for fit in fits]),
            "ks": np.array([fit.ks for fit in fits]),
            "ks_p": np.array(p_values),
        }

    def _fits(self, observation: Observation, M: int, N: int, exponent: int) -> list[BulkFit]:
        """One fit per scale, to matrices divided by 2^exponent."""
        sigma = np.ldexp(input_of(observation, "sigma")["sigma"], -exponent)
        entries = input_of(observation, "entries")
        floor = power_law_floor(sigma, (M, N), math.ldexp(float(entries["noise_floor"]), -exponent))
        if (sigma > floor).sum() < min(M, MINIMUM_VALUES):
            return [NO_FIT] * len(self.scales)
        rounding = floor / (math.sqrt(N) + math.sqrt(M))
        fits = []
        for scale in self.scales:
            if scale == "total":
                s = max(math.ldexp(float(entries["std"]), -exponent), rounding)
            else:
                of_shuffle = scale == "shuffle"
                noise = np.ldexp(input_of(observation, "shuffled_sigma")["sigma"], -exponent) if of_shuffle else sigma
                s = median_scale(noise**2, N, rounding, edge_widening(M, N, "median"))
            fit = fit_bulk(sigma**2, N, s, edge_widening(M, N, scale))
            fits.append(fit if s > rounding else replace(fit, upper=math.nan, ks=math.nan))
        return fits


def bulk_null(M: int, N: int, draws: int, cache: Cache) -> dict[str, np.ndarray]:
    """Bulk scale → the KS distances of `draws` Gaussian matrices of this shape, ascending; seeded by the shape."""
    make = functools.partial(_bulk_null, M, N, draws)
    kept = cache("mp_null", f"{M}x{N}:{draws}:v{_NULL_VERSION}", make)
    return {name: values.numpy() for name, values in kept.items()}


@functools.lru_cache(maxsize=256)
def _bulk_null(M: int, N: int, draws: int) -> dict[str, torch.Tensor]:
    generator = np.random.default_rng([M, N, draws, 1])
    spectra = gaussian_eigenvalues(M, N, draws, generator)
    medians = np.array([median_scale(values, N, 0.0, edge_widening(M, N, "median")) for values in spectra])
    scales = {
        "total": np.sqrt(spectra.sum(axis=1) / (M * N)),
        "median": medians,
        # The s of a shuffled Gaussian matrix is that of another Gaussian matrix.
        "shuffle": np.roll(medians, 1),
    }
    null = {}
    for name, chosen in scales.items():
        widening = edge_widening(M, N, name)
        distances = [fit_bulk(values, N, float(s), widening).ks for values, s in zip(spectra, chosen, strict=True)]
        null[name] = torch.from_numpy(np.sort(np.array(distances)))
    return null


def shuffle_entries(content: Content, generator: torch.Generator) -> torch.Tensor:
    """The entries in random order, same shape and storage dtype."""
    tensor = content if isinstance(content, torch.Tensor) else dense64(content)
    order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
    # Indexing is not offered for every storage dtype (float8): bytes of the same width are moved instead.
    width = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    flat = tensor.contiguous().view(width).reshape(-1)[order]
    return flat.reshape(tensor.shape).view(tensor.dtype)


def not_a_weight(info: MatrixInfo, what: str) -> str | None:
    """The reason to refuse Δ of an adapter and attention circuits, which are products of thin factors."""
    if info.role == "weight":
        return None
    return f"{what} applies to matrices of independent entries, and this is a product of factors (role {info.role!r})"
