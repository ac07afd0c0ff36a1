"""Several runs in one basis, against a float64 PCA of their flattened weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from analyzers.contract import Context, Observation, Unit
from analyzers.intrinsic_dimension.joint import JointTrajectory
from analyzers.intrinsic_dimension.path import joint_of
from analyzers.models import WholeCheckpoint
from tests.analyzers.intrinsic_dimension.trials import checkpoint

State = dict[str, torch.Tensor]


def paths(counts: tuple[int, ...] = (5, 4)) -> list[list[State]]:
    """Runs from one start, far from the origin, that drift in directions of their own."""
    draw = torch.Generator().manual_seed(0)
    start = {"up.weight": torch.randn(20, 8, generator=draw) + 10, "norm.bias": torch.randn(8, generator=draw)}
    runs = []
    for count in counts:
        drift = {name: torch.randn(t.shape, generator=draw) for name, t in start.items()}
        runs.append(
            [
                {n: t + 1e-3 * (at * drift[n] + torch.randn(t.shape, generator=draw)) for n, t in start.items()}
                for at in range(count)
            ]
        )
    return runs


def observed(runs: list[list[State]], which: tuple[int, ...] = (0, 1, 2)) -> Unit:
    made: list[Observation] = []
    for name, path in zip(which, runs, strict=False):
        for step, state in enumerate(path):
            one = checkpoint(state, step, f"run{name}")
            made.append(Observation(f"run{name}", step, None, None, checkpoint=one))
    return Unit(tuple(made))


def test_coordinates_and_shares_are_those_of_a_pca_of_the_flattened_weights() -> None:
    runs = paths()
    result = JointTrajectory().compute(observed(runs), Context())
    joint = joint_of(result["gram"], result["run_index"], 3)
    flat = torch.stack([torch.cat([t.flatten().double() for t in s.values()]) for path in runs for s in path]).numpy()
    centred = flat - flat.mean(axis=0)
    u, s, vt = np.linalg.svd(centred, full_matrices=False)
    ours, theirs = joint.components, u[:, :3] * s[:3]
    np.testing.assert_allclose(ours, theirs * np.sign((ours * theirs).sum(axis=0)), atol=1e-9 * s[0])
    np.testing.assert_allclose(joint.explained, (s**2 / (s**2).sum())[: len(flat) - 1], atol=1e-12)
    for run, rows in enumerate((slice(0, 5), slice(5, 9))):
        own = flat[rows] - flat[rows].mean(axis=0)
        np.testing.assert_allclose(joint.shares[run], ((own @ vt[:3].T) ** 2).sum(axis=0) / (own**2).sum(), rtol=1e-8)
    assert result["run_index"].tolist() == [0] * 5 + [1] * 4 and int(result["size"]) == 168


def test_pairs_of_checkpoints_that_are_known_are_not_read_again() -> None:
    runs = paths((4, 4, 3))
    whole = observed(runs)
    expected = JointTrajectory().compute(whole, Context())
    for part in ([path[:3] for path in runs], runs[:2], [runs[0], runs[1][:2], runs[2]]):
        before = JointTrajectory().compute(observed(part), Context())
        grown = JointTrajectory().compute(replace(whole, previous=before), Context())
        np.testing.assert_allclose(grown["gram"], expected["gram"], rtol=1e-12, atol=1e-18)
    read: set[tuple[str, int]] = set()

    def counted(one: WholeCheckpoint) -> WholeCheckpoint:
        return replace(one, read=lambda name: (read.add((one.run, one.step)), one.read(name))[1])

    noted = tuple(replace(o, checkpoint=counted(o.checkpoint)) for o in whole.observations if o.checkpoint)
    again = JointTrajectory().compute(replace(whole, observations=noted, previous=expected), Context())
    np.testing.assert_array_equal(again["gram"], expected["gram"])
    assert read == {("run0", 0)}  # the origin, for its norm


def test_an_earlier_result_about_another_origin_is_not_used() -> None:
    runs = paths((3, 3))
    before = JointTrajectory().compute(observed(runs[::-1], (1, 0)), Context())
    after = JointTrajectory().compute(replace(observed(runs), previous=before), Context())
    np.testing.assert_array_equal(after["gram"], JointTrajectory().compute(observed(runs), Context())["gram"])


def test_runs_that_share_no_parameter_have_an_empty_basis() -> None:
    one, other = paths((2, 2))
    renamed = [{f"other.{name}": tensor for name, tensor in state.items()} for state in other]
    result = JointTrajectory().compute(observed([one, renamed]), Context())
    assert int(result["size"]) == 0 and int(result["left_out"]) == 4
