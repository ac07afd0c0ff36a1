"""The stored facts of a matrix that every default variable derives from: σ, entry-wise facts, the power-law fit.

Definitions: docs/weight-spectra.md. `Sigma` is shared with every other spectral analyzer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from analyzers.contract import Content, Context, Cost, MatrixInfo, Observation, Result, Statistic, Unit
from analyzers.costs import Work, python, scan
from analyzers.errors import ContractError, Unmeasurable
from analyzers.linalg.entries import entry_facts
from analyzers.linalg.ggd import fit_ggd
from analyzers.linalg.noise import storage_noise_floor, ulp_squared
from analyzers.linalg.powerlaw import MINIMUM_VALUES, fit_power_law
from analyzers.linalg.spectra import Spectrum, singular_values, singular_values_batch
from analyzers.linalg.spectrum_work import spectrum_memory, spectrum_work
from analyzers.weight_spectra.scalars import rounding_floor

METHODS = ("gram", "svd", "qr")
"""What `sigma`'s field `method` counts through."""

_BATCH_ENTRIES = 1 << 16
"""A matrix of at most so many entries is factorized together with others of its shape."""
_BATCH_COUNT = 256
_DEVICE_COPIES = 5
"""Of a stack in float64, at its peak: the stack, its Grams, and what their factorization takes."""
_DEVICE_SHARE = 0.5
"""Of a device's free memory, for one stack."""


@dataclass(frozen=True)
class Sigma(Statistic):
    """All singular values.

    Fields: `sigma` float64 descending (k,): k = min(m, n), or the inner dimension of a low-rank product where that is
    smaller (the other values are exact zeros); `method` int8, an index into `METHODS`.
    """

    name = "sigma"
    version = 1
    scope = "matrix"

    def refuses(self, info: MatrixInfo, reference: MatrixInfo | None) -> str | None:
        """A matrix without entries has no singular values."""
        return no_entries(info)

    def cost(self, infos: Sequence[MatrixInfo]) -> Cost:
        """A Gram and its eigenvalues, or of thin factors their QR; measured from 128² to 4096 × 1024."""
        work: list[Work] = []
        memory = 0
        for info in infos:
            work += spectrum_work(info)
            memory = max(memory, spectrum_memory(info))
        return Cost.of(work, memory, result_bytes=sum(8 * min(i.shape) + 64 for i in infos))

    def compute(self, unit: Unit, context: Context) -> Result:
        """One spectrum; see `analyzers.linalg.spectra.singular_values`."""
        return _spectrum_result(singular_values(matrix_of(unit.only).content()))

    def compute_batch(self, units: Sequence[Unit], contexts: Sequence[Context]) -> list[Result | Exception]:
        """Small dense matrices of one shape and dtype go through one batched factorization."""
        outcomes: list[Result | Exception | None] = [None] * len(units)
        waiting: dict[Any, list[tuple[int, torch.Tensor]]] = {}
        for position, unit in enumerate(units):
            try:
                content = matrix_of(unit.only).content()
                together = _together(content)
                if not isinstance(content, torch.Tensor) or together < 2:
                    outcomes[position] = _spectrum_result(singular_values(content))
                    continue
            except Exception as error:  # each unit answers for itself: the caller records it with its traceback
                outcomes[position] = error
                continue
            group = waiting.setdefault((content.shape, content.dtype, content.device), [])
            group.append((position, content))
            if len(group) >= together:
                _factorize(group, outcomes)
                group.clear()
        for group in waiting.values():
            _factorize(group, outcomes)
        return [outcome for outcome in outcomes if outcome is not None]


@dataclass(frozen=True)
class Entries(Statistic):
    """What the entries say, in one streamed pass.

    Fields (all 0-d): `mean`, `std`, `skewness`, `kurtosis`, `largest` (max |w|), `zero_fraction`, `ulp_squared`
    (mean ulp(w)²), `mantissa_bits` (int64, the fraction bits in use), `noise_floor`, `ggd_shape`, `ggd_scale`.
    Of an attention circuit, a product that is never expanded, only `noise_floor` is measured; the rest is NaN (−1).
    """

    name = "entries"
    version = 2
    scope = "matrix"

    def refuses(self, info: MatrixInfo, reference: MatrixInfo | None) -> str | None:
        """A matrix without entries has nothing to say."""
        return no_entries(info)

    def cost(self, infos: Sequence[MatrixInfo]) -> Cost:
        """8 ns per entry (a delta is expanded: 12), measured; blocks, and the matrix in its storage dtype."""
        sizes = [info.shape[0] * info.shape[1] for info in infos]
        passes = sum(
            (6 if i.role == "delta" else 4) * n for i, n in zip(infos, sizes, strict=True) if not is_circuit(i)
        )
        work = [scan(passes), python(1e-3 * len(sizes))]
        return Cost.of(work, 8 * max(sizes, default=0) + (160 << 20), "cpu", result_bytes=100 * len(sizes))

    def compute(self, unit: Unit, context: Context) -> Result:
        """See `analyzers.linalg.entries`, `ggd` and `noise`."""
        observation = unit.only
        content = matrix_of(observation).content()
        if observation.info is not None and is_circuit(observation.info):
            blank = dict.fromkeys(("mean", "std", "skewness", "kurtosis", "largest", "zero_fraction"), np.nan)
            blank |= dict.fromkeys(("ulp_squared", "ggd_shape", "ggd_scale"), np.nan)
            return _scalars(blank | {"noise_floor": storage_noise_floor(content)}, mantissa_bits=-1)
        facts = entry_facts(content)
        dense = isinstance(content, torch.Tensor)
        shape, scale = fit_ggd(facts.magnitudes, facts.counts, facts.zeros)
        values = {
            "mean": facts.mean,
            "std": facts.std,
            "skewness": facts.skewness,
            "kurtosis": facts.kurtosis,
            "largest": facts.largest,
            "zero_fraction": facts.zeros / facts.count,
            "ulp_squared": ulp_squared(facts, content.dtype) if isinstance(content, torch.Tensor) else np.nan,
            "noise_floor": storage_noise_floor(content, facts if dense else None),
            "ggd_shape": shape,
            "ggd_scale": scale,
        }
        return _scalars(values, mantissa_bits=facts.mantissa_bits)


