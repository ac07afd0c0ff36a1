"""What changed in a matrix, entry by entry and as a whole, and between runs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from analyzers.contract import LowRank, Sum
from analyzers.intruder_dimensions.across_runs import ChangeAcrossRuns
from analyzers.intruder_dimensions.change import Change
from tests.analyzers.intruder_dimensions.memory import measure, observe
from tests.analyzers.intruder_dimensions.test_intruders import random

BASE = random(30, 20, 1, torch.float32)
UPDATE = LowRank(random(30, 3, 2, torch.float32), random(3, 20, 3, torch.float32), 0.01)


def test_norms_and_the_inner_product_are_those_of_the_dense_matrices() -> None:
    result = measure(Change(), observe(Sum(BASE, UPDATE), BASE))
    delta, base = UPDATE.dense(), BASE.double()
    assert result["norm_update"] == pytest.approx(float(delta.norm()), rel=1e-12)
    assert result["norm_base"] == pytest.approx(float(base.norm()), rel=1e-12)
    assert result["norm_tuned"] == pytest.approx(float((base + delta).norm()), rel=1e-12)
    assert result["inner"] == pytest.approx(float(((base + delta) * base).sum()), rel=1e-12)


def test_entries_are_compared_bit_for_bit() -> None:
    tuned = BASE.clone()
    tuned[:3] = torch.nextafter(tuned[:3], torch.tensor(9e9))  # 60 of 600 by one ulp: what rounding can do
    tuned[3] *= -1.5  # 20 more in sign and size
    tuned[4, 0] = -0.0
    base = BASE.clone()
    base[4, 0] = 0.0
    result = measure(Change(), observe(tuned, base))
    assert result["unchanged"] == pytest.approx(1 - 81 / 600)
    assert result["changed_above_noise"] == pytest.approx(20 / 600)
    assert result["sign_flips"] == pytest.approx(20 / 600)


def test_an_adapter_too_small_for_the_bases_dtype_changes_no_entry_of_the_merged_weight() -> None:
    tiny = LowRank(UPDATE.b, UPDATE.a, 1e-9)
    result = measure(Change(), observe(Sum(BASE.bfloat16(), tiny), BASE.bfloat16()))
    assert result["unchanged"] == 1.0 and result["changed_above_noise"] == 0.0
    assert result["norm_update"] == pytest.approx(float(tiny.dense().norm()), rel=1e-10)  # and yet it is not zero


def test_a_single_large_entry_holds_all_of_the_top_share() -> None:
    tuned = BASE.clone()
    tuned[5, 5] += 3.0
    result = measure(Change(top_fraction=0.001), observe(tuned, BASE))
    assert result["top_share"] == pytest.approx(1.0) and result["top_share_above_noise"] == pytest.approx(1.0)
    gaussian = measure(Change(top_fraction=0.1), observe(BASE + 0.1 * random(30, 20, 5).float(), BASE))
    flat = np.sort((0.1 * random(30, 20, 5).float()).flatten().numpy() ** 2)[::-1]
    assert gaussian["top_share"] == pytest.approx(flat[:60].sum() / flat.sum(), rel=1e-3)


def test_in_bfloat16_the_noise_floor_is_the_norm_of_the_rounding() -> None:
    exact = random(300, 200, 6)
    rounded = exact.bfloat16()
    again = (exact + 1e-9).bfloat16()
    result = measure(Change(), observe(exact.bfloat16(), rounded))
    noise = torch.linalg.matrix_norm(rounded.double() - exact, 2) * np.sqrt(2)  # both were rounded
    assert result["noise_floor"] == pytest.approx(float(noise), rel=0.1)
    assert measure(Change(), observe(again, rounded))["noise_floor"] == pytest.approx(result["noise_floor"], rel=1e-3)


def test_an_unchanged_matrix_has_zero_change_and_no_shares() -> None:
    result = measure(Change(), observe(BASE, BASE))
    assert result["norm_update"] == 0 and result["unchanged"] == 1 and result["sign_flips"] == 0
    assert np.isnan(result["top_share"]) and np.isnan(result["subspace_share"]).all()


def test_a_base_of_zeros_has_norms_but_no_subspaces() -> None:
    result = measure(Change(), observe(BASE, torch.zeros_like(BASE)))
    assert result["norm_base"] == 0 and result["norm_update"] == pytest.approx(float(BASE.double().norm()))
    assert np.isnan(result["subspace_share"]).all()


def test_cosines_between_runs_are_those_of_the_vectorised_updates() -> None:
    dense = 0.1 * random(30, 20, 7)
    other = LowRank(random(30, 2, 8), random(2, 20, 9), -0.3)
    updates = [UPDATE.dense(), other.dense(), dense]
    runs = [
        observe(Sum(BASE, UPDATE), BASE, run="a"),
        observe(Sum(BASE, other), BASE, run="b"),
        observe(BASE.double() + dense, BASE, run="c"),
        observe(BASE, BASE, run="frozen"),
    ]
    result = measure(ChangeAcrossRuns(0.05), *runs)
    vectors = np.stack([u.flatten().numpy() / float(u.norm()) for u in updates])
    np.testing.assert_allclose(result["cosine"][:3, :3], vectors @ vectors.T, atol=1e-12)
    assert np.isnan(result["cosine"][3]).all() and np.isnan(result["cosine"][:, 3]).all()
    np.testing.assert_allclose(np.diag(result["mask_iou"])[:3], 1.0)
    tops = [set(np.argsort(-np.abs(u.flatten().numpy()))[:30].tolist()) for u in updates]
    assert result["mask_iou"][0, 2] == pytest.approx(len(tops[0] & tops[2]) / len(tops[0] | tops[2]))
    assert np.isnan(result["phi"][0, 2]).all() and result["phi"][0, 0, 1, 1] == pytest.approx(1.0)
    assert np.isfinite(result["phi"][0, 1, 1, 1]) and np.isnan(result["phi"][0, 1, 2, 2])  # ranks 3 and 2; j = 4
    np.testing.assert_allclose(result["phi"][0, 1], result["phi"][1, 0].T)


def test_random_masks_meet_as_often_as_chance_says() -> None:
    runs = [
        observe(BASE[:1].repeat(1, 500) + random(1, 10000, s).float(), BASE[:1].repeat(1, 500), run=str(s))
        for s in (1, 2)
    ]
    s = 0.2
    iou = measure(ChangeAcrossRuns(s), *runs)["mask_iou"][0, 1]
    assert iou == pytest.approx(s / (2 - s), rel=0.1)


def test_a_file_upcast_from_bfloat16_has_the_noise_of_bfloat16() -> None:
    base = BASE.bfloat16()
    tuned = (base.view(torch.int16) + 1).view(torch.bfloat16)  # every entry by one ulp
    for one, other in ((tuned, base), (tuned.float(), base.float())):
        result = measure(Change(), observe(one, other))
        assert result["unchanged"] == 0 and result["changed_above_noise"] == 0
