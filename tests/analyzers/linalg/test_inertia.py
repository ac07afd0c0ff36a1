"""The count of singular values above a threshold: exact or undecided, whatever the base and the update."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzers.linalg.base_coordinates import adapter_coordinates
from analyzers.linalg.inertia import count_above
from tests.analyzers.linalg.adapters import Case, cases


@given(cases(), st.floats(0.02, 1.5))
@settings(max_examples=120, deadline=None)
def test_the_count_is_that_of_a_full_svd_or_undecided(case: Case, place: float) -> None:
    w0, base, delta = case.build()
    sigma = np.linalg.svd((w0 + delta.dense()).numpy(), compute_uv=False)
    theta = float((place * sigma[min(5, sigma.size - 1)]) ** 2) + 1e-6 * float(sigma[0]) ** 2
    # W is formed with an error of p ε σ1 ≈ 1e-14 σ1: thresholds nearer to a σ² than that have no oracle
    if np.abs(sigma**2 - theta).min() < 1e-12 * sigma[0] ** 2:
        return
    update = adapter_coordinates(delta, base).update
    if not update.rank:
        return
    inertia = count_above(update, torch.tensor([theta], dtype=torch.float64))
    if bool(inertia.decided):
        assert int(inertia.count) == int((sigma**2 > theta).sum())


def test_ordinary_matrices_are_decided_tall_wide_and_square_at_every_gap() -> None:
    for seed, shape in enumerate([(40, 40), (90, 40), (40, 90), (41, 40)]):
        for rank in (1, 3, 8):
            w0, base, delta = Case(shape, rank, "gaussian", "random", 0, seed).build()
            sigma = np.linalg.svd((w0 + delta.dense()).numpy(), compute_uv=False)
            update = adapter_coordinates(delta, base).update
            for j in range(1, 20):
                theta = torch.tensor([(sigma[j - 1] ** 2 + sigma[j] ** 2) / 2], dtype=torch.float64)
                inertia = count_above(update, theta)
                assert bool(inertia.decided), (shape, rank, j)
                assert int(inertia.count) == j


def test_a_threshold_on_a_singular_value_of_the_base_or_of_the_sum_is_undecided() -> None:
    w0, base, delta = Case((30, 30), 2, "power", "random", 0, 3).build()
    update = adapter_coordinates(delta, base).update
    assert not bool(count_above(update, base.sigma[4:5] ** 2).decided)
    at_value = torch.linalg.svdvals(w0 + delta.dense())[3:4] ** 2
    assert not bool(count_above(update, at_value).decided)


def test_a_batch_counts_each_of_its_updates() -> None:
    _, base, delta = Case((50, 30), 3, "power", "random", 0, 4).build()
    update = adapter_coordinates(delta, base).update
    theta = torch.linspace(0.05, 0.9, 7, dtype=torch.float64)
    alone = [int(count_above(update, t[None]).count) for t in theta]
    batch = type(update)(
        update.sigma,
        *(
            getattr(update, name).expand(7, *getattr(update, name).shape[1:])
            for name in ("strengths", "inside", "short")
        ),
        update.slack.expand(7),
    )
    assert count_above(batch, theta).count.tolist() == alone
    assert len(set(alone)) > 3
