"""On a real model with a real PEFT adapter: counts equal those of plain float64 SVDs, and the cost is as documented."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from analyzers.contract import Sum
from analyzers.intruder_dimensions import IntruderDimensions
from tests.analyzers.intruder_dimensions.memory import MemoryView
from tests.analyzers.intruder_dimensions.minilm import base_matrices, trained_adapter
from tests.analyzers.intruder_dimensions.test_intruders import plain

EPSILONS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SIDES = ("left", "right")


@pytest.fixture(scope="module")
def view() -> MemoryView:
    torch.set_num_threads(1)
    tuned = {name: Sum(base_matrices()[name], delta) for name, delta in trained_adapter().items()}
    return MemoryView({"lora": {12: tuned}}, base_matrices())


@pytest.fixture(scope="module")
def dataset(view: MemoryView):
    settings = IntruderDimensions.Parameters(null=False, matched=False, across_runs=False)
    return IntruderDimensions(settings).derive(view).dataset


def test_counts_are_those_of_a_float64_full_svd_at_every_epsilon_and_k(view: MemoryView, dataset) -> None:
    scores = {
        name: plain(base_matrices()[name].double() + delta.dense(), base_matrices()[name], 10)
        for name, delta in trained_adapter().items()
    }
    assert len(scores) == 37
    total = 0
    for name, by_side in scores.items():
        for side, row in zip(SIDES, by_side, strict=True):
            for k in (1, 2, 5, 10):
                for epsilon in EPSILONS:
                    expected = int((row[:k] < epsilon).sum())
                    got = dataset["n_intruders"].sel(run="lora", step=12, matrix=name, side=side, k=k, epsilon=epsilon)
                    assert float(got) == expected, (name, side, k, epsilon)
                    total += expected
    assert total > 1000  # the adapter has intruders to find: the agreement is not that of zeros
    # cached base vectors are float32: 6e-8 is their share of the error, and float64's is far below
    np.testing.assert_allclose(
        dataset["similarity"].sel(run="lora", step=12).values, np.stack([scores[n] for n in view.matrices]), atol=1.2e-7
    )


def test_a_float32_archive_leaves_hardly_a_count_undetermined(dataset) -> None:
    # 37 matrices × 2 sides × 7 ε: with storage noise of 1e-9 only a score that hits ε by accident is undetermined.
    # One weight of the file (the pooler's) uses fewer mantissa bits, and is rightly less certain.
    undetermined = (dataset["n_intruders_high"] - dataset["n_intruders_low"]).sel(k=10)
    assert int((undetermined > 0).sum()) <= 5
    assert bool((dataset["n_intruders_low"] <= dataset["n_intruders"]).all())
    assert bool((dataset["n_intruders"] <= dataset["n_intruders_high"]).all())


def test_an_adapter_of_rank_8_on_all_matrices_takes_seconds(view: MemoryView) -> None:
    fresh = MemoryView(view.tuned, view.bases)
    settings = IntruderDimensions.Parameters(null=False, matched=False, across_runs=False)
    started = time.process_time()
    IntruderDimensions(settings).derive(fresh)
    # 4 CPU seconds on one thread, base's SVDs included; the promise is 30
    assert time.process_time() - started < 30


def test_rounding_the_base_to_bfloat16_moves_scores_by_no_more_than_their_storage_uncertainty() -> None:
    names = list(trained_adapter())[::4]
    deltas = {name: trained_adapter()[name] for name in names}
    settings = IntruderDimensions.Parameters(null=False, matched=False, across_runs=False)
    fine, coarse = (
        IntruderDimensions(settings)
        .derive(MemoryView({"r": {1: {n: Sum(bases[n], deltas[n]) for n in names}}}, bases))
        .dataset
        for bases in (base_matrices(), {n: w.bfloat16() for n, w in base_matrices().items()})
    )
    moved = np.abs(fine["similarity"] - coarse["similarity"]).values
    allowed = coarse["storage_uncertainty"].values + fine["storage_uncertainty"].values + 1e-7
    assert moved.max() > 1e-4  # it does move them
    assert (moved > allowed).mean() <= 0.01  # four standard deviations of a first-order estimate
    # and the uncertainty is of use: most scores are known to better than a hundredth
    assert np.median(allowed) < 0.01
