"""σ are those of a float64 SVD, whatever the storage dtype, the conditioning and the form of the matrix."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzers.contract import Content, LowRank, Matrix, Sum
from analyzers.errors import Unmeasurable
from analyzers.linalg.blocks import blocks64
from analyzers.linalg.spectra import singular_values, singular_values_batch, svd

# The promise is 1e-10 σ1: the Gram route at κ = 1e5 is allowed about ε κ ≈ 2e-11, the other routes a few ε.
TOLERANCE = 1e-10


def random(m: int, n: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def with_sigma(sigma: torch.Tensor, m: int, n: int, seed: int = 0) -> torch.Tensor:
    left, right = (torch.linalg.qr(random(side, len(sigma), seed + i))[0] for i, side in enumerate((m, n)))
    return (left * sigma) @ right.mT


def reference(content: Content) -> np.ndarray:
    return np.linalg.svd(Matrix.of(content).dense(torch.float64).numpy(), compute_uv=False)


def error(content: Content) -> float:
    """max |σ − σ_ref| / σ1, with the zeros that a low-rank product does not carry."""
    wanted = reference(content)
    got = np.zeros_like(wanted)
    sigma = singular_values(content).sigma.numpy()
    got[: len(sigma)] = sigma
    return float(np.abs(got - wanted).max() / wanted.max())


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2, torch.int8],
)
@pytest.mark.parametrize("shape", [(70, 40), (40, 70), (50, 50), (1, 9), (9, 1), (1, 1)])
def test_sigma_of_every_storage_dtype_are_those_of_a_float64_svd(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    values = random(*shape) * 5 + 1
    content = values.to(torch.float32).to(dtype)
    spectrum = singular_values(content)
    assert spectrum.sigma.dtype == torch.float64
    assert len(spectrum.sigma) == spectrum.size == min(shape)
    assert error(content) <= TOLERANCE


@pytest.mark.parametrize("exponent", [0, 3, 4.5, 4.9, 5.1, 7, 10, 14])
@pytest.mark.parametrize("shape", [(200, 120), (120, 200), (150, 150)])
def test_sigma_are_exact_up_to_a_condition_of_1e14(exponent: float, shape: tuple[int, int]) -> None:
    W = with_sigma(torch.logspace(0, -exponent, min(shape), dtype=torch.float64), *shape)
    assert error(W) <= TOLERANCE
    # A Gram matrix loses everything below √ε: it must not have been used there.
    assert singular_values(W).method == ("gram" if exponent < 5 else "svd")


def test_a_single_tiny_sigma_beside_large_ones_is_found() -> None:
    W = with_sigma(torch.tensor([1.0, 1.0, 1.0, 1e-9], dtype=torch.float64), 30, 20)
    assert float(singular_values(with_sigma(torch.tensor([1.0, 1e-9], dtype=torch.float64), 2, 30)).sigma[1]) == (
        pytest.approx(1e-9, rel=1e-4)
    )
    assert error(W) <= TOLERANCE


def test_a_rank_deficient_matrix_has_its_zeros() -> None:
    W = random(60, 5, 1) @ random(5, 40, 2)
    spectrum = singular_values(W)
    assert spectrum.method == "svd"
    assert int((spectrum.sigma > spectrum.rank_tolerance).sum()) == 5
    assert error(W) <= TOLERANCE


def test_a_zero_matrix_has_zero_sigma_and_no_condition() -> None:
    spectrum = singular_values(torch.zeros(4, 6))
    assert spectrum.sigma.tolist() == [0.0] * 4
    assert np.isnan(spectrum.condition)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
def test_a_matrix_without_entries_has_no_sigma(shape: tuple[int, int]) -> None:
    assert len(singular_values(torch.zeros(shape)).sigma) == 0
    U, sigma, Vh = svd(torch.zeros(shape))
    assert (U.shape, sigma.shape, Vh.shape) == ((shape[0], 0), (0,), (0, shape[1]))


@pytest.mark.parametrize("scale", [2.0**-1070, 1e-200, 1e200, 2.0**1000])
def test_entries_whose_squares_leave_float64_are_measured(scale: float) -> None:
    W = random(20, 30) * scale
    wanted = np.linalg.svd(random(20, 30).numpy(), compute_uv=False)
    # Subnormal entries have few digits left: their rounding, not the method, is the error there.
    tolerance = 1e-2 if scale < 1e-300 else TOLERANCE
    assert np.allclose(singular_values(W).sigma.numpy() / scale, wanted, rtol=0, atol=tolerance * wanted[0])


@pytest.mark.parametrize("transposed", [False, True])
def test_views_that_are_not_contiguous_are_measured_as_they_are(transposed: bool) -> None:
    W = random(90, 60)[::3, 5:45]
    assert error(W.mT if transposed else W) <= TOLERANCE


def test_blocks_cover_the_matrix_in_order() -> None:
    for content in (random(37, 11), LowRank(random(37, 3), random(3, 11), 0.5)):
        for axis in (0, 1):
            blocks = list(blocks64(content, axis, block_bytes=8 * 50))
            assert len(blocks) > 2
            assert torch.allclose(torch.cat(blocks, dim=axis), Matrix.of(content).dense(torch.float64))


@pytest.mark.parametrize("shape", [(300, 80), (80, 300)])
def test_a_gram_matrix_of_many_blocks_is_that_of_one(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analyzers.linalg.blocks.blocks64.__defaults__", (0, 8 * 80 * 7))
    for content in (
        random(*shape, dtype=torch.float32),
        Sum(random(*shape), LowRank(random(shape[0], 2), random(2, shape[1]))),
    ):
        assert singular_values(content).method == "gram"
        assert error(content) <= TOLERANCE


@given(
    m=st.integers(1, 40),
    n=st.integers(1, 40),
    r=st.integers(1, 45),
    scale=st.floats(-4, 4).filter(lambda s: abs(s) > 1e-3),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_a_product_of_thin_factors_has_the_sigma_of_the_expanded_matrix(
    m: int, n: int, r: int, scale: float, seed: int
) -> None:
    content = LowRank(random(m, r, seed), random(r, n, seed + 1), scale)
    spectrum = singular_values(content)
    assert len(spectrum.sigma) == min(m, n, r)
    assert spectrum.size == min(m, n)
    assert spectrum.method == ("qr" if r < min(m, n) else spectrum.method)
    assert error(content) <= TOLERANCE


def test_an_adapter_of_rank_0_has_no_sigma_to_store() -> None:
    assert len(singular_values(LowRank(torch.zeros(5, 0), torch.zeros(0, 7))).sigma) == 0


def test_an_adapter_on_its_base_has_the_sigma_of_the_merged_matrix() -> None:
    content = Sum(random(40, 30, dtype=torch.bfloat16), LowRank(random(40, 4), random(4, 30), 0.25))
    assert error(content) <= TOLERANCE


@pytest.mark.parametrize(
    "content",
    [
        random(30, 20),
        random(20, 30, dtype=torch.bfloat16),
        random(30, 20) * 1e-250,
        LowRank(random(30, 4), random(4, 20), 2.0),
        LowRank(random(30, 25), random(25, 20), 2.0),
        Sum(random(30, 20), LowRank(random(30, 4), random(4, 20), 2.0)),
    ],
    ids=["tall", "bf16", "tiny", "low-rank", "full-rank product", "sum"],
)
def test_svd_gives_orthonormal_vectors_that_rebuild_the_matrix(content: Content) -> None:
    U, sigma, Vh = svd(content)
    dense = Matrix.of(content).dense(torch.float64)
    one = torch.eye(len(sigma), dtype=torch.float64)
    assert torch.allclose(U.mT @ U, one, atol=1e-12) and torch.allclose(Vh @ Vh.mT, one, atol=1e-12)
    assert float(((U * sigma) @ Vh - dense).abs().max()) <= 1e-13 * float(sigma[0])
    assert bool((sigma.diff() <= 0).all())


@pytest.mark.parametrize(("value", "word"), [(float("nan"), "1 NaN"), (float("-inf"), "1 infinite")])
def test_entries_that_are_not_finite_are_counted_in_the_reason(value: float, word: str) -> None:
    W = random(6, 5, dtype=torch.float32)
    W[2, 3] = value
    for content in (W, LowRank(W, random(5, 9)), Sum(W, LowRank(random(6, 1), random(1, 5)))):
        for measure in (singular_values, svd):
            with pytest.raises(Unmeasurable, match=word):
                measure(content)


def test_complex_entries_are_refused_by_name() -> None:
    with pytest.raises(Unmeasurable, match="complex64"):
        singular_values(torch.ones(3, 3, dtype=torch.complex64))


def test_a_batch_of_small_matrices_is_measured_as_each_alone() -> None:
    stack = torch.stack([random(8, 6, seed, torch.float32) for seed in range(5)])
    stack[1] = 1.0  # rank 1: not from a Gram matrix
    stack[2] = 0.0
    stack[3, 0, 0] = float("nan")
    spectra = singular_values_batch(stack)
    assert spectra[2] is None and spectra[3] is None
    for index in (0, 1, 4):
        spectrum = spectra[index]
        assert spectrum is not None
        alone = singular_values(stack[index])
        assert spectrum.method == alone.method
        assert torch.allclose(spectrum.sigma, alone.sigma, rtol=0, atol=1e-14 * float(alone.sigma[0]))


@given(seed=st.integers(0, 99), exponent=st.integers(-60, 60), shape=st.sampled_from([(12, 7), (7, 12), (9, 9)]))
@settings(max_examples=30, deadline=None)
def test_scaling_by_a_power_of_two_scales_every_sigma_exactly(seed: int, exponent: int, shape: tuple[int, int]) -> None:
    W = random(*shape, seed, torch.float32)
    assert torch.equal(singular_values(W.double() * 2.0**exponent).sigma, singular_values(W).sigma * 2.0**exponent)


@given(seed=st.integers(0, 99), shape=st.sampled_from([(12, 7), (7, 12), (9, 9)]))
@settings(max_examples=30, deadline=None)
def test_permuting_rows_or_columns_or_transposing_changes_no_sigma(seed: int, shape: tuple[int, int]) -> None:
    W = random(*shape, seed)
    order = torch.randperm(shape[0], generator=torch.Generator().manual_seed(seed))
    sigma = singular_values(W).sigma
    for other in (W[order], W.mT, W.mT[:, order], -W):
        assert torch.allclose(singular_values(other).sigma, sigma, rtol=0, atol=1e-11 * float(sigma[0]))


def test_peak_memory_stays_below_three_float64_copies_of_the_matrix() -> None:
    """Both routes, in a process of its own; resident memory before the call is not counted."""
    if not Path("/proc/self/status").exists():
        pytest.skip("peak memory is read from /proc/self/status, which this system has not")
    script = """
import re, sys, torch
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
from analyzers.linalg.spectra import singular_values
singular_values(torch.randn(200, 300)); singular_values(torch.ones(200, 300))
m, n = (3000, 3000) if sys.argv[1] == "gram" else (6000, 1500)
W = torch.randn(m, n) if sys.argv[1] == "gram" else torch.randn(m, 40) @ torch.randn(40, n)
before = peak()
assert singular_values(W).method == sys.argv[1]
print((peak() - before) / (8 * m * n))
"""
    for method in ("gram", "svd"):
        done = subprocess.run([sys.executable, "-c", script, method], capture_output=True, text=True, check=True)
        # Three copies are promised; the storage, read before, is half of one of them. Seen: 1.0 to 1.7. Something must
        # be added, or it is not measured.
        assert 0.5 < float(done.stdout) < 2.0, f"{method}: {done.stdout} copies"


def test_the_matrix_itself_is_left_as_it_was() -> None:
    for W in (random(20, 3) @ random(3, 20), random(20, 20), random(20, 20) * 1e-200):
        before = W.clone()
        singular_values(W), singular_values(W.mT), svd(W)
        assert torch.equal(W, before)
