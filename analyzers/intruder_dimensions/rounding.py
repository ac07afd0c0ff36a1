"""How far the stored entries of W and W0 may be from the numbers that were trained: the noise under every small Δ."""

from __future__ import annotations

import math

import torch

from analyzers.contract import Content, Context, Matrix
from analyzers.intruder_dimensions.pair import Pair
from analyzers.linalg.entries import entry_facts
from analyzers.linalg.noise import noise_floor, storage_noise_floor, ulp_squared

_FORMATS = {
    torch.float8_e4m3fn: (3, -6),
    torch.float8_e5m2: (2, -14),
    torch.bfloat16: (7, -126),
    torch.float16: (10, -14),
    torch.float32: (23, -126),
    torch.float64: (52, -1022),
}
"""Fraction bits and least normal exponent."""

_EXPONENT = 0x7FF0_0000_0000_0000
"""The exponent's bits of a float64."""

Format = tuple[int, int]


def rms_rounding(content: Content) -> float:
    """s_E = √(mean(ulp²)/12): rms rounding error of a stored entry, by the effective mantissa; 0 where not stored."""
    if not isinstance(content, torch.Tensor):
        return 0.0
    return math.sqrt(ulp_squared(entry_facts(content), content.dtype) / 12.0)


def base_rounding(pair: Pair, reference: Matrix, context: Context) -> float:
    """`rms_rounding` of the base, found once per store."""

    def make() -> dict[str, torch.Tensor]:
        return {"rms": torch.tensor(rms_rounding(pair.reference), dtype=torch.float64)}

    return float(context.cache("rounding", reference.key, make)["rms"])


def pair_rounding(pair: Pair, of_base: float) -> tuple[float, float]:
    """(s_E, s_E0) of W and W0. An adapter's W is its base plus an update that is not rounded: it has the base's."""
    stored = pair.update is None and isinstance(pair.tuned, torch.Tensor)
    return (rms_rounding(pair.tuned) if stored else of_base), of_base


def update_noise_floor(pair: Pair, of_base: float) -> float:
    """√(s_E² + s_E0²)(√m + √n): the spectral norm that rounding alone gives a difference of stored matrices.

    A Δ from factors is no difference of rounded numbers; its floor is what its factors' rounding makes of it.
    """
    if pair.update is not None:
        return storage_noise_floor(pair.update)
    of_tuned = rms_rounding(pair.tuned)
    shape = (pair.reference.shape[0], pair.reference.shape[1])
    return noise_floor(12.0 * (of_tuned**2 + of_base**2), shape)


def stored_formats(pair: Pair) -> tuple[Format, Format]:
    """The effective formats of W and W0 as they are stored; an adapter's W, once merged, takes the base's."""
    of_base = effective_format(pair.reference)
    stored = pair.update is None and isinstance(pair.tuned, torch.Tensor)
    return (effective_format(pair.tuned) if stored else of_base), of_base


def effective_format(tensor: Content) -> Format:
    """(fraction bits, least exponent) in use: a float32 file that was bfloat16 once has bfloat16's spacing."""
    bits, least = _FORMATS.get(tensor.dtype, (52, -1022)) if isinstance(tensor, torch.Tensor) else (52, -1022)
    return min(bits, max(7, entry_facts(tensor).mantissa_bits)), least


def ulps(values: torch.Tensor, stored: Format) -> torch.Tensor:
    """Spacing of the stored numbers at each of `values`, float64, same shape."""
    bits, least = stored
    # A float64 without its sign and fraction bits is the power of two at or below its magnitude.
    powers = (values.to(torch.float64).view(torch.int64) & _EXPONENT).view(torch.float64)
    return powers.clamp_(min=2.0**least).mul_(2.0**-bits)
