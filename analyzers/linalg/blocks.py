"""A matrix read as float64 blocks, so that no analyzer needs a float64 copy of the whole of it.

Dense tensors of any real storage dtype, low-rank products and adapters on their base look the same from here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from analyzers.contract import Content, LowRank, Sum
from analyzers.errors import Unmeasurable

BLOCK_BYTES = 4 << 20
"""Float64 bytes of one block: large enough for BLAS to be efficient, small enough for the processor's caches, and so
that what the allocator keeps of freed blocks (up to 32 MiB each) does not matter beside a matrix."""
DEVICE_BYTES = 512 << 20
"""The same on an accelerator, where few large products are better than many small ones."""


def shape_of(content: Content) -> tuple[int, int]:
    """(m, n) without reading a value."""
    if isinstance(content, LowRank):
        return int(content.b.shape[0]), int(content.a.shape[1])
    tensor = content.base if isinstance(content, Sum) else content
    if tensor.ndim != 2:
        raise Unmeasurable(f"a matrix has two dimensions, this has shape {tuple(tensor.shape)}")
    return int(tensor.shape[0]), int(tensor.shape[1])


def dense64(content: Content) -> torch.Tensor:
    """The whole matrix in float64, (m, n); a float64 tensor is returned as it is."""
    if isinstance(content, LowRank):
        return content.dense(torch.float64)
    if isinstance(content, Sum):
        return content.delta.dense(torch.float64).add_(as_float64(content.base))  # float8 is never promoted
    return as_float64(content)


def blocks64(content: Content, axis: int = 0, block_bytes: int = BLOCK_BYTES) -> Iterator[torch.Tensor]:
    """The matrix cut along `axis` (0: rows, 1: columns) into float64 blocks of about `block_bytes`, in order."""
    m, n = shape_of(content)
    length, other = (m, n) if axis == 0 else (n, m)
    if _device(content).type != "cpu":
        block_bytes = max(block_bytes, DEVICE_BYTES)
    step = max(1, block_bytes // (8 * max(other, 1)))
    factors = _float64_factors(content)
    for start in range(0, length, step):
        yield _cut(content, factors, axis, start, min(step, length - start))


def _device(content: Content) -> torch.device:
    if isinstance(content, LowRank):
        return content.b.device
    return content.base.device if isinstance(content, Sum) else content.device


def as_float64(tensor: torch.Tensor) -> torch.Tensor:
    """The exact values in float64; complex numbers have no real spectrum of entries and are refused."""
    if tensor.is_complex():
        raise Unmeasurable(f"complex entries ({tensor.dtype}) are not measured")
    return tensor.to(torch.float64)


def norm64(tensor: torch.Tensor) -> float:
    """‖tensor‖ in float64, of any real dtype."""
    if tensor.dtype.itemsize == 1:  # float8 has no kernels of its own: its exact values in float32
        tensor = tensor.to(torch.float32)
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64))


def require_finite(content: Content) -> None:
    """Raises `Unmeasurable` that counts the NaN and infinite entries, if there are any."""
    if isinstance(content, LowRank):
        parts = [content.b, content.a]
    else:
        parts = [content.base, content.delta.b, content.delta.a] if isinstance(content, Sum) else [content]
    nan = infinite = total = 0
    for part in parts:
        total += part.numel()
        for block in blocks64(part):
            if all_finite(block):
                continue
            nan += int(torch.isnan(block).sum())
            infinite += int(torch.isinf(block).sum())
    if nan or infinite:
        raise Unmeasurable(f"{nan + infinite} of {total} entries are not finite ({nan} NaN, {infinite} infinite)")


def all_finite(block: torch.Tensor) -> bool:
    """Whether no entry is NaN or infinite; without a temporary, and in one pass. Not for complex or 8-bit dtypes."""
    return not block.numel() or all(math.isfinite(float(end)) for end in torch.aminmax(block))


def largest_entry(content: torch.Tensor) -> float:
    """max |entry| of a dense tensor, 0.0 when it has none; NaN and infinity come through."""
    largest = 0.0
    for block in blocks64(content):
        value = float(block.abs().max()) if block.numel() else 0.0
        if not math.isfinite(value):
            return value
        largest = max(largest, value)
    return largest


def _float64_factors(content: Content) -> tuple[torch.Tensor, torch.Tensor] | None:
    delta = content.delta if isinstance(content, Sum) else content
    if not isinstance(delta, LowRank):
        return None
    return as_float64(delta.b) * delta.scale, as_float64(delta.a)


def _cut(
    content: Content, factors: tuple[torch.Tensor, torch.Tensor] | None, axis: int, start: int, length: int
) -> torch.Tensor:
    if factors is None:
        assert isinstance(content, torch.Tensor)
        return as_float64(content.narrow(axis, start, length))
    b, a = factors
    product = b.narrow(0, start, length) @ a if axis == 0 else b @ a.narrow(1, start, length)
    if isinstance(content, Sum):
        product += content.base.narrow(axis, start, length).to(torch.float64)
    return product
