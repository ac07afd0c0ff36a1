"""Nulls of a batch are drawn together: each unit has the draws that it has alone, and answers for itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch

from analyzers.contract import Context, LowRank, Observation, Sum, Unit
from analyzers.errors import ContractError
from analyzers.intruder_dimensions.null import IntruderNull
from analyzers.intruder_dimensions.spectrum import UpdateSpectrum
from tests.analyzers.intruder_dimensions.memory import measure, observe

STATISTIC = IntruderNull(draws=3, k=4)


def pair(shape: tuple[int, int], rank: int, seed: int) -> Observation:
    draw = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=draw, dtype=torch.float64) * torch.linspace(1.5, 0.2, shape[1])
    update = LowRank(
        torch.randn((shape[0], rank), generator=draw, dtype=torch.float64),
        torch.randn((rank, shape[1]), generator=draw, dtype=torch.float64),
        0.1,
    )
    tuned = Sum(base, update)
    inputs = {UpdateSpectrum.name: measure(UpdateSpectrum(), observe(tuned, base, f"W{seed}"))}
    return observe(tuned, base, f"W{seed}", statistics=inputs)


class Kept:
    """A cache that knows what it was asked for."""

    def __init__(self) -> None:
        self.entries: dict[tuple[str, str], Mapping[str, torch.Tensor]] = {}
        self.asked: list[str] = []

    def __call__(
        self, name: str, key: str, make: Callable[[], Mapping[str, torch.Tensor]]
    ) -> Mapping[str, torch.Tensor]:
        self.asked.append(name)
        if (name, key) not in self.entries:
            self.entries[name, key] = make()
        return self.entries[name, key]


def test_a_unit_has_the_draws_that_it_has_alone_in_any_batch() -> None:
    observations = [pair((140, 140), 2, 1), pair((20, 12), 2, 2), pair((200, 140), 2, 3), pair((140, 140), 3, 4)]
    units = [Unit((one,)) for one in observations]
    contexts = [Context(seed=100 + number, cache=Kept()) for number in range(4)]
    together = STATISTIC.compute_batch(units, contexts)
    for unit, context, result in zip(units, contexts, together, strict=True):
        assert not isinstance(result, Exception)
        alone = STATISTIC.compute(unit, context)
        np.testing.assert_allclose(result["similarity"], alone["similarity"], atol=1e-6)
        assert int(result["dense"]) == int(alone["dense"])


def test_a_unit_that_cannot_be_drawn_leaves_the_others_as_they_are() -> None:
    good, other = pair((140, 140), 2, 1), pair((150, 140), 2, 2)
    bad = observe(torch.ones(5, 5), torch.eye(5), "bad")  # σ(Δ) is missing
    contexts = [Context(seed=5, cache=Kept()) for _ in range(3)]
    results = STATISTIC.compute_batch([Unit((one,)) for one in (good, bad, other)], contexts)
    assert isinstance(results[1], ContractError) and "intruder_null needs the result of" in str(results[1])
    for place, one in ((0, good), (2, other)):
        result = results[place]
        assert not isinstance(result, Exception)
        np.testing.assert_allclose(
            result["similarity"], STATISTIC.compute(Unit((one,)), contexts[place])["similarity"], atol=1e-6
        )
    with pytest.raises(ContractError, match="intruder_null needs"):
        STATISTIC.compute(Unit((bad,)), contexts[1])


def test_only_the_first_null_of_a_base_reads_its_vectors() -> None:
    cache, one = Kept(), pair((30, 20), 2, 7)
    STATISTIC.compute(Unit((one,)), Context(seed=1, cache=cache))
    assert sorted(cache.asked) == ["svd", "svd-sigma"]
    STATISTIC.compute(Unit((one,)), Context(seed=2, cache=cache))
    assert cache.asked.count("svd") == 1