@dataclass(frozen=True)
class PowerLawFit(Statistic):
    """The power-law fit to the eigenvalues above the floor max(noise_floor, N ε64 σ1).

    Fields (0-d): `alpha`, `xmin` (of λ), `ks_distance`, `n_tail`, `n_values` (above the floor). NaN and `n_tail` 0
    where fewer than `minimum_values` are above it, or where all σ are equal up to rounding.
    """

    minimum_values: int = MINIMUM_VALUES

    name = "power_law"
    version = 2
    scope = "matrix"
    reads_matrices = False

    def inputs(self) -> tuple[Statistic, ...]:
        """σ, and the noise floor of the entries."""
        return (Sigma(), Entries())

    def refuses(self, info: MatrixInfo, reference: MatrixInfo | None) -> str | None:
        """A handful of singular values carries no power law."""
        p = min(info.shape)
        if p < self.minimum_values:
            return f"p = {p}: no power law is fitted to fewer than {self.minimum_values} singular values"
        return None

    def cost(self, infos: Sequence[MatrixInfo]) -> Cost:
        """The pruned scan: 0.3 µs per value, measured."""
        work = [python(sum(2e-4 + 3e-7 * min(i.shape) for i in infos))]
        return Cost.of(work, 1 << 20, "cpu", result_bytes=70 * len(infos))

    def compute(self, unit: Unit, context: Context) -> Result:
        """See `analyzers.linalg.powerlaw.fit_power_law`."""
        observation = unit.only
        sigma = input_of(observation, "sigma")["sigma"]
        if not len(sigma):
            raise Unmeasurable("there are no singular values")
        noise = float(input_of(observation, "entries")["noise_floor"])
        fit = fit_power_law(sigma, power_law_floor(sigma, shape_of(observation), noise), self.minimum_values)
        values = {"alpha": fit.alpha, "xmin": fit.xmin, "ks_distance": fit.ks_distance}
        return _scalars(values, n_tail=fit.n_tail, n_values=fit.n_values)


def power_law_floor(sigma: np.ndarray, shape: tuple[int, int], noise_floor: float) -> float:
    """max(noise_floor, N ε64 σ1): at or below it a σ is rounding of the storage or of the arithmetic."""
    return float(rounding_floor(sigma[0], np.array(max(shape)), noise_floor))


def is_circuit(info: MatrixInfo) -> bool:
    """Whether this is an attention circuit (QK or OV): a product of thin factors."""
    return info.role.startswith("circuit")


def no_entries(info: MatrixInfo) -> str | None:
    """The reason to refuse a 0 × n matrix."""
    return f"a {info.shape[0]} × {info.shape[1]} matrix has no entries" if 0 in info.shape else None


def matrix_of(observation: Observation) -> Any:
    """The observation's matrix; a unit of scope matrix always has one."""
    if observation.matrix is None:
        raise ContractError(f"the unit of {observation.run}@{observation.step} carries no matrix")
    return observation.matrix


def shape_of(observation: Observation) -> tuple[int, int]:
    """(m, n), from the matrix's description."""
    if observation.info is None:
        raise ContractError(f"the unit of {observation.run}@{observation.step} carries no matrix")
    return observation.info.shape


def input_of(observation: Observation, name: str) -> Result:
    """A declared input statistic's result."""
    if name not in observation.statistics:
        raise ContractError(f"input {name!r} is missing; the unit has {sorted(observation.statistics)}")
    return observation.statistics[name]


def _together(content: Content) -> int:
    """How many matrices like this one are factorized at once: small ones on the CPU, what fits on a device."""
    if not isinstance(content, torch.Tensor) or not content.numel():
        return 1
    if content.device.type != "cuda":
        return _BATCH_COUNT if content.numel() <= _BATCH_ENTRIES else 1
    room = _DEVICE_SHARE * torch.cuda.mem_get_info(content.device)[0]
    return min(_BATCH_COUNT, int(room / (8 * _DEVICE_COPIES * content.numel())))


def _factorize(group: list[tuple[int, torch.Tensor]], outcomes: list[Result | Exception | None]) -> None:
    if not group:
        return
    spectra = singular_values_batch(torch.stack([content for _, content in group]))
    for (position, content), spectrum in zip(group, spectra, strict=True):
        try:
            outcomes[position] = _spectrum_result(spectrum or singular_values(content))
        except Exception as error:  # each unit answers for itself: the caller records it with its traceback
            outcomes[position] = error


def _spectrum_result(spectrum: Spectrum) -> Result:
    method = np.array(METHODS.index(spectrum.method), dtype=np.int8)
    # A product of inner dimension 0 is a zero matrix: one zero stands for all.
    sigma = spectrum.sigma.cpu().numpy().copy() if len(spectrum.sigma) else np.zeros(1)
    return {"sigma": sigma, "method": method}


def _scalars(floats: dict[str, float], **integers: int) -> Result:
    result: dict[str, np.ndarray] = {name: np.array(value, dtype=np.float64) for name, value in floats.items()}
    return result | {name: np.array(value, dtype=np.int64) for name, value in integers.items()}
