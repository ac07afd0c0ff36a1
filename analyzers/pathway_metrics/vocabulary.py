"""Which experts a token id chooses: counts as a sparse table, shares, and what ids that do not matter would give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analyzers.contract import Result
from analyzers.pathway_metrics.sums import LayerSums

SEEN = 10
"""Tokens that the probe shows less often say nothing about vocabulary specialisation."""
_NODES, _DRAWS = 8, 128
_LARGEST = 2**32 - 1


@dataclass(frozen=True)
class Shares:
    """N_{x,e} / N_x where it is not 0, of one checkpoint: M entries, in the order of ids, routers and experts.

    `token` (M,) the id x; `seen` (M,) N_x; `router`, `expert` (M,) positions; `share` (M,) float64.
    """

    token: np.ndarray
    seen: np.ndarray
    router: np.ndarray
    expert: np.ndarray
    share: np.ndarray


def vocabulary_counts(
    sums: Sequence[LayerSums], tokens: np.ndarray | None, most: int, entries: int
) -> dict[str, np.ndarray]:
    """The fields `vocabulary…` of `Routing`. tokens: (T,) ids in the order in which they ran, None where there are
    none; most: E; entries: at most so many are kept, those of the most frequent ids."""
    found = np.zeros(0, dtype=np.int64) if tokens is None else np.asarray(tokens, dtype=np.int64)
    ids, inverse, seen = np.unique(found, return_inverse=True, return_counts=True)
    order = np.argsort(-seen, kind="stable")
    often = order[seen[order] >= SEEN]
    rank = np.full(len(ids), -1, dtype=np.int64)
    rank[often] = np.arange(len(often))
    cells = [_cells(one, rank[inverse], len(often), most) for one in sums if one.tokens == len(found) and len(often)]
    layers = [layer for layer, one in enumerate(sums) if one.tokens == len(found) and len(often)]
    kept = often[: _fitting(cells, len(often), most, min(entries, _LARGEST), _LARGEST // (len(sums) * most))]
    row_of = np.full(len(often), -1, dtype=np.int64)
    row_of[np.argsort(ids[kept])] = np.arange(len(kept))
    where, times = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for layer, counts in zip(layers, cells, strict=True):
        ranks, experts = np.divmod(np.flatnonzero(counts), most)
        fits = row_of[ranks] >= 0
        where.append((row_of[ranks[fits]] * len(sums) + layer) * most + experts[fits])
        times.append(counts[np.flatnonzero(counts)[fits]])
    at, count = np.concatenate(where), np.concatenate(times)
    by_place = np.argsort(at)
    return {
        "vocabulary": np.sort(ids[kept]),
        "vocabulary_seen": seen[np.sort(kept)],
        "vocabulary_at": at[by_place].astype(np.uint32),
        "vocabulary_count": count[by_place].astype(np.uint32),
        "vocabulary_frequent": np.array(len(often)),
    }


def shares(stored: Result) -> Shares:
    """The table of a stored `Routing`."""
    layers, most = len(stored["routers"]), stored["selected"].shape[2]
    row, place = np.divmod(stored["vocabulary_at"].astype(np.int64), layers * most)
    router, expert = np.divmod(place, most)
    seen = stored["vocabulary_seen"][row]
    return Shares(stored["vocabulary"][row], seen, router, expert, stored["vocabulary_count"] / seen)


def favourites(stored: Result) -> tuple[np.ndarray, np.ndarray]:
    """(V, L) greatest N_{x,e} / N_x of each id, and which expert that is (ties by id); NaN and −1 where an id chose
    none."""
    layers, most = len(stored["routers"]), stored["selected"].shape[2]
    ids = len(stored["vocabulary"])
    table = shares(stored)
    group = (stored["vocabulary_at"] // most).astype(np.int64)
    order = np.lexsort((table.expert, -table.share, group))
    groups, start = np.unique(group[order], return_index=True)
    best, which = np.full(ids * layers, np.nan), np.full(ids * layers, -1)
    best[groups], which[groups] = table.share[order][start], table.expert[order][start]
    return best.reshape(ids, layers), which.reshape(ids, layers)


def specialisation(stored: Result) -> tuple[np.ndarray, np.ndarray]:
    """(L, E) mean share of the ids whose favourite an expert is, NaN for an expert with none; and (L,) over all ids."""
    best, which = favourites(stored)
    layers, most = best.shape[1], stored["selected"].shape[2]
    by_expert, by_router = np.full((layers, most), np.nan), np.full(layers, np.nan)
    for layer in range(layers):
        there = which[:, layer] >= 0
        counts = np.bincount(which[there, layer], minlength=most)
        sums = np.bincount(which[there, layer], best[there, layer], minlength=most)
        by_expert[layer] = np.divide(sums, counts, out=np.full(most, np.nan), where=counts > 0)
        by_router[layer] = best[there, layer].mean() if there.any() else np.nan
    return by_expert, by_router


def chance(stored: Result, seed: int = 0) -> np.ndarray:
    """(L,) the mean greatest share if an id's occurrences chose by the router's load alone.

    Few occurrences have a favourite by luck: of 10, with 2 of 8 experts for each, .45 on average, not 2/8. Simulated
    with each expert chosen independently, at 8 numbers of occurrences; between them linear in 1/√N.
    """
    seen, layers = stored["vocabulary_seen"].astype(np.float64), len(stored["routers"])
    found = np.full(layers, np.nan)
    if not len(seen):
        return found
    nodes = np.unique(np.geomspace(seen.min(), seen.max(), _NODES).round().astype(np.int64))
    draw = np.random.default_rng(seed)
    tokens = stored["tokens"].sum(0, dtype=np.float64)
    for layer in range(layers):
        if tokens[layer]:
            chosen = np.minimum(stored["selected"][:, layer].sum(0, dtype=np.float64) / tokens[layer], 1)
            best = [draw.binomial(n, chosen, (_DRAWS, len(chosen))).max(1).mean() / n for n in nodes]
            found[layer] = np.interp(-(seen**-0.5), -(nodes**-0.5), best).mean()
    return found


def _fitting(cells: Sequence[np.ndarray], ids: int, most: int, entries: int, rows: int) -> int:
    """How many of the ids, most frequent first, have their entries within `entries`; at most `rows`."""
    each = sum((np.count_nonzero(counts.reshape(ids, most), axis=1) for counts in cells), np.zeros(ids, dtype=np.int64))
    return min(int(np.searchsorted(np.cumsum(each), entries, side="right")), rows)


def _cells(one: LayerSums, rank: np.ndarray, ids: int, most: int) -> np.ndarray:
    """(ids · E,) how many tokens of each rank ≥ 0 chose each expert. rank: (T,)."""
    rows = np.flatnonzero(rank >= 0)
    chosen = one.selection(rows).astype(np.int64)
    cells = rank[rows][:, None] * most + chosen
    return np.bincount(cells[chosen >= 0], minlength=ids * most)
