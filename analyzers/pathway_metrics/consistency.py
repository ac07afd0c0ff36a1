"""Do neighbouring layers read a sample alike: cosines between its expected router rows (2506.21551)."""

from __future__ import annotations

import numpy as np

from analyzers.pathway_metrics.pathways import normalised


def layer_cosines(weight: np.ndarray, gram: np.ndarray, cross: np.ndarray) -> np.ndarray:
    """(N, L−1) cos(e_ℓ, e_{ℓ+1}) with e_ℓ = Σ_k g_k v_k, v_k the row k of layer ℓ's router matrix.

    weight: (N, L, E); gram (L, E, E) and cross (L−1, E, E): products of router rows, NaN where there are none (then
    the cosine is NaN); rows of padded experts may be NaN, too, where g is 0.
    """
    g = normalised(weight)
    known = ~np.isnan(gram[:, 0, 0]) if len(gram) else np.zeros(0, dtype=bool)
    by_layer = g.transpose(1, 0, 2)
    norms = np.sqrt(np.maximum(((by_layer @ np.nan_to_num(gram)) * by_layer).sum(-1).T, 0))
    dots = ((by_layer[:-1] @ np.nan_to_num(cross)) * by_layer[1:]).sum(-1).T
    with np.errstate(divide="ignore", invalid="ignore"):
        cosines = dots / (norms[:, :-1] * norms[:, 1:])
    defined = known[:-1] & known[1:] & ~np.isnan(cross[:, 0, 0]) if len(cross) else np.zeros(0, dtype=bool)
    return np.where(defined & (norms[:, :-1] * norms[:, 1:] > 0), cosines, np.nan)


def paper_consistency(cosines: np.ndarray) -> np.ndarray:
    """(N,) C = 1 − mean over layers of cos / (max cos + 1e-8), as the paper has it; cosines: (N, L−1).

    0 by construction at L = 2 and ill-conditioned at L = 3; the paper's text and table disagree about its sign.
    """
    if cosines.shape[1] == 0:
        return np.full(len(cosines), np.nan)
    return 1 - cosines.mean(1) / (cosines.max(1) + 1e-8)
