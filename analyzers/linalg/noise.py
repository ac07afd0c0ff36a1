"""The spectral norm of the rounding that storing a matrix put on it: below it, a singular value is not information."""

from __future__ import annotations

import math

import numpy as np
import torch

from analyzers.contract import Content, LowRank, Sum
from analyzers.linalg.entries import EntryFacts, entry_facts
from analyzers.linalg.spectra import singular_values

NARROW_FORMATS = {
    torch.float8_e4m3fn: (3, -6),
    torch.float8_e4m3fnuz: (3, -7),
    torch.float8_e5m2: (2, -14),
    torch.float8_e5m2fnuz: (2, -15),
    torch.float16: (10, -14),
}
"""Fraction bits and least normal exponent of the formats whose subnormals are within reach."""


def ulp_squared(facts: EntryFacts, dtype: torch.dtype) -> float:
    """mean(ulp(w)²) over the entries, from the *effective* format of a dense tensor stored as `dtype`.

    A file of float32 whose entries all end in 16 zero bits was bfloat16 once, and its spacing is bfloat16's; likewise
    float16 (10 fraction bits, all entries multiples of 2⁻²⁴) and float32 inside float64. Nothing coarser than
    bfloat16 is inferred: entries of few values (ternary, ±1) may be exact. Zeros carry no rounding but a format's
    least spacing. Integers round to 1.
    """
    mean, exponent = _scaled_ulp_squared(facts, dtype)
    with np.errstate(over="ignore"):  # of entries beyond 1e154: inf
        return float(np.ldexp(mean, 2 * exponent))


def rounding_rms(facts: EntryFacts, dtype: torch.dtype) -> float:
    """s_E = √(mean(ulp²)/12) of a dense tensor, finite also where ulp² is out of float64's range."""
    mean, exponent = _scaled_ulp_squared(facts, dtype)
    return math.ldexp(math.sqrt(mean / 12.0), exponent)


def _scaled_ulp_squared(facts: EntryFacts, dtype: torch.dtype) -> tuple[float, int]:
    """(x, e) with mean(ulp²) = x · 4^e."""
    if not dtype.is_floating_point:
        return 1.0, 0
    bits, least = _format(facts, dtype)
    if not len(facts.magnitudes):
        return 0.0, 0
    exponents = np.maximum(np.frexp(facts.magnitudes)[1] - 1, least) - bits
    greatest = int(exponents.max())
    squares = np.ldexp(1.0, 2 * (exponents - greatest))
    return float((squares * facts.counts).sum() / facts.count), greatest


def _format(facts: EntryFacts, dtype: torch.dtype) -> tuple[int, int]:
    if dtype in NARROW_FORMATS:
        return NARROW_FORMATS[dtype]
    if dtype == torch.bfloat16 or facts.mantissa_bits <= 7:
        # Below 2⁻¹⁷ bfloat16 is finer than float16's grid: where all entries keep to the grid, it is the spacing.
        return 7, -17 if dtype != torch.bfloat16 and _multiples_of(facts, -24) else -126
    if facts.mantissa_bits <= 10 and _multiples_of(facts, -24):
        return NARROW_FORMATS[torch.float16]
    if dtype == torch.float32 or facts.mantissa_bits <= 23:
        return 23, -126
    return 52, -1022


def _multiples_of(facts: EntryFacts, exponent: int) -> bool:
    scaled = np.ldexp(facts.magnitudes, -exponent)
    return facts.exact and bool((scaled == np.rint(scaled)).all())


def noise_floor(ulp_squared_mean: float, shape: tuple[int, int]) -> float:
    """s_E (√m + √n) with s_E² = mean(ulp²)/12: the spectral norm of independent rounding errors (uniform on ±ulp/2).

    For a difference of two stored matrices, pass the sum of both means.
    """
    return math.sqrt(ulp_squared_mean / 12.0) * (math.sqrt(shape[0]) + math.sqrt(shape[1]))


def storage_noise_floor(content: Content, facts: EntryFacts | None = None) -> float:
    """The noise floor of a matrix as it is stored; `facts` of a dense tensor spares its second reading.

    A product s·B A inherits its factors' rounding, at most about s √( (‖E_B‖ σ1(A))² + (σ1(B) ‖E_A‖)² ).
    `Sum` adds in quadrature.
    """
    if isinstance(content, torch.Tensor):
        shape = (int(content.shape[0]), int(content.shape[1]))
        mean, exponent = _scaled_ulp_squared(facts or entry_facts(content), content.dtype)
        return math.ldexp(noise_floor(mean, shape), exponent)
    if isinstance(content, Sum):
        return math.hypot(storage_noise_floor(content.base), storage_noise_floor(content.delta))
    return _product_floor(content)


def _product_floor(content: LowRank) -> float:
    if not content.b.numel() or not content.a.numel():
        return 0.0
    norms = [float(singular_values(factor).sigma[0]) for factor in (content.b, content.a)]
    floors = [storage_noise_floor(factor) for factor in (content.b, content.a)]
    return abs(content.scale) * math.hypot(floors[0] * norms[1], norms[0] * floors[1])
