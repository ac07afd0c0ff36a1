"""Checks that statistics share: what makes a matrix unmeasurable, said in the same words everywhere."""

from __future__ import annotations

import math

import torch

from analyzers.errors import Unmeasurable


def require_finite(tensor: torch.Tensor, name: str) -> None:
    """Raises `Unmeasurable` when an entry of `tensor` (any shape) is NaN or infinite: how many, and the first index.

    One pass over the tensor and no temporary, unless something is found. Integer and boolean tensors always pass.
    """
    if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.numel() == 0:
        return
    if tensor.dtype.itemsize == 1:  # float8 has no isfinite kernel; its values fit float16 and wider exactly
        tensor = tensor.to(torch.float32)
    if tensor.is_floating_point() and all(math.isfinite(float(end)) for end in torch.aminmax(tensor)):
        return
    bad = ~torch.isfinite(tensor)
    count = int(bad.sum())
    if count == 0:
        return
    first = tuple(int(i) for i in bad.nonzero()[0])
    value = tensor[first].item()
    raise Unmeasurable(
        f"{name}: {count} of {tensor.numel()} entries are NaN or infinite, the first is {value} at index {first}"
    )


def require_entries(shape: tuple[int, ...], name: str) -> None:
    """Raises `Unmeasurable` when a shape has no entries."""
    if 0 in shape:
        raise Unmeasurable(f"{name}: has no entries (shape {shape})")
