"""The kernels behind spectra and intruders on CUDA give the CPU's numbers (`pytest -m gpu tests/gpu`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from analyzers.contract import LowRank, Sum
from analyzers.linalg import methods
from analyzers.linalg.blocks import blocks64
from analyzers.linalg.coordinate_null import coordinate_null
from analyzers.linalg.dense_top import Blend
from analyzers.linalg.haar import null_similarities
from analyzers.linalg.lowrank_update import top_vectors
from analyzers.linalg.powerlaw import fit_power_law
from analyzers.linalg.scores import Scores, side_scores
from analyzers.linalg.spectra import singular_values, singular_values_batch
from analyzers.linalg.subspaces import BaseVectors, base_vectors
from pipeline.compute.room import with_room

DEVICE = "cuda"
K = 6
# float64 on both devices, κ ≤ 1e5: the Gram's ε κ σ1 = 2e-11, of both
SIGMA = 1e-9
# The same W against the same kept vectors: residuals of 4e-8 of a gap on either side
SCORE = 2e-7

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device on this machine"),
]


def random(m: int, n: int, seed: int) -> torch.Tensor:
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed))


def power(m: int, n: int, seed: int) -> torch.Tensor:
    """float32 with σ_i ∝ i^−1/2, as trained matrices have."""
    p = min(m, n)
    left, right = (torch.linalg.qr(random(side, p, seed + i).double()).Q for i, side in enumerate((m, n)))
    return (left * torch.arange(1, p + 1).double() ** -0.5 @ right.T).float()


def on_device(base: BaseVectors) -> BaseVectors:
    return BaseVectors.from_tensors(base.as_tensors(), torch.device(DEVICE))


def close(there: Scores, here: Scores) -> None:
    for field in ("similarity", "window", "sigma_match"):
        np.testing.assert_allclose(getattr(there, field).cpu(), getattr(here, field), rtol=0, atol=SCORE, err_msg=field)
    assert there.index.cpu().tolist() == here.index.tolist()
    assert float(there.error.max()) < 1e-5


@pytest.mark.parametrize("shape", [(640, 640), (1000, 300), (300, 1000)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_sigma_and_the_power_law_fitted_to_them(shape: tuple[int, int], dtype: torch.dtype) -> None:
    w = power(*shape, 1).to(dtype)
    here, there = singular_values(w), singular_values(w.to(DEVICE))
    assert there.sigma.device.type == DEVICE and there.method == here.method
    np.testing.assert_allclose(there.sigma.cpu(), here.sigma, rtol=0, atol=SIGMA * float(here.sigma[0]))
    fits = [fit_power_law(spectrum.sigma.cpu().numpy()) for spectrum in (here, there)]
    assert fits[1].alpha == pytest.approx(fits[0].alpha, rel=1e-6)


def test_a_batch_of_small_matrices_and_thin_factors() -> None:
    stack = torch.stack([random(40, 30, seed) for seed in range(6)])
    for here, there in zip(singular_values_batch(stack), singular_values_batch(stack.to(DEVICE)), strict=True):
        assert here is not None and there is not None
        np.testing.assert_allclose(there.sigma.cpu(), here.sigma, rtol=0, atol=SIGMA * float(here.sigma[0]))
    b, a = random(300, 4, 1), random(4, 200, 2)
    here, there = singular_values(LowRank(b, a, 0.5)), singular_values(LowRank(b.to(DEVICE), a.to(DEVICE), 0.5))
    np.testing.assert_allclose(there.sigma.cpu(), here.sigma, rtol=1e-12)


@pytest.mark.parametrize("shape", [(320, 320), (700, 200), (200, 700)])
def test_an_adapters_scores_are_certified_there_too(shape: tuple[int, int]) -> None:
    w0 = power(*shape, 3)
    base = base_vectors(w0)
    delta = LowRank(random(shape[0], 8, 5), random(8, shape[1], 6), 0.4 / max(shape))
    there_w0 = w0.to(DEVICE)
    there_delta = LowRank(delta.b.to(DEVICE), delta.a.to(DEVICE), delta.scale)
    here = top_vectors(Sum(w0, delta), w0, base, K)
    there_base = on_device(base)
    there = top_vectors(Sum(there_w0, there_delta), there_w0, there_base, K)
    assert here.method == there.method == methods.ADAPTER
    for side in range(2):
        close(side_scores(there_base, there, side), side_scores(base, here, side))


@pytest.mark.parametrize("shape", [(1200, 1200), (1500, 1100), (1100, 1500), (300, 200)])
def test_a_dense_fine_tunes_scores_take_the_same_way(shape: tuple[int, int]) -> None:
    w0 = power(*shape, 7)
    w = w0 + 0.02 / max(shape) ** 0.5 * random(*shape, 8)
    base = base_vectors(w0)
    here, there_base = top_vectors(w, w0, base, K), on_device(base)
    there = top_vectors(w.to(DEVICE), w0.to(DEVICE), there_base, K)
    assert here.method == there.method == (methods.KRYLOV if min(shape) >= 1000 else methods.GRAM)
    np.testing.assert_allclose(there.sigma.cpu(), here.sigma, rtol=1e-9)
    for side in range(2):
        close(side_scores(there_base, there, side), side_scores(base, here, side))


def test_a_base_factorized_there_has_the_cpus_values_and_says_how_exact_its_vectors_are() -> None:
    w0 = power(500, 400, 9)
    here, there = base_vectors(w0), base_vectors(w0.to(DEVICE))
    np.testing.assert_allclose(there.sigma.cpu(), here.sigma, rtol=0, atol=SIGMA * float(here.sigma[0]))
    cosine = (there.left.double().cpu() * here.left.double()).sum(dim=0).abs()
    assert float((1 - cosine[:50]).max()) < 1e-6
    assert there.precision is not None and 0 < there.deviation(0) < 1e-6 and there.backward_error < 1e-11


@pytest.mark.parametrize("shape", [(256, 256), (600, 200), (200, 600)])
def test_draws_of_the_null_are_the_same_draws(shape: tuple[int, int]) -> None:
    sigma, tau = np.arange(1, min(shape) + 1) ** -0.5, np.array([0.5, 0.3, 0.1])

    def draws() -> list[np.random.Generator]:
        return [np.random.default_rng((1, i)) for i in range(5)]

    here, proven = coordinate_null(sigma, tau, shape, K, draws())
    there, also = coordinate_null(sigma, tau, shape, K, draws(), torch.device(DEVICE))
    assert proven.all() and also.all()
    # both iterations end at a relative residual of 1e-5, by different blocks
    np.testing.assert_allclose(there, here, atol=1e-4)
    for generator in draws()[:1]:
        plain = null_similarities(sigma, tau, shape, K, generator, torch.device(DEVICE))
        np.testing.assert_allclose(plain, here[0], atol=1e-4)


def test_blocks_there_are_large_enough_to_keep_the_device_busy() -> None:
    assert len(list(blocks64(torch.zeros(2000, 1000, device=DEVICE)))) == 1


def test_a_batch_that_does_not_fit_is_halved_until_it_does() -> None:
    free, _ = torch.cuda.mem_get_info()
    each = int(free * 0.4) // 4  # of float32 numbers: two at once do fit, three do not
    sizes: list[int] = []

    def compute(units: Sequence[int]) -> list[int | Exception]:
        sizes.append(len(units))
        held = [torch.zeros(each, device=DEVICE) for _ in units]
        return [int(tensor[0]) + unit for tensor, unit in zip(held, units, strict=True)]

    assert with_room(compute, [1, 2, 3, 4]) == [1, 2, 3, 4]
    assert sizes[0] == 4 and max(sizes[1:]) <= 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("columns", [1, 2, 7])
def test_products_with_few_columns_are_those_of_the_cpu(dtype: torch.dtype, columns: int) -> None:
    """A single column once failed in cuBLAS, and took the matched count of a whole matrix with it."""
    tuned, x = random(96, 64, 0), random(64, columns, 1).to(dtype)
    for factor in (1.0, 0.5):
        on_cpu, on_cuda = (Blend(((factor, tuned.to(device)),)) for device in ("cpu", DEVICE))
        image, gram = on_cpu.apply(x)
        cuda_image, cuda_gram = on_cuda.apply(x.to(DEVICE))
        # sums of 96 terms in another order, in the dtype of x
        tolerance = 96 * torch.finfo(dtype).eps
        torch.testing.assert_close(cuda_image.cpu(), image, rtol=tolerance, atol=tolerance * float(image.abs().max()))
        torch.testing.assert_close(cuda_gram.cpu(), gram, rtol=tolerance, atol=tolerance * float(gram.abs().max()))
        torch.testing.assert_close(on_cuda.gram(x.to(DEVICE)), cuda_gram, rtol=tolerance, atol=tolerance * 1e3)
