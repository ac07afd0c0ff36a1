"""Sketches give distances, and finiteness is told for every dtype."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from pipeline.store import sketches
from pipeline.store.outliers import outliers
from pipeline.store.sketches import Sketch, all_finite, distance, numbers_of
from tests.benchmarks import outliers as benchmark

FLOATS = ("float16", "float32", "float64", "bfloat16", "float8_e4m3fn", "float8_e5m2", "complex64")


def sketch(tensors: dict[str, np.ndarray], blocks: int = 1) -> np.ndarray:
    made = Sketch()
    for name, values in tensors.items():
        made.add(name, values.size, np.array_split(values, blocks))
    return numbers_of(made.text())


def test_the_distance_of_two_sketches_is_that_of_the_weights() -> None:
    rng = np.random.default_rng(0)
    one = {"a": rng.standard_normal((300, 70)), "b": rng.standard_normal(4000)}
    for other in (
        {name: values + 0.01 * rng.standard_normal(values.shape) for name, values in one.items()},
        {"a": one["a"] + 3.0 * (np.arange(70) == 5), "b": one["b"]},  # one column
        {"a": -one["a"], "b": one["b"]},
    ):
        exact = np.sqrt(sum(((one[name] - other[name]) ** 2).sum() for name in one))
        assert distance(sketch(one), sketch(other)) == pytest.approx(exact, rel=0.25)
    assert distance(sketch(one), sketch(one, blocks=7)) < 1e-9


def test_a_large_tensor_is_sampled_and_gives_the_same_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sketches, "SAMPLED", 2**17)
    rng = np.random.default_rng(1)
    one, other = rng.standard_normal((1000, 300)), rng.standard_normal((1000, 300))
    assert distance(sketch({"a": one}), sketch({"a": other})) == pytest.approx(np.linalg.norm(one - other), rel=0.25)
    assert np.allclose(sketch({"a": one}), sketch({"a": one}, blocks=9), rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_value_that_is_not_finite_is_seen_in_every_dtype(dtype: str) -> None:
    kind = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    values = np.linspace(-3, 3, 40).astype(kind)
    assert all_finite(values) and all_finite(values[:0])
    for odd in (np.nan, np.inf, -np.inf):
        bad = values.copy()
        bad[17] = np.array([odd]).astype(kind)[0]
        assert not all_finite(bad)
    assert all_finite(np.arange(5)) and all_finite(np.array([True]))


def test_no_step_of_a_random_walk_or_of_training_is_an_outlier_and_a_wrong_one_is() -> None:
    for kind in (benchmark.walk, benchmark.around_a_point):
        for grid in (benchmark.even, benchmark.log_spaced):
            false, right = benchmark.rates(kind, 100, grid, 12, 40)
            assert false == 0 and right >= 0.95
    assert benchmark.rates(benchmark.training, 200, benchmark.log_spaced, 12, 3) == (0, 1)


def test_a_run_whose_every_second_checkpoint_is_an_average_has_no_outlier() -> None:
    rng = np.random.default_rng(2)
    path = np.cumsum(0.1 * rng.standard_normal((20, 50)), axis=0)
    path[1::2] += 5
    assert benchmark.flagged(path) == []
    assert outliers(3, lambda a, b: 1.0 if abs(a - b) == 1 else 0.01) == ()
