"""How far a singular value is from its neighbours: what decides how well its vectors are determined."""

from __future__ import annotations

import torch


def spectrum_gap(
    sigma: torch.Tensor, shape: tuple[int, int], following: float | torch.Tensor | None = None
) -> torch.Tensor:
    """(..., k): distance of each of the descending `sigma` to its neighbours, to `following`, and to 0 where m ≠ n.

    The singular vectors are eigenvectors of [[0, W], [Wᵀ, 0]], whose eigenvalues are ±σ, and 0 if m ≠ n.
    """
    gap = (2.0 if shape[0] == shape[1] else 1.0) * sigma
    if sigma.shape[-1] > 1:
        steps = sigma[..., :-1] - sigma[..., 1:]
        gap[..., :-1] = torch.minimum(gap[..., :-1], steps)
        gap[..., 1:] = torch.minimum(gap[..., 1:], steps)
    if following is not None and sigma.numel():
        gap[..., -1] = torch.minimum(gap[..., -1], sigma[..., -1] - following)
    return gap
