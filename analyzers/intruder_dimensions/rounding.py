"""How far the stored entries of W and W0 may be from the numbers that were trained: the noise under every small Δ."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from analyzers.contract import Content, Context, Matrix
from analyzers.intruder_dimensions.pair import Pair
from analyzers.linalg.entries import entry_facts
from analyzers.linalg.noise import NARROW_FORMATS, noise_floor, rounding_rms, storage_noise_floor

_FORMATS = NARROW_FORMATS | {
    torch.bfloat16: (7, -126),
    torch.float32: (23, -126),
    torch.float64: (52, -1022),
}
"""Fraction bits and least normal exponent."""

_EXPONENT = 0x7FF0_0000_0000_0000
"""The exponent's bits of a float64."""

Format = tuple[int, int]

_SMALL = 1 << 16
"""Entries up to which a pass over them costs less than an entry in the cache."""


@dataclass(frozen=True)
class Rounding:
    """How a dense tensor is stored: `rms` = √(mean(ulp²)/12), the rms rounding error of an entry, and its effective
    `format` (fraction bits, least exponent): a float32 file that was bfloat16 once has bfloat16's spacing."""

    rms: float
    format: Format


def rounding_of(content: Content) -> Rounding:
    """By one pass over the entries; what is no stored tensor is not rounded, and has float64's spacing."""
    if not isinstance(content, torch.Tensor):
        return Rounding(0.0, _FORMATS[torch.float64])
    facts = entry_facts(content)
    bits, least = _FORMATS.get(content.dtype, _FORMATS[torch.float64])
    return Rounding(rounding_rms(facts, content.dtype), (min(bits, max(7, facts.mantissa_bits)), least))


def base_rounding(pair: Pair, reference: Matrix, context: Context) -> Rounding:
    """`rounding_of` the base; of a large one found once per store."""
    if pair.reference.numel() <= _SMALL:
        return rounding_of(pair.reference)

    def make() -> dict[str, torch.Tensor]:
        found = rounding_of(pair.reference)
        return {"rms": torch.tensor(found.rms, dtype=torch.float64), "format": torch.tensor(found.format)}

    kept = context.cache("storage", reference.key, make)
    bits, least = kept["format"].tolist()
    return Rounding(float(kept["rms"]), (bits, least))


def pair_rounding(pair: Pair, of_base: Rounding) -> tuple[Rounding, Rounding]:
    """Of W and W0. An adapter's W is its base plus an update that is not rounded: it has the base's."""
    stored = pair.update is None and isinstance(pair.tuned, torch.Tensor)
    return (rounding_of(pair.tuned) if stored else of_base), of_base


def update_noise_floor(pair: Pair, roundings: tuple[Rounding, Rounding]) -> float:
    """√(s_E² + s_E0²)(√m + √n): the spectral norm that rounding alone gives a difference of stored matrices.

    A Δ from factors is no difference of rounded numbers; its floor is what its factors' rounding makes of it.
    """
    if pair.update is not None:
        return storage_noise_floor(pair.update)
    of_tuned, of_base = roundings
    shape = (pair.reference.shape[0], pair.reference.shape[1])
    return noise_floor(12.0 * (of_tuned.rms**2 + of_base.rms**2), shape)


def ulps(values: torch.Tensor, stored: Format) -> torch.Tensor:
    """Spacing of the stored numbers at each of `values`, float64, same shape."""
    bits, least = stored
    # A float64 without its sign and fraction bits is the power of two at or below its magnitude.
    powers = (values.to(torch.float64).view(torch.int64) & _EXPONENT).view(torch.float64)
    return powers.clamp_(min=2.0**least).mul_(2.0**-bits)
