"""Pairs with float8 on either side, in every form: the numbers are those of the same values in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from analyzers.contract import Content, LowRank, Observation, Statistic, Sum
from analyzers.intruder_dimensions.across_runs import ChangeAcrossRuns
from analyzers.intruder_dimensions.change import Change
from analyzers.intruder_dimensions.intruders import Intruders
from analyzers.intruder_dimensions.matched import IntruderMatched
from analyzers.linalg.dense_top import Blend
from tests.analyzers.intruder_dimensions.memory import measure, observe
from tests.analyzers.intruder_dimensions.test_intruders import random

FLOAT8 = [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz]
FREE_OF_STORAGE = {
    "change": ("norm_update", "norm_base", "norm_tuned", "inner", "top_share", "subspace_share", "sign_flips"),
    "intruders": ("similarity", "sigma", "index", "angles"),
    "intruder_matched": ("similarity", "norm"),
    "change_across_runs": ("cosine", "mask_iou", "phi"),
}
"""Fields that depend on the values alone. The others tell how the values are stored."""


def pairs(store: Callable[[torch.Tensor], torch.Tensor]) -> list[Observation]:
    """A dense W, an adapter on its base, and an adapter's dense Δ; `store` brings each tensor to its dtype."""
    base, factors = random(30, 20, 1), LowRank(store(random(30, 3, 2)), store(random(3, 20, 3)), 0.25)
    w0 = store(base)
    dense: list[tuple[str, Content, str]] = [
        ("full", store(base + 0.2 * random(30, 20, 4)), "weight"),
        ("lora", Sum(w0.clone(), factors), "weight"),
        ("factors", factors, "delta"),
        ("delta", store(0.3 * random(30, 20, 5)), "delta"),
    ]
    return [observe(content, w0, run=run, role=role) for run, content, role in dense]


@pytest.mark.parametrize("dtype", FLOAT8, ids=str)
@pytest.mark.parametrize("statistic", [Change(subspace_ranks=(1, 3)), Intruders(3)], ids=lambda s: s.name)
def test_a_pair_in_float8_is_measured_as_its_values(dtype: torch.dtype, statistic: Statistic) -> None:
    narrow = pairs(lambda tensor: tensor.float().to(dtype))
    wide = pairs(lambda tensor: tensor.float().to(dtype).double())
    for one, other in zip(narrow, wide, strict=True):
        got, wanted = measure(statistic, one), measure(statistic, other)
        for field in FREE_OF_STORAGE[statistic.name]:
            np.testing.assert_allclose(got[field], wanted[field], rtol=1e-9, atol=1e-12, err_msg=f"{one.run}: {field}")


@pytest.mark.parametrize("dtype", FLOAT8, ids=str)
@pytest.mark.parametrize("statistic", [IntruderMatched(3), ChangeAcrossRuns()], ids=lambda s: s.name)
def test_runs_in_float8_are_compared_as_their_values(dtype: torch.dtype, statistic: Statistic) -> None:
    got = measure(statistic, *pairs(lambda tensor: tensor.float().to(dtype)))
    wanted = measure(statistic, *pairs(lambda tensor: tensor.float().to(dtype).double()))
    for field in FREE_OF_STORAGE[statistic.name]:
        np.testing.assert_allclose(got[field], wanted[field], rtol=1e-9, atol=1e-12, err_msg=field)


@pytest.mark.parametrize("other", [torch.bfloat16, torch.float32])
def test_a_float8_base_of_a_wider_run_and_the_reverse(other: torch.dtype) -> None:
    base = random(30, 20, 1).float().to(torch.float8_e4m3fn)
    tuned = (base.float() + 0.2 * random(30, 20, 4).float()).to(other)
    there, back = measure(Change(), observe(tuned, base)), measure(Change(), observe(base, tuned))
    wanted = float(torch.linalg.vector_norm(tuned.double() - base.double()))
    assert there["norm_update"] == pytest.approx(wanted) and back["norm_update"] == pytest.approx(wanted)
    assert there["unchanged"] == pytest.approx(float((tuned.double() == base.double()).double().mean()))


def test_equal_float8_matrices_are_identical_and_an_update_of_zeros_changes_nothing() -> None:
    base = random(30, 20, 1).float().to(torch.float8_e5m2)
    zeros = LowRank(torch.zeros(30, 2).to(torch.float8_e5m2), random(2, 20, 3).float().to(torch.float8_e5m2))
    for tuned, role in ((base.clone(), "weight"), (Sum(base, zeros), "weight"), (zeros, "delta")):
        result = measure(Change(), observe(tuned, base, role=role))
        assert result["norm_update"] == 0.0 and result["unchanged"] == 1.0


def test_the_rounding_of_a_blend_of_float8_is_bounded() -> None:
    base, tuned = (random(30, 20, seed).float().to(torch.float8_e4m3fn) for seed in (1, 2))
    blend = Blend(((0.5, base), (0.5, tuned)))
    wanted = float(torch.linalg.vector_norm(base.double()) + torch.linalg.vector_norm(tuned.double())) / 2
    assert blend.entry_rounding(torch.float32) == pytest.approx(2 * torch.finfo(torch.float32).eps * wanted)
