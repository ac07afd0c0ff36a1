"""Vocabulary specialisation: the sparse table by hand, its bound, and what ids that do not matter give."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from analyzers.pathway_metrics import vocabulary
from analyzers.pathway_metrics.collect import Collected
from analyzers.pathway_metrics.routers import Choice
from analyzers.pathway_metrics.sums import LayerSums


def sums_of(index: np.ndarray, experts: int, weight: np.ndarray | None = None) -> LayerSums:
    """One router's sums over tokens of one sample. index: (T, k)."""
    found = LayerSums(1, experts, torch.device("cpu"))
    applied = np.ones(index.shape) if weight is None else weight
    choice = Choice(torch.zeros(len(index), experts), torch.from_numpy(index), torch.from_numpy(applied))
    found.add(choice, torch.zeros(len(index), dtype=torch.int64), None)
    return found


def stored(sums: list[LayerSums], tokens: np.ndarray, experts: int, entries: int = 2**18) -> dict[str, np.ndarray]:
    """The fields of `Routing` that the functions read."""
    return {
        "routers": np.array([f"r{i}" for i in range(len(sums))]),
        "selected": np.stack([one.selected.numpy() for one in sums], axis=1),
        "tokens": np.full((1, len(sums)), len(tokens)),
        **vocabulary.vocabulary_counts(sums, tokens, experts, entries),
    }


def test_the_table_done_by_hand() -> None:
    """Id 7 ten times: expert 0 eight times, 1 twice. Id 5 twelve times: expert 2 always. Id 9 nine times: dropped."""
    tokens = np.array([7] * 10 + [5] * 12 + [9] * 9)
    index = np.array([0] * 8 + [1] * 2 + [2] * 12 + [3] * 9)[:, None]
    result = stored([sums_of(index, 4)], tokens, 4)
    table = vocabulary.shares(result)
    assert table.token.tolist() == [5, 7, 7] and table.seen.tolist() == [12, 10, 10]
    assert table.expert.tolist() == [2, 0, 1] and table.router.tolist() == [0, 0, 0]
    np.testing.assert_allclose(table.share, [1, 0.8, 0.2])
    by_expert, by_router = vocabulary.specialisation(result)
    np.testing.assert_allclose(by_expert, [[0.8, np.nan, 1, np.nan]])
    np.testing.assert_allclose(by_router, [0.9])
    assert int(result["vocabulary_frequent"]) == 2


def test_a_choice_that_came_to_nothing_is_none() -> None:
    index = np.zeros((10, 1), dtype=np.int64)
    weight = np.array([1.0] * 4 + [0.0] * 6)[:, None]
    table = vocabulary.shares(stored([sums_of(index, 300, weight)], np.full(10, 3), 300))
    np.testing.assert_allclose(table.share, [0.4])


@pytest.mark.parametrize(("spare", "kept"), [(0, 3), (1, 3), (-1, 2)])
def test_what_does_not_fit_leaves_out_the_rarest_ids_and_says_how_many_there_were(spare: int, kept: int) -> None:
    draw = np.random.default_rng(0)
    tokens = np.repeat(np.arange(5), [50, 40, 30, 20, 10])
    sums = [sums_of(draw.integers(0, 6, (150, 1)), 6) for _ in range(2)]
    whole = vocabulary.shares(stored(sums, tokens, 6))
    most = int((whole.token <= 2).sum()) + spare
    result = stored(sums, tokens, 6, entries=most)
    assert result["vocabulary"].tolist() == list(range(kept)) and int(result["vocabulary_frequent"]) == 5
    np.testing.assert_array_equal(vocabulary.shares(result).share, whole.share[whole.token < kept])


def test_the_table_is_that_of_a_loop_over_the_tokens() -> None:
    draw = np.random.default_rng(1)
    tokens = draw.integers(0, 30, 500)
    index = np.argsort(draw.random((2, 500, 7)), -1)[..., :3]
    table = vocabulary.shares(stored([sums_of(layer, 7) for layer in index], tokens, 7))
    found = {
        (int(x), int(r), int(e)): s
        for x, r, e, s in zip(table.token, table.router, table.expert, table.share, strict=True)
    }
    for token in range(30):
        rows = np.flatnonzero(tokens == token)
        for router in range(2):
            for expert in range(7):
                count = sum(expert in index[router, row] for row in rows)
                there = len(rows) >= 10 and count > 0
                assert found.get((token, router, expert)) == (pytest.approx(count / len(rows)) if there else None)


def test_ids_that_do_not_matter_give_the_chance_level() -> None:
    """Choices drawn without regard of the id: the mean greatest share is the simulated one, far above k/E."""
    draw = np.random.default_rng(2)
    tokens = np.repeat(np.arange(400), draw.integers(10, 60, 400))
    index = np.argsort(draw.random((len(tokens), 8)) ** np.array([1, 1, 1, 2, 2, 3, 4, 5]), -1)[:, -2:].copy()
    result = stored([sums_of(index, 8)], tokens, 8)
    found, chance = vocabulary.specialisation(result)[1], vocabulary.chance(result)
    # 400 ids with an s.d. of about .08 each: standard error .004; 128 draws at 8 numbers add .003.
    np.testing.assert_allclose(chance, found, atol=0.02)
    assert chance[0] > 2 / 8 + 0.1


def test_entries_say_of_which_run_probe_and_router_they_are() -> None:
    """The second run has its routers in another order; positions are along the report's own router dimension."""
    one = vocabulary.Shares(
        np.array([5, 5]), np.array([10, 10]), np.array([0, 1]), np.array([2, 3]), np.array([1, 0.5])
    )
    collected = Collected(["first", "second"], np.array([0]), ["p"], [0.7])
    collected.put((0, 0, 0), {"z_loss": np.zeros(2)}, ["a", "b"])
    collected.put((1, 0, 0), {"z_loss": np.zeros(2)}, ["b", "a"])
    collected.put_table(0, 0, one, ["a", "b"])
    collected.put_table(1, 0, one, ["b", "a"])
    arrays = collected.arrays()
    assert arrays["vocabulary_run"].tolist() == [0, 0, 1, 1]
    assert arrays["vocabulary_router"].tolist() == [0, 1, 1, 0]
    assert arrays["vocabulary_expert"].tolist() == [2, 3, 2, 3]
    assert arrays["vocabulary_share"].tolist() == [1, 0.5, 1, 0.5]
