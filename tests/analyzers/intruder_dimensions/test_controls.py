"""The two controls: random updates of the same strength, and the runs' updates at one norm."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from analyzers.contract import LowRank, Sum
from analyzers.errors import ContractError
from analyzers.intruder_dimensions.intruders import Intruders
from analyzers.intruder_dimensions.matched import IntruderMatched
from analyzers.intruder_dimensions.null import IntruderNull
from analyzers.intruder_dimensions.spectrum import UpdateSpectrum
from tests.analyzers.intruder_dimensions.memory import measure, observe
from tests.analyzers.intruder_dimensions.test_intruders import plain, random

BASE = random(18, 12, 1)
UPDATE = LowRank(random(18, 2, 2), random(2, 12, 3), 0.8)


def null(draws: int, seed: int = 7, update: torch.Tensor | LowRank | None = None, k: int = 4) -> np.ndarray:
    tuned = Sum(BASE, UPDATE) if update is None else BASE + update
    spectrum = measure(UpdateSpectrum(), observe(tuned, BASE))
    observation = observe(tuned, BASE, statistics={"update_spectrum": spectrum})
    return measure(IntruderNull(draws, k), observation, seed=seed)["similarity"]


def test_the_spectrum_of_an_update_is_that_of_the_difference_and_of_rank_r_from_factors() -> None:
    expected = np.linalg.svd(UPDATE.dense().numpy(), compute_uv=False)
    of_factors = measure(UpdateSpectrum(), observe(Sum(BASE, UPDATE), BASE))["sigma"]
    np.testing.assert_allclose(of_factors, expected[:2], rtol=1e-12)
    of_difference = measure(UpdateSpectrum(), observe(BASE + UPDATE.dense(), BASE))["sigma"]
    np.testing.assert_allclose(of_difference, expected, atol=1e-13 * float(expected[0]) * 10)
    assert of_difference.shape == (12,)
    unchanged = measure(UpdateSpectrum(), observe(BASE, BASE))["sigma"]
    np.testing.assert_array_equal(unchanged, np.zeros(12))


def test_more_draws_begin_with_the_fewer_and_another_unit_draws_others() -> None:
    few, many = null(3), null(8)
    np.testing.assert_array_equal(few, many[:3])
    assert many.shape == (8, 2, 4)
    assert len(np.unique(many[:, 0, 0])) == 8
    assert not np.isclose(null(3, seed=8), few).any(axis=-1).all()


def test_an_unchanged_matrix_has_a_null_of_ones() -> None:
    np.testing.assert_array_equal(null(2, update=torch.zeros(18, 12, dtype=torch.float64)), 1.0)


def test_the_null_needs_the_spectrum_of_the_update() -> None:
    with pytest.raises(ContractError, match="intruder_null needs the result of update_spectrum"):
        measure(IntruderNull(2), observe(Sum(BASE, UPDATE), BASE))


def test_draws_are_an_extent_and_k_is_a_parameter_of_the_key() -> None:
    assert IntruderNull(20, 10).parameters() == IntruderNull(40, 10).parameters() != IntruderNull(20, 20).parameters()
    assert Intruders(10).parameters() == Intruders(30).parameters() == IntruderMatched(3).parameters() == {}


def test_matched_updates_have_the_norm_they_are_matched_to() -> None:
    full = 0.05 * random(18, 12, 4)
    runs = [observe(Sum(BASE, UPDATE), BASE, run="lora"), observe(BASE + full, BASE, run="full")]
    result = measure(IntruderMatched(3), *runs)
    norms = [float(UPDATE.dense().norm()), float(full.norm())]
    common = float(np.sqrt(norms[0] * norms[1]))
    np.testing.assert_allclose(result["norm"], [*norms, common], rtol=1e-10)
    for row, update in enumerate((UPDATE.dense(), full)):
        for column, target in enumerate((*norms, common)):
            scaled = update * (target / float(update.norm()))
            np.testing.assert_allclose(result["similarity"][row, column], plain(BASE + scaled, BASE, 3), atol=2e-7)
    own = measure(Intruders(3), runs[0])["similarity"]
    np.testing.assert_allclose(result["similarity"][0, 0], own, atol=1e-9)


def test_only_the_last_step_of_a_run_is_matched() -> None:
    steps = [observe(BASE + c * random(18, 12, 4), BASE, run="full", step=s) for s, c in ((10, 0.1), (20, 0.4))]
    other = observe(Sum(BASE, UPDATE), BASE, run="lora", step=5)
    result = measure(IntruderMatched(2), *steps, other)
    assert result["norm"][0] == pytest.approx(0.4 * float(random(18, 12, 4).norm()))
    assert result["members"].shape == (2,) and len(set(result["members"].tolist())) == 2


def test_a_run_that_did_not_move_is_nan_and_does_not_enter_the_common_norm() -> None:
    moved = observe(Sum(BASE, UPDATE), BASE, run="lora")
    result = measure(IntruderMatched(2), observe(BASE, BASE, run="frozen"), moved)
    assert np.isnan(result["similarity"][0]).all() and np.isnan(result["similarity"][1, 0]).all()
    assert np.isfinite(result["similarity"][1, 1:]).all()
    assert result["norm"][2] == pytest.approx(result["norm"][1])


def test_one_run_alone_has_nothing_to_match() -> None:
    result = measure(IntruderMatched(2), observe(Sum(BASE, UPDATE), BASE))
    assert np.isnan(result["similarity"]).all() and result["similarity"].shape == (1, 2, 2, 2)
