"""TwoNN, MLE and GRIDE against scikit-dimension on twenty clouds, and what a participation ratio means."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from analyzers.errors import Unmeasurable
from analyzers.intrinsic_dimension.estimators import gride, levina_bickel, participation_ratio, two_nn
from analyzers.linalg.neighbours import nearest

SCALES = (1, 2, 4, 8, 16, 32)


def clouds() -> Iterator[tuple[str, np.ndarray]]:
    """Twenty data sets: flat and curved, thin and thick, with offsets, heavy tails, noise and near duplicates."""
    rng = np.random.default_rng(0)
    shapes: list[Callable[[], np.ndarray]] = [
        lambda: rng.standard_normal((300, 2)),
        lambda: rng.standard_normal((300, 10)),
        lambda: rng.standard_normal((200, 100)),
        lambda: rng.standard_normal((150, 700)),
        lambda: rng.uniform(size=(400, 3)),
        lambda: rng.uniform(size=(250, 20)) ** 3,
        lambda: rng.standard_normal((300, 4)) @ rng.standard_normal((4, 50)),
        lambda: rng.standard_normal((300, 8)) @ rng.standard_normal((8, 200)) + 100,
        lambda: np.tanh(rng.standard_normal((300, 5)) @ rng.standard_normal((5, 64))),
        lambda: rng.standard_t(2, size=(300, 6)),
        lambda: rng.standard_cauchy(size=(200, 3)),
        lambda: np.cumsum(rng.standard_normal((300, 12)), axis=0),
        lambda: (lambda t: np.c_[t * np.cos(t), rng.uniform(0, 10, 400), t * np.sin(t)])(rng.uniform(4, 14, 400)),
        lambda: (lambda v: v / np.linalg.norm(v, axis=1, keepdims=True))(rng.standard_normal((300, 7))),
        lambda: np.r_[rng.standard_normal((150, 5)), rng.standard_normal((150, 5)) + 1000],
        lambda: rng.standard_normal((300, 3)) * np.array([1e-3, 1, 1e3]),
        lambda: rng.standard_normal((120, 30)) + 100,  # further off the oracle's own |x|² + |y|² − 2xy loses digits
        lambda: np.repeat(rng.standard_normal((100, 9)), 3, axis=0) + 1e-7 * rng.standard_normal((300, 9)),
        lambda: rng.exponential(size=(300, 15)),
        lambda: np.sin(np.outer(rng.uniform(0, 6, 300), np.arange(1, 30))) + 0.01 * rng.standard_normal((300, 29)),
    ]
    for number, make in enumerate(shapes):
        yield f"cloud {number}", make()


@pytest.mark.parametrize(("name", "x"), list(clouds()))
def test_estimates_equal_those_of_the_oracle(name: str, x: np.ndarray) -> None:
    skdim_id = pytest.importorskip(
        "skdim.id", reason="scikit-dimension is the oracle: pip install -e '.[test]' in varve's folder"
    )
    distances = nearest(torch.tensor(x), 64)[0].numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        oracle = skdim_id.GRIDE(multiscale=True, range_max=64).fit(x)
        pairs = [
            (two_nn(distances), skdim_id.TwoNN(method="mle", discard_fraction=0).fit(x).dimension_),
            (levina_bickel(distances[:, :20]), skdim_id.MLE().fit(x, n_neighbors=20).dimension_),
            *zip((gride(distances, s, 2 * s) for s in SCALES), oracle.dimension_scales_, strict=True),
        ]
    np.testing.assert_allclose(*zip(*pairs, strict=True), rtol=1e-6, err_msg=name)


def test_the_participation_ratio_counts_equal_directions() -> None:
    x = torch.cat((torch.eye(6), -torch.eye(6))).double()
    assert participation_ratio(x) == pytest.approx(6)
    assert participation_ratio(torch.nn.functional.pad(x, (0, 50))) == pytest.approx(6)
    assert participation_ratio(7 * x + 3) == pytest.approx(6)


def test_points_without_distances_have_no_dimension() -> None:
    same = np.zeros((10, 4))
    for estimate in (two_nn, levina_bickel):
        with pytest.raises(Unmeasurable):
            estimate(same)
    with pytest.raises(Unmeasurable, match="all points are the same"):
        participation_ratio(torch.ones(10, 3))
