"""The path of a run: the streamed Gram against plain linear algebra, growth, and the random walk beside it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from analyzers.contract import Context, Observation, Result, Unit
from analyzers.errors import Unmeasurable
from analyzers.intrinsic_dimension import trajectory
from analyzers.intrinsic_dimension.path import path_of, random_walk, shares
from analyzers.intrinsic_dimension.trajectory import Trajectory, by_name
from analyzers.models import WholeCheckpoint
from tests.analyzers.intrinsic_dimension.trials import checkpoint

STEPS = (0, 1, 2, 4, 8, 16)


def states(count: int = 6) -> list[dict[str, torch.Tensor]]:
    """A path of tiny moves far from the origin, which a Gram of w itself would not resolve; one parameter is frozen."""
    draw = torch.Generator().manual_seed(0)
    start = {
        "embed.weight": torch.randn(30, 8, generator=draw) + 100,
        "layers.0.up.weight": torch.randn(20, 8, generator=draw),
        "layers.1.up.weight": torch.randn(20, 8, generator=draw),
        "norm.bias": torch.randn(8, generator=draw),
    }
    path = [start]
    for _ in range(count - 1):
        moved = {n: t + 1e-4 * torch.randn(t.shape, generator=draw) for n, t in path[-1].items()}
        path.append(moved | {"norm.bias": start["norm.bias"]})
    return path


def observed(path: list[dict[str, torch.Tensor]], steps: tuple[int, ...] = STEPS) -> Unit:
    made = [checkpoint(state, step) for state, step in zip(path, steps, strict=False)]
    return Unit(tuple(Observation("run", one.step, None, None, checkpoint=one) for one in made))


def measured(unit: Unit) -> Result:
    return Trajectory().compute(unit, Context())


def oracle(path: list[dict[str, torch.Tensor]], names: tuple[str, ...]) -> np.ndarray:
    flat = torch.stack([torch.cat([state[n].flatten().double() for n in names]) for state in path])
    moves = flat - flat[0]
    return (moves @ moves.T).numpy()


def test_the_gram_of_each_group_is_that_of_the_flattened_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trajectory, "BLOCK_BYTES", 6 * 8 * 37)  # many blocks, the last one short
    path = states()
    result = measured(observed(path))
    grams = by_name(result)
    assert list(grams) == ["all", "embed", "layers.0", "layers.1", "norm"]
    # float64 sums of float32 differences: the order of summation is all that differs
    np.testing.assert_allclose(grams["all"], oracle(path, tuple(path[0])), rtol=1e-10, atol=1e-18)
    np.testing.assert_allclose(grams["layers.1"], oracle(path, ("layers.1.up.weight",)), rtol=1e-10, atol=1e-18)
    assert int(result["frozen"]) == 8 and int(result["left_out"]) == 0
    assert not grams["norm"].any()


def test_a_path_that_grew_is_the_path_measured_at_once() -> None:
    path = states()
    before = measured(observed(path[:4]))
    read: list[tuple[int, str]] = []

    def counted(one: WholeCheckpoint) -> WholeCheckpoint:
        return replace(one, read=lambda name: (read.append((one.step, name)), one.read(name))[1])

    unit = observed(path)
    noted = tuple(replace(o, checkpoint=counted(o.checkpoint)) for o in unit.observations if o.checkpoint)
    grown = measured(replace(unit, observations=noted, previous=before, previous_count=4))
    np.testing.assert_allclose(grown["gram"], measured(unit)["gram"], rtol=1e-12, atol=1e-20)
    assert (8, "norm.bias") not in read


def test_a_path_that_returns_to_an_earlier_value_grows_rightly() -> None:
    path = states()
    path[4] = path[4] | {"layers.0.up.weight": path[2]["layers.0.up.weight"]}
    path[5] = path[5] | {"layers.1.up.weight": path[0]["layers.1.up.weight"]}
    before, unit = measured(observed(path[:4])), observed(path)
    grown = measured(replace(unit, previous=before, previous_count=4))
    np.testing.assert_allclose(by_name(grown)["all"], oracle(path, tuple(path[0])), rtol=1e-10, atol=1e-18)


def test_only_blocks_of_rows_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trajectory, "BLOCK_BYTES", 6 * 8 * 37)
    path = states()
    sizes: list[int] = []

    def by_rows(one: WholeCheckpoint) -> WholeCheckpoint:
        def rows(name: str, start: int, stop: int) -> torch.Tensor:
            found = one.read(name)[start:stop]
            sizes.append(found.numel())
            return found

        def whole(name: str) -> torch.Tensor:
            raise AssertionError(f"{name} was read whole")

        return replace(one, read=whole, read_rows=rows)

    unit = observed(path)
    cut = tuple(replace(o, checkpoint=by_rows(o.checkpoint)) for o in unit.observations if o.checkpoint)
    result = measured(replace(unit, observations=cut))
    np.testing.assert_allclose(by_name(result)["all"], oracle(path, tuple(path[0])), rtol=1e-10, atol=1e-18)
    assert max(sizes) <= 37


def test_parameters_that_are_not_at_every_step_are_counted_and_left_out() -> None:
    path = states(3)
    path[2] = {n: t for n, t in path[2].items() if n != "embed.weight"}
    path[1] = path[1] | {"head.weight": torch.ones(3)}
    result = measured(observed(path))
    assert int(result["left_out"]) == 2
    np.testing.assert_allclose(by_name(result)["all"], oracle(path, ("layers.0.up.weight", "layers.1.up.weight")))


def test_a_lone_checkpoint_does_not_move_and_nan_is_named() -> None:
    assert measured(observed(states(1)))["gram"].tolist() == [[[0.0]]] * 5
    path = states(3)
    path[2]["embed.weight"] = torch.full((30, 8), torch.nan)
    with pytest.raises(Unmeasurable, match=r"embed.weight: holds NaN or infinite entries at step 2"):
        measured(observed(path))


def test_the_null_is_the_covariance_of_a_random_walk() -> None:
    """Against simulated walks, and the known shares of the first component: .61 even spacing, .70 log2 spacing."""
    steps = np.array(STEPS)
    draw = np.random.default_rng(0)
    moves = draw.standard_normal((len(steps) - 1, 40_000)) * np.sqrt(np.diff(steps))[:, None]
    walk = np.concatenate((np.zeros((1, 40_000)), np.cumsum(moves, axis=0)))
    centred = walk - walk.mean(axis=0)
    # 40 000 dimensions: eigenvalue shares are within 1 %
    np.testing.assert_allclose(shares(random_walk(steps)), shares(centred @ centred.T), atol=0.01)
    assert shares(random_walk(np.arange(2000)))[0] == pytest.approx(6 / np.pi**2, abs=2e-3)
    assert shares(random_walk(2.0 ** np.arange(12)))[0] == pytest.approx(0.70, abs=0.02)


def test_components_distances_and_cosines_of_a_known_path() -> None:
    points = np.array([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0], [3.0, 1.0]])
    path = path_of(points @ points.T, np.arange(4))
    assert path.distance.tolist() == pytest.approx([0, 1, 3, np.sqrt(10)])
    assert np.isnan(path.cosine[:2]).all() and path.cosine[2:].tolist() == pytest.approx([1, 0], abs=1e-12)
    between = np.linalg.norm(path.components[:, None] - path.components[None], axis=-1)
    np.testing.assert_allclose(between, np.linalg.norm(points[:, None] - points[None], axis=-1), atol=1e-7)
    assert path.explained.sum() == pytest.approx(1) and 1 < path.effective < 2
