"""How evenly a router uses its experts, what goes together, who is specialised, and when it settled (2409.02060)."""

from __future__ import annotations

import numpy as np

DEAD = 0.01
"""An expert with less than this share of a fair load is dead."""


def load(selected: np.ndarray) -> np.ndarray:
    """(L, E) share of all choices that went to each expert; each row's sum 1. selected: (N, L, E) counts."""
    total = selected.sum(0, dtype=np.float64)
    sums = total.sum(-1, keepdims=True)
    return np.divide(total, sums, out=np.full_like(total, np.nan), where=sums > 0)


def spread(shares: np.ndarray, experts: int) -> dict[str, float]:
    """Of one router's load over its experts: `load_cv` s.d. / mean (0 when even), `load_entropy` over ln E (1 when
    even), `max_violation` max/mean − 1 (0 when even), `dead_experts` with less than 1 % of the fair share."""
    p = shares[:experts]
    logs = np.log(p, out=np.zeros_like(p), where=p > 0)
    return {
        "load_cv": float(p.std() * experts),
        "load_entropy": float(-(p * logs).sum() / np.log(experts)) if experts > 1 else np.nan,
        "max_violation": float(p.max() * experts - 1),
        "dead_experts": float((p < DEAD / experts).sum()),
    }


def coactivation(together: np.ndarray) -> np.ndarray:
    """(L, E, E) N_ij / N_i: of the tokens for which i was chosen, the share for which j was, too. NaN where N_i = 0."""
    own = np.diagonal(together, axis1=-2, axis2=-1).astype(np.float64)[..., None]
    return np.divide(together, own, out=np.full(together.shape, np.nan), where=own > 0)


def domain_specialisation(selected: np.ndarray, codes: np.ndarray, domains: int, chosen: np.ndarray) -> np.ndarray:
    """(L, E, D) N_{e,d} / N_d: of the tokens of domain d, the share for which expert e was chosen. Chance is k/E.

    selected: (N, L, E) counts; codes: (N,) domain of each sample, −1 none; chosen: (L,) k of each router.
    """
    counts = np.stack([selected[codes == d].sum(0, dtype=np.float64) for d in range(domains)], axis=-1)
    tokens = counts.sum(1, keepdims=True) / chosen[:, None, None]
    return np.divide(counts, tokens, out=np.full_like(counts, np.nan), where=tokens > 0)


def vocabulary_specialisation(seen: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(L, E) mean of N_{x,e} / N_x over the token ids x that chose e most often; NaN for an expert with none.

    seen: (V,) how often each id occurs (10 times at least); counts: (V, L, E).
    """
    share = counts / seen[:, None, None]
    favourite = share.argmax(-1)
    layers, experts = counts.shape[1:]
    found = np.full((layers, experts), np.nan)
    for layer in range(layers):
        for expert in np.unique(favourite[:, layer]):
            found[layer, expert] = share[favourite[:, layer] == expert, layer, expert].mean()
    return found


def saturation(selection: np.ndarray, last: np.ndarray) -> np.ndarray:
    """(L,) share of each token's experts that are those of the last checkpoint: (1/S) Σ |E_t ∩ E_T| / k.

    selection, last: (S, L, k) expert ids of the same tokens, −1 for padding.
    """
    same = (selection[..., :, None] == last[..., None, :]) & (selection[..., :, None] >= 0)
    k = np.maximum((last >= 0).sum(-1), 1)
    return (same.any(-1).sum(-1) / k).mean(0)


def saturation_chance(shares: np.ndarray, last: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """(L,) what saturation would be if the two choices were independent: Σ_e p_e(t) p_e(T) / k with p_e the share of
    tokens that choose e, Σ p = k. shares, last: (L, E) loads of sum 1; chosen: (L,) k."""
    return np.asarray(np.nansum(shares * last, axis=-1) * chosen)
