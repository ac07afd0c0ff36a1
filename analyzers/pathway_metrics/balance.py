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


def domain_specialisation(selected: np.ndarray, codes: np.ndarray, domains: int, tokens: np.ndarray) -> np.ndarray:
    """(L, E, D) N_{e,d} / N_d: of the tokens of domain d, the share for which expert e was chosen. Chance is k/E.

    selected: (N, L, E) counts; codes: (N,) domain of each sample, −1 none; tokens: (N, L) those that a router saw,
    whether an expert had room for them or not.
    """
    counts = np.stack([selected[codes == d].sum(0, dtype=np.float64) for d in range(domains)], axis=-1)
    every = np.stack([tokens[codes == d].sum(0, dtype=np.float64) for d in range(domains)], axis=-1)[:, None]
    return np.divide(counts, every, out=np.full_like(counts, np.nan), where=every > 0)


def saturation(selection: np.ndarray, last: np.ndarray) -> np.ndarray:
    """(L,) share of each token's experts that are those of the last checkpoint: (1/S) Σ |E_t ∩ E_T| / k.

    selection, last: (S, L, k) expert ids of the same tokens, −1 for none. Tokens for which no expert of the last
    checkpoint had room are left out, so that the last checkpoint's own value is 1.
    """
    same = (selection[..., :, None] == last[..., None, :]) & (selection[..., :, None] >= 0)
    k = (last >= 0).sum(-1)
    shares = np.divide(same.any(-1).sum(-1), k, out=np.full(k.shape, np.nan), where=k > 0)
    there = k > 0
    counts = there.sum(0)
    return np.divide(np.where(there, shares, 0).sum(0), counts, out=np.full(k.shape[1], np.nan), where=counts > 0)


def saturation_chance(selected: np.ndarray, tokens: np.ndarray, last: np.ndarray) -> np.ndarray:
    """(L,) what saturation would be if the two choices were independent: Σ_e p_e(t) p_e(T) / k with p_e the share of
    tokens that choose e. selected: (N, L, E), tokens: (N, L) at t; last: (L, E) load at T, p_e(T) / k."""
    counts, every = selected.sum(0, dtype=np.float64), tokens.sum(0, dtype=np.float64)[:, None]
    p = np.divide(counts, every, out=np.full_like(counts, np.nan), where=every > 0)
    return np.asarray(np.where(np.isfinite(last).any(-1), np.nansum(p * last, axis=-1), np.nan))
