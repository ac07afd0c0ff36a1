"""Moments, histograms and the effective format of entries; the noise floor is the norm of real rounding."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzers.contract import LowRank, Sum
from analyzers.errors import Unmeasurable
from analyzers.linalg.entries import entry_facts
from analyzers.linalg.noise import noise_floor, storage_noise_floor, ulp_squared
from tests.analyzers.linalg.test_spectra import random

FLOAT8 = [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz]


@pytest.mark.parametrize("offset", [0.0, 5.0, -300.0])
@pytest.mark.parametrize("block", [1 << 24, 8 * 50 * 7])
def test_moments_are_those_of_numpy_whatever_the_blocks(
    offset: float, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analyzers.linalg.blocks.blocks64.__defaults__", (0, block))
    values = np.random.default_rng(2).gamma(2.0, size=(60, 50)) + offset
    facts = entry_facts(torch.from_numpy(values))
    assert facts.mean == pytest.approx(values.mean(), rel=1e-12)
    # Central moments about a first guess of the mean: (offset/std)⁰, no cancellation.
    assert facts.std == pytest.approx(values.std(), rel=1e-11)
    assert facts.skewness == pytest.approx(scipy.stats.skew(values.ravel()), rel=1e-9)
    assert facts.kurtosis == pytest.approx(scipy.stats.kurtosis(values.ravel(), fisher=False), rel=1e-9)
    assert facts.largest == np.abs(values).max()


@pytest.mark.parametrize("scale", [1e-250, 1e250])
def test_moments_of_entries_at_the_ends_of_float64_do_not_vanish(scale: float) -> None:
    plain, scaled = entry_facts(random(300, 300)), entry_facts(random(300, 300) * scale)
    assert scaled.std == pytest.approx(plain.std * scale, rel=1e-12)
    assert scaled.kurtosis == pytest.approx(plain.kurtosis, rel=1e-9)
    total, wanted = ((f.magnitudes * f.counts).sum() for f in (scaled, plain))
    assert total / scale == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_the_histogram_of_a_narrow_dtype_is_exact(dtype: torch.dtype) -> None:
    stored = (random(300, 300) * 0.1).to(dtype)
    facts = entry_facts(stored)
    distinct, counts = np.unique(np.abs(stored.double().numpy()), return_counts=True)
    zeros = int(counts[0]) if distinct[0] == 0 else 0
    assert facts.exact and facts.zeros == zeros
    assert facts.magnitudes.tolist() == distinct[distinct > 0].tolist()
    assert facts.counts.tolist() == counts[distinct > 0].tolist()


def test_the_histogram_of_float32_counts_every_entry_within_its_bin() -> None:
    stored = random(300, 300, dtype=torch.float32)
    facts = entry_facts(stored)
    assert not facts.exact and int(facts.counts.sum()) + facts.zeros == 90000
    approximate = np.repeat(facts.magnitudes, facts.counts)
    assert np.abs(approximate / np.sort(np.abs(stored.double().numpy().ravel())) - 1).max() <= 2.0**-11


def test_a_small_matrix_keeps_every_magnitude() -> None:
    stored = random(30, 30)
    facts = entry_facts(stored)
    assert facts.magnitudes.tolist() == np.unique(np.abs(stored.numpy())).tolist()


@pytest.mark.parametrize(
    ("narrow", "bits"), [(torch.bfloat16, 7), (torch.float16, 10), (torch.float32, 23), (torch.float64, 52)]
)
def test_the_effective_mantissa_is_seen_through_an_upcast(narrow: torch.dtype, bits: int) -> None:
    stored = random(50, 40).to(narrow)
    for wide in (narrow, torch.float64):
        assert entry_facts(stored.to(wide)).mantissa_bits == bits


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_mean_squared_ulp_is_that_of_numpys_spacing(dtype: torch.dtype) -> None:
    stored = random(60, 40, dtype=dtype)
    wanted = float((np.spacing(np.abs(stored.numpy())).astype(np.float64) ** 2).mean())
    assert ulp_squared(entry_facts(stored), dtype) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, *FLOAT8])
@pytest.mark.parametrize("scale", [0.05, 1e-4])
def test_the_floor_is_the_norm_of_the_rounding_that_storage_did(dtype: torch.dtype, scale: float) -> None:
    exact = random(300, 200) * scale
    if float(exact.abs().max()) < 2.0**-9 and dtype in (torch.float8_e4m3fn, torch.float8_e4m3fnuz):
        pytest.skip("all entries round to zero")
    stored = exact.to(torch.float32).to(dtype)
    rounding = float(torch.linalg.matrix_norm(stored.double() - exact, 2))
    # Tracy–Widom fluctuations at this size are 1 %; rounding to subnormals is uniform only on average.
    assert storage_noise_floor(stored) == pytest.approx(rounding, rel=0.1)


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1.0, 1e-3, 3e-6])
def test_an_upcast_file_has_the_floor_of_what_it_was(narrow: torch.dtype, scale: float) -> None:
    stored = (random(80, 60) * scale).to(narrow)
    floor = storage_noise_floor(stored)
    for wide in (torch.float32, torch.float64):
        assert storage_noise_floor(stored.to(wide)) == pytest.approx(floor, rel=1e-12)


@given(exponent=st.integers(-900, 1000))
@settings(max_examples=30, deadline=None)
def test_the_floor_scales_with_the_entries_to_the_ends_of_float64(exponent: int) -> None:
    stored = random(8, 6)
    assert storage_noise_floor(stored * 2.0**exponent) == storage_noise_floor(stored) * 2.0**exponent


def test_few_distinct_values_are_not_taken_for_a_coarse_format() -> None:
    # ±1 may be exact: the spacing assumed is bfloat16's, not that of a format without fraction bits.
    signs = torch.sign(random(100, 100)).to(torch.float32)
    assert ulp_squared(entry_facts(signs), torch.float32) == 2.0**-14


def test_zero_matrices_and_integers_have_their_own_spacing() -> None:
    assert storage_noise_floor(torch.zeros(4, 4)) == 0.0
    assert storage_noise_floor(torch.ones(9, 16, dtype=torch.int8)) == pytest.approx(noise_floor(1.0, (9, 16)))
    assert noise_floor(12.0, (9, 16)) == 7.0


def test_a_products_floor_bounds_what_rounding_its_factors_did_within_a_factor_of_two() -> None:
    b, a = random(200, 8), random(8, 150)
    rounded = LowRank(b.to(torch.bfloat16), a.to(torch.bfloat16), 2.0)
    change = 2.0 * (b @ a) - rounded.dense()
    assert 1.0 <= storage_noise_floor(rounded) / float(torch.linalg.matrix_norm(change, 2)) <= 2.0


def test_an_adapter_on_its_base_adds_both_floors_in_quadrature() -> None:
    base, delta = random(20, 30, dtype=torch.bfloat16), LowRank(random(20, 2), random(2, 30))
    wanted = math.hypot(storage_noise_floor(base), storage_noise_floor(delta))
    assert storage_noise_floor(Sum(base, delta)) == pytest.approx(wanted)


def test_entries_that_are_not_finite_are_counted() -> None:
    W = torch.ones(4, 5)
    W[0, 0], W[1, 1], W[2, 2] = float("nan"), float("inf"), float("nan")
    with pytest.raises(Unmeasurable, match="2 NaN and 1 infinite"):
        entry_facts(W)
    with pytest.raises(Unmeasurable, match="2 NaN and 1 infinite"):
        entry_facts(W.double())
    with pytest.raises(Unmeasurable, match="0 × 3"):
        entry_facts(torch.zeros(0, 3))


def test_a_constant_matrix_has_no_shape_of_distribution() -> None:
    facts = entry_facts(torch.full((5, 5), 0.1))
    assert facts.std == 0.0 and math.isnan(facts.kurtosis)
