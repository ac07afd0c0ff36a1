"""Haar frames have the moments of the uniform law; the null in the base's coordinates is the null itself."""

from __future__ import annotations

import numpy as np
import pytest

from analyzers.linalg.haar import haar_frame, haar_rows, null_draws, null_similarities


@pytest.mark.parametrize(("rows", "dimension", "count"), [(12, 12, 12), (8, 30, 5), (6, 8, 5), (20, 400, 20)])
def test_rows_of_a_frame_have_haar_moments(rows: int, dimension: int, count: int) -> None:
    # Of a Haar frame: E x = 0, E x² = 1/d, E x⁴ = 3/(d(d+2)), and E of a column's squared norm in `rows` is rows/d.
    draws = np.stack([haar_rows(rows, dimension, count, np.random.default_rng(i)) for i in range(3000)])
    assert draws.shape[1:] == (rows, count)
    second, fourth = 1 / dimension, 3 / (dimension * (dimension + 2))
    entry = draws[:, 0, 0]
    assert abs(entry.mean()) < 4 * np.sqrt(second / 3000)
    assert (draws**2).mean(axis=(1, 2)).mean() == pytest.approx(second, rel=0.01)
    assert (draws**4).mean() == pytest.approx(fourth, rel=0.04)
    if count > 1:  # E x_11² x_12² = 1/(d(d+2)) in a row: same sphere; across columns and rows (d+1)/((d−1)d(d+2))
        across = (draws[:, 0, 0] * draws[:, 1, 1]) ** 2
        expected = (dimension + 1) / ((dimension - 1) * dimension * (dimension + 2))
        assert across.mean() == pytest.approx(expected, abs=5 * across.std() / np.sqrt(3000))
        cross = draws[:, 0, 0] * draws[:, 1, 1] * draws[:, 0, 1] * draws[:, 1, 0]
        weingarten = -1 / ((dimension - 1) * dimension * (dimension + 2))  # orthogonality of the columns
        assert cross.mean() == pytest.approx(weingarten, abs=5 * cross.std() / np.sqrt(3000))


def test_a_frame_is_orthonormal_and_its_first_row_is_not_biased_in_sign() -> None:
    frames = [haar_frame(9, 4, np.random.default_rng(i)) for i in range(400)]
    for frame in frames:
        np.testing.assert_allclose(frame.T @ frame, np.eye(4), atol=1e-14)
    positive = sum(float(frame[0, 0]) > 0 for frame in frames)
    assert 140 < positive < 260  # LAPACK's own sign convention would give 0 or 400


@pytest.mark.parametrize("shape", [(30, 30), (60, 25), (25, 60)])
@pytest.mark.parametrize("rank", [3, 25])
def test_the_null_has_the_law_of_a_direct_simulation(shape: tuple[int, int], rank: int) -> None:
    m, n = shape
    p, k, draws = min(shape), 5, 250
    generator = np.random.default_rng(1)
    w0 = generator.standard_normal(shape)
    u0, sigma0, v0 = np.linalg.svd(w0, full_matrices=False)
    strengths = np.linspace(9.0, 2.0, rank)
    direct, ours = np.empty((draws, 2, k)), np.empty((draws, 2, k))
    for i in range(draws):
        x, y = haar_frame(m, rank, generator), haar_frame(n, rank, generator)
        update = x * strengths @ y.T
        np.testing.assert_allclose(np.linalg.svd(update, compute_uv=False)[:rank], strengths)
        u, _, v = np.linalg.svd(w0 + update, full_matrices=False)
        direct[i] = np.abs(u0.T @ u[:, :k]).max(axis=0), np.abs(v0 @ v[:k].T).max(axis=0)
        ours[i] = null_similarities(sigma0, strengths, shape, k, np.random.default_rng((5, i)))
    assert p >= k
    # means of 250 draws each: their difference has this standard error; 20 comparisons, so 4 of them
    error = np.sqrt((direct.var(axis=0) + ours.var(axis=0)) / draws)
    assert (np.abs(direct.mean(axis=0) - ours.mean(axis=0)) < 4.2 * error + 1e-9).all()


def test_draws_are_reproducible_and_a_matrix_smaller_than_k_is_padded() -> None:
    first, again = (
        null_similarities(np.array([3.0, 2.0, 1.0]), np.array([1.0]), (3, 8), 5, np.random.default_rng((1, 2)))
        for _ in range(2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.isfinite(first[:, :3]).all() and np.isnan(first[:, 3:]).all()
    assert (first[0, :3] <= 1).all()


def test_a_vanishing_update_leaves_every_vector_in_place() -> None:
    scores = null_similarities(np.arange(9.0, 0.0, -1), np.array([1e-9]), (9, 12), 4, np.random.default_rng(0))
    np.testing.assert_allclose(scores, 1.0, atol=1e-12)


@pytest.mark.parametrize("shape", [(16, 16), (40, 24), (24, 40), (9, 200), (3, 3), (33, 33)])
@pytest.mark.parametrize("rank", [1, 3, 33])
def test_draws_that_are_made_together_are_those_made_alone(shape: tuple[int, int], rank: int) -> None:
    sigma, strengths = np.arange(min(shape), 0.0, -1), np.linspace(2.0, 0.5, min(rank, *shape))
    together = null_draws(sigma, strengths, shape, 5, [np.random.default_rng((1, i)) for i in range(7)])
    for i in range(7):
        alone = null_similarities(sigma, strengths, shape, 5, np.random.default_rng((1, i)))
        np.testing.assert_array_equal(together[i], alone)


def test_no_draws_are_no_scores() -> None:
    assert null_draws(np.array([2.0, 1.0]), np.array([1.0]), (2, 3), 5, []).shape == (0, 2, 5)
