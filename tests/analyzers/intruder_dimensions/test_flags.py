"""Numbers that equal singular values leave open are flagged, and others are not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from analyzers.intruder_dimensions import IntruderDimensions
from analyzers.intruder_dimensions.change import gaps_after
from tests.analyzers.intruder_dimensions.memory import MemoryView

RANKS = (1, 3, 5)


def base(sigma: list[float], seed: int = 0) -> torch.Tensor:
    """24 × 16 with these leading singular values; the others fall off by a tenth each."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.linalg.qr(torch.randn(24, 16, generator=generator, dtype=torch.float64)).Q
    v = torch.linalg.qr(torch.randn(16, 16, generator=generator, dtype=torch.float64)).Q
    values = sigma + [sigma[-1] * 0.9**i for i in range(1, 17 - len(sigma))]
    return (u * torch.tensor(values, dtype=torch.float64)) @ v.T


def measured(sigma: list[float], dtype: torch.dtype = torch.float64):
    first = base(sigma).to(dtype)
    update = 1e-2 * torch.randn(24, 16, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    view = MemoryView({"full": {1: {"w": (first.double() + update).to(dtype)}}}, {"w": first})
    analyzer = IntruderDimensions(
        IntruderDimensions.Parameters(
            k_max=5, ks=RANKS, subspace_ranks=RANKS, null=False, matched=False, births=False, across_runs=False
        )
    )
    return analyzer.derive(view).dataset.sel(run="full", step=1, matrix="w")


def test_a_gap_is_flagged_where_two_singular_values_are_equal() -> None:
    of_tied = measured([5.0, 4.0, 3.0, 3.0, 2.0])  # σ3 = σ4
    assert of_tied["delta_in_base_subspace_flag"].values.tolist() == [0, 1, 0]
    assert of_tied["principal_angle_flag"].values.tolist() == [0, 1, 0]
    apart = measured([5.0, 4.0, 3.0, 2.5, 2.0])
    assert not apart["delta_in_base_subspace_flag"].values.any()
    assert not apart["principal_angle_flag"].values.any()


def test_a_gap_below_the_rounding_of_the_stored_entries_is_flagged() -> None:
    sigma = [5.0, 4.0, 3.0, 2.9999, 2.0]
    assert measured(sigma)["delta_in_base_subspace_flag"].values.tolist() == [0, 0, 0]
    # bfloat16 rounds entries near .5 by up to 1e-3, a norm of about 5e-3 here: more than the gap of 1e-4
    assert measured(sigma, torch.bfloat16)["delta_in_base_subspace_flag"].values.tolist() == [0, 1, 0]


def test_scores_on_a_tied_base_are_flagged() -> None:
    tied = measured([5.0, 4.0, 3.0, 3.0, 2.0])["similarity_flag"].values
    assert tied[:, 2:4].all() and not tied[:, :2].any()
    assert not measured([5.0, 4.0, 3.0, 2.5, 2.0])["similarity_flag"].values.any()


@pytest.mark.parametrize(("ranks", "expected"), [((1, 2, 3, 4), [1.0, 0.0, 2.0, np.nan])])
def test_the_last_gap_is_to_zero_and_beyond_p_there_is_none(ranks: tuple[int, ...], expected: list[float]) -> None:
    np.testing.assert_array_equal(gaps_after(np.array([3.0, 2.0, 2.0]), ranks), expected)
