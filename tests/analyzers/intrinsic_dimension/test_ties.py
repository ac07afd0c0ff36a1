"""Clouds whose distances tie, and points that repeat each other but for rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzers.errors import Unmeasurable
from analyzers.intrinsic_dimension.estimators import gride, two_nn
from analyzers.intrinsic_dimension.representation import NEIGHBOURS, _estimates
from analyzers.linalg.neighbours import nearest, repetitions

SCALES = (1, 2, 4)


def cloud(points: int = 400, seed: int = 0, width: int = 64) -> torch.Tensor:
    drawn = torch.Generator().manual_seed(seed)
    return torch.randn(points, 5, generator=drawn) @ torch.randn(5, width, generator=drawn)


def rotation(width: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(9))).Q


@pytest.mark.parametrize("turned", [False, True], ids=["as codes", "after a linear layer"])
def test_binary_codes_have_no_estimate_where_most_neighbours_tie(turned: bool) -> None:
    codes = (cloud(1000)[:, :12] > 0).float()
    found = _estimates(codes @ rotation(12) + 0.5 if turned else codes, SCALES)
    assert found["ties"] > 0.9
    assert np.isnan(found["two_nn"]) and np.isnan(found["gride"][0])
    estimates = found["gride"][np.isfinite(found["gride"])]
    assert (estimates < 12).all()


def test_an_integer_grid_ties_everywhere() -> None:
    grid = torch.cartesian_prod(*[torch.arange(8.0)] * 3)
    found = _estimates(grid, SCALES)
    assert found["ties"] == 1.0 and np.isnan(found["two_nn"]) and np.isnan(found["gride"][:2]).all()


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 300),
    st.sampled_from(["last bit", "rounding", "exact"]),
    st.floats(-20, 20),
    st.integers(0, 5),
)
def test_repetitions_are_counted_and_change_no_estimate(count: int, kind: str, power: float, seed: int) -> None:
    original = cloud() * 10**power
    again = original[:count]
    if kind == "last bit":
        again = torch.nextafter(again, torch.tensor(torch.inf))
    if kind == "rounding":
        again = (
            again.double() * (1 + 2e-7 * torch.randn(again.shape, generator=torch.Generator().manual_seed(seed)))
        ).float()
    order = torch.randperm(len(original) + count, generator=torch.Generator().manual_seed(seed))
    found, wanted = _estimates(torch.cat([original, again])[order], SCALES), _estimates(original, SCALES)
    assert found["duplicates"] == count and found["points"] == len(original)
    for name in ("two_nn", "mle", "participation_ratio", "gride"):
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-4)


def test_a_cloud_without_ties_or_repetitions_is_estimated_as_ever() -> None:
    points = cloud()
    distances = nearest(points, NEIGHBOURS)[0].numpy()
    found = _estimates(points, SCALES)
    assert found["duplicates"] == 0 and found["ties"] == 0
    assert found["two_nn"] == two_nn(distances)
    assert found["gride"].tolist() == [gride(distances, scale, 2 * scale) for scale in SCALES]


def test_a_far_offset_is_no_repetition() -> None:
    found = _estimates(cloud() + 1000, SCALES)
    assert found["duplicates"] == 0
    assert found["two_nn"] == pytest.approx(float(_estimates(cloud(), SCALES)["two_nn"]), rel=0.02)


def test_points_that_all_repeat_one_another_have_no_estimate() -> None:
    noise = 1e-7 * torch.randn(30, 64, generator=torch.Generator().manual_seed(1))
    found = _estimates(cloud(1) * (1 + noise), SCALES)
    assert found["points"] == 1 and found["duplicates"] == 29 and np.isnan(found["two_nn"])


def test_most_ties_are_named_in_the_reason() -> None:
    distances = np.ones((10, 4))
    distances[:4, 1:] = 2.0
    with pytest.raises(Unmeasurable, match="of 10 points, 6 have their neighbours 1 and 2 at equal distances"):
        two_nn(distances)
    distances[4, 1:] = 2.0
    assert two_nn(distances) == pytest.approx(9 / (5 * np.log(2)))


def test_the_first_of_those_that_repeat_each_other_stays() -> None:
    points = torch.tensor([[1.0, 0], [2, 0], [1 + 1e-7, 0], [2, 1e-7], [1, -1e-7]])
    distances = nearest(points, 1)[0]
    assert repetitions(points, distances, 1e-6).tolist() == [False, False, True, True, True]
