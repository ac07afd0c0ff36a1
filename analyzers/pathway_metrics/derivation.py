"""The report's numbers from stored routing and distances; no model runs here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from analyzers.contract import Result
from analyzers.pathway_metrics import balance, vocabulary
from analyzers.pathway_metrics.consistency import layer_cosines, paper_consistency
from analyzers.pathway_metrics.grouping import NONE, AllPairs, grouped_ratios_of_pairs, square_of
from analyzers.pathway_metrics.memorisation import choose_epsilon, memorised_from
from analyzers.pathway_metrics.pathways import routing_entropy
from analyzers.pathway_metrics.probe import COLUMNS

GROUPS = (*COLUMNS, "memorised")
"""Groupings whose ratio is given: the probe's columns, and the step from which on a sample was memorised."""

Fields = dict[str, Any]


def of_routing(stored: Result) -> Fields:
    """Metrics of one checkpoint's routing: scalars, (L,) and (L, E, …) arrays by variable name."""
    weight, experts = stored["weight"], stored["experts"]
    entropy = routing_entropy(weight, experts)
    cosines = layer_cosines(weight, stored["gram"], stored["cross"])
    shares = balance.load(stored["selected"])
    found: Fields = {
        "routing_entropy": mean(entropy),
        "routing_entropy_by_router": mean(entropy, 0),
        "consistency_cosine": mean(cosines),
        "consistency_cosine_by_router": np.append(mean(cosines, 0), np.nan),
        "pathway_consistency": mean(paper_consistency(cosines)),
        "probe_loss": mean(stored["loss"]),
        "expert_load": _hidden(shares, experts),
        "coactivation": balance.coactivation(stored["together"]),
        "z_loss": stored["z_loss"],
        "domain_specialisation_chance": stored["chosen"] / experts,
    }
    by_expert, by_router = vocabulary.specialisation(stored)
    found |= {"vocabulary_specialisation": by_expert, "vocabulary_specialisation_by_router": by_router}
    found["vocabulary_specialisation_chance"] = vocabulary.chance(stored)
    each = [balance.spread(row, int(count)) for row, count in zip(shares, experts, strict=True)]
    found |= {name: np.array([one[name] for one in each]) for name in each[0]}
    if "domain_codes" in stored:
        found["domain_specialisation"] = balance.domain_specialisation(
            stored["selected"], stored["domain_codes"], len(stored["domain_names"]), stored["tokens"]
        )
    return found


def of_last(stored: Result, last: Result) -> Fields:
    """Router saturation against the run's last checkpoint, where both have the same routers and tokens."""
    if stored["selection"].shape != last["selection"].shape or not np.array_equal(stored["routers"], last["routers"]):
        return {}
    return {
        "router_saturation": balance.saturation(stored["selection"], last["selection"]),
        "router_saturation_chance": balance.saturation_chance(
            stored["selected"], stored["tokens"], balance.load(last["selected"])
        ),
    }


def of_distances(stored: Result, groups: Mapping[str, np.ndarray], resamples: int, seed: int = 0) -> Fields:
    """Means of one checkpoint's distances at one threshold, and the ratio for each grouping of codes (N,)."""
    distance, length = stored["distance"].astype(np.float64), stored["length"].astype(np.float64)
    count = len(length)
    drawn = "left" in stored
    found: Fields = {
        "pathway_distance": distance.mean(),
        "pathway_distance_error": distance.std(ddof=1) / np.sqrt(len(distance)) if drawn else 0.0,
        "pathway_length": length.mean(),
    }
    left, right = stored.get("left", np.zeros(0)), stored.get("right", np.zeros(0))
    square = None if drawn else square_of(stored["distance"], count)
    if square is not None:
        longer = np.maximum.outer(length.astype(np.float32), length.astype(np.float32))
        shares = np.divide(square, longer, out=np.zeros_like(longer), where=longer > 0)
        found["pathway_distance_normalised"] = shares.sum(dtype=np.float64) / (count * (count - 1))
        earlier = np.tril(square == 0, -1).any(1)
        found["distinct_pathways"] = 1 - earlier.mean()
    else:
        longer = np.maximum(length[left], length[right])
        shares = np.divide(distance, longer, out=np.zeros_like(distance), where=longer > 0)
        found["pathway_distance_normalised"] = shares.mean()
    fitting = {column: codes for column, codes in groups.items() if len(codes) == count}
    if square is not None:
        every = AllPairs(square, seed, resamples - 1, resamples)
        ratios = {column: every.ratio(codes) for column, codes in fitting.items()}
    else:
        ratios = grouped_ratios_of_pairs(distance, left, right, fitting, seed, resamples - 1, resamples)
    for column in groups:
        ratio = ratios.get(column, NONE)
        found |= {
            f"grouped_distance_ratio/{column}": ratio.ratio,
            f"grouped_distance_ratio_low/{column}": ratio.low,
            f"grouped_distance_ratio_high/{column}": ratio.high,
            f"grouped_distance_ratio_p/{column}": ratio.p,
            f"within_distance/{column}": ratio.within,
            f"between_distance/{column}": ratio.between,
        }
    return found


def memorisation(results: Sequence[Result]) -> tuple[np.ndarray | None, float]:
    """(N,) the step index from which on each sample was memorised, −1 for never, and the mean ε. None: no losses."""
    if len(results) < 3 or len({len(r["loss"]) for r in results}) != 1:
        return None, np.nan
    losses = np.stack([r["loss"] for r in results]).astype(np.float64)
    if not np.isfinite(losses).any():
        return None, np.nan
    domains = results[0].get("domain_codes", np.zeros(losses.shape[1], dtype=np.int64))
    epsilon = choose_epsilon(losses, np.asarray(domains))
    return memorised_from(losses, epsilon), mean(epsilon)


def mean(values: np.ndarray, axis: int | None = None) -> Any:
    """Mean of what is there; NaN, without a warning, where nothing is."""
    values = np.asarray(values, dtype=np.float64)
    there = np.isfinite(values)
    total, count = np.where(there, values, 0).sum(axis), there.sum(axis)
    means = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return means if axis is not None else float(means)


def _hidden(shares: np.ndarray, experts: np.ndarray) -> np.ndarray:
    """NaN for experts that a router has not."""
    return np.where(np.arange(shares.shape[1]) < experts[:, None], shares, np.nan)
