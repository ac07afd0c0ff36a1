"""Every metric of pathways and routing in plain loops over tokens, written from the definitions, not from the code."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

Trace = Mapping[str, np.ndarray]
Found = dict[str, Any]


def chosen(trace: Trace) -> list[list[set[int]]]:
    """Per token and router the experts that changed its output: those chosen with a weight that is not 0."""
    return [
        [{int(e) for e, w in zip(ids, ws, strict=True) if w != 0} for ids, ws in zip(index, weight, strict=True)]
        for index, weight in zip(trace["index"], trace["weight"], strict=True)
    ]


def mean_weights(trace: Trace, samples: int, experts: int) -> np.ndarray:
    """(N, L, E) g, each layer's sum 1; NaN where a sample's tokens have no weight there."""
    total = np.zeros((samples, trace["index"].shape[1], experts))
    for sample, index, weight in zip(trace["sample"], trace["index"], trace["weight"], strict=True):
        for layer in range(len(index)):
            for expert, share in zip(index[layer], weight[layer], strict=True):
                total[sample, layer, expert] += float(share)
    with np.errstate(invalid="ignore"):
        return total / total.sum(-1, keepdims=True)


def pathway(g: np.ndarray, threshold: float) -> list[tuple[int, int]]:
    """(layer, expert) tokens of one sample: ranked by g, cut where the cumulative weight reaches the threshold."""
    tokens = []
    for layer, of_layer in enumerate(g):
        reached = 0.0
        for weight, expert in sorted((-w, e) for e, w in enumerate(of_layer)):
            if np.isnan(weight) or reached >= threshold - 1e-6:
                break
            tokens.append((layer, expert))
            reached -= weight
    return tokens


def levenshtein(a: Sequence[Any], b: Sequence[Any]) -> int:
    """By the textbook's table."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[:], i
        for j, y in enumerate(b, 1):
            row[j] = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y))
    return row[-1]


def of_pathways(trace: Trace, samples: int, experts: int, threshold: float, groups: Sequence[str]) -> Found:
    """Distances, lengths and the grouped ratio at one threshold."""
    every = [pathway(g, threshold) for g in mean_weights(trace, samples, experts)]
    distances = {(i, j): levenshtein(every[i], every[j]) for i, j in combinations(range(samples), 2)}
    longer = {(i, j): max(len(every[i]), len(every[j])) for i, j in distances}
    within = [d for (i, j), d in distances.items() if groups[i] == groups[j]]
    between = [d for (i, j), d in distances.items() if groups[i] != groups[j]]
    return {
        "pathway_distance": np.mean(list(distances.values())),
        "pathway_distance_normalised": np.mean([d / longer[p] if longer[p] else 0 for p, d in distances.items()]),
        "pathway_length": np.mean([len(one) for one in every]),
        "distinct_pathways": len({tuple(one) for one in every}) / samples,
        "within_distance/class": np.mean(within),
        "between_distance/class": np.mean(between),
        "grouped_distance_ratio/class": np.mean(within) / np.mean(between) if np.mean(between) else np.nan,
    }


def of_routing(trace: Trace, samples: int, experts: int, domains: Sequence[str]) -> Found:
    """Everything that needs no pair of samples."""
    g, sets, layers = mean_weights(trace, samples, experts), chosen(trace), trace["index"].shape[1]
    counts = np.array([[sum(e in token[layer] for token in sets) for e in range(experts)] for layer in range(layers)])
    load = counts / counts.sum(-1, keepdims=True)
    entropy = -np.where(g > 0, g * np.log(np.where(g > 0, g, 1)), 0 * g).sum(-1) / math.log(experts)
    together = [
        [[sum({i, j} <= token[layer] for token in sets) for j in range(experts)] for i in range(experts)]
        for layer in range(layers)
    ]
    logits = trace["logits"].astype(float)
    by_domain = [[k for k, s in enumerate(trace["sample"]) if domains[s] == d] for d in sorted(set(domains))]
    specialised = [
        [[np.mean([e in sets[k][layer] for k in rows]) for rows in by_domain] for e in range(experts)]
        for layer in range(layers)
    ]
    with np.errstate(invalid="ignore", divide="ignore"):
        found = {
            "routing_entropy_by_router": np.nanmean(entropy, 0),
            "expert_load": load,
            "load_cv": load.std(-1) / load.mean(-1),
            "load_entropy": -np.where(load > 0, load * np.log(np.where(load > 0, load, 1)), 0).sum(-1)
            / math.log(experts),
            "max_violation": load.max(-1) / load.mean(-1) - 1,
            "dead_experts": (load < 0.01 / experts).sum(-1),
            "coactivation": np.array(together) / counts[..., None],
            "z_loss": (np.log(np.exp(logits).sum(-1)) ** 2).mean(0),
            "domain_specialisation": np.array(specialised),
        }
    if layers > 1:
        rows = np.einsum("nle,led->nld", g, trace["router"].astype(float))
        unit = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
        cosines = (unit[:, :-1] * unit[:, 1:]).sum(-1)
        found["consistency_cosine_by_router"] = np.append(np.nanmean(cosines, 0), np.nan)
        found["pathway_consistency"] = np.nanmean(1 - cosines.mean(1) / (cosines.max(1) + 1e-8))
    return found


def of_last(trace: Trace, last: Trace, experts: int) -> Found:
    """Router saturation and its chance level."""
    now, then = chosen(trace), chosen(last)
    found, chance = [], []
    for layer in range(trace["index"].shape[1]):
        there = [(a[layer], b[layer]) for a, b in zip(now, then, strict=True) if b[layer]]
        found.append(np.mean([len(a & b) / len(b) for a, b in there]))
        p = [np.mean([e in token[layer] for token in now]) for e in range(experts)]
        last_counts = [sum(e in token[layer] for token in then) for e in range(experts)]
        chance.append(sum(x * y for x, y in zip(p, last_counts, strict=True)) / sum(last_counts))
    return {"router_saturation": np.array(found), "router_saturation_chance": np.array(chance)}


def vocabulary_table(trace: Trace, experts: int) -> dict[tuple[int, int, int], float]:
    """(router, token id, expert) → N_xe / N_x where not 0, of the ids seen 10 times at least."""
    sets, found = chosen(trace), {}
    for token in np.unique(trace["token"]):
        rows = np.flatnonzero(trace["token"] == token)
        if len(rows) < 10:
            continue
        for layer in range(trace["index"].shape[1]):
            for expert in range(experts):
                if count := sum(expert in sets[row][layer] for row in rows):
                    found[layer, int(token), expert] = count / len(rows)
    return found
