"""Runs of one architecture in a joint basis, from files to the report: what is grouped, grown, drawn and kept apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from safetensors.numpy import save_file

import pipeline
from analyzers.intrinsic_dimension import IntrinsicDimension, joint
from pipeline.compute.plan import plan
from pipeline.report.blocks import Gallery, PageTable
from pipeline.report.look import Look
from pipeline.report.path_figures import path_blocks
from pipeline.store import Store

STEPS = (0, 10, 20, 30)


def write(root: Path, run: str, steps: tuple[int, ...], side: int = 12) -> None:
    """Checkpoints of a run that drifts from a start that all runs of this side share."""
    start = np.random.default_rng(side).standard_normal((side, 8)).astype(np.float32)
    drift = np.random.default_rng(list(run.encode())).standard_normal((len(STEPS), side, 8)).astype(np.float32)
    for step in steps:
        moved = start + 0.1 * drift[: STEPS.index(step)].sum(axis=0)
        folder = root / run / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        tensors = {"up.weight": moved, "norm.weight": np.ones(side, np.float32) + step}
        save_file(tensors, folder / "model.safetensors")


def planned(store: Store) -> list[tuple[tuple[str, int], ...]]:
    """The checkpoints of each unit of the joint basis that is missing."""
    jobs = plan(store, [IntrinsicDimension()]).jobs
    return [tuple((m.run, m.step) for m in job.members) for job in jobs if job.statistic.name == "joint_trajectory"]


def report(root: Path, folder: Path) -> tuple[Store, xr.Dataset]:
    store = pipeline.ingest(root, folder / "S.zarr", name="nets")
    pipeline.compute(store, ["intrinsic_dimension"], workers=1)
    return store, pipeline.assemble(store, ["intrinsic_dimension"])["intrinsic_dimension"].to_dataset()


def flat(root: Path, run: str, steps: tuple[int, ...], side: int = 12) -> np.ndarray:
    from safetensors.numpy import load_file

    every = [load_file(root / run / f"checkpoint-{step}" / "model.safetensors") for step in steps]
    return np.stack([np.concatenate([t.ravel().astype(float) for t in one.values()]) for one in every])


def test_runs_of_one_architecture_share_a_basis_which_is_the_pca_of_all_their_weights(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    write(root, "a", STEPS)
    write(root, "b", STEPS[:3])
    write(root, "other", STEPS[:2], side=10)
    store, node = report(root, tmp_path)
    assert planned(store) == []
    assert node["joint_plane"].sel(run=["nets/a", "nets/b"]).values.tolist() == [1, 1]
    assert np.isnan(node["joint_plane"].sel(run="nets/other"))
    weights = np.concatenate([flat(root, "a", STEPS), flat(root, "b", STEPS[:3])])
    u, s, _ = np.linalg.svd(weights - weights.mean(axis=0), full_matrices=False)
    ours = np.concatenate(
        [
            node["joint_path"].sel(run="nets/a").values[:, :2],
            node["joint_path"].sel(run="nets/b", step=list(STEPS[:3])).values[:, :2],
        ]
    )
    theirs = u[:, :2] * s[:2]
    np.testing.assert_allclose(ours, theirs * np.sign((ours * theirs).sum(axis=0)), atol=1e-9 * s[0])
    explained = node["joint_explained_variance"].sel(run="nets/b").values[:6]
    np.testing.assert_allclose(explained, s[:6] ** 2 / (s**2).sum(), atol=1e-12)
    own = node["explained_variance"].sel(run="nets/a").isel(group=0).values[:2].sum()
    assert 0 < float(node["joint_share_of_path"].sel(run="nets/a")[:2].sum()) <= own + 1e-12


def test_new_checkpoints_and_a_new_run_extend_the_stored_basis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "runs"
    known: list[int] = []
    original = joint._known

    def noted(*arguments: object) -> dict[int, int]:
        pairs = original(*arguments)  # type: ignore[arg-type]  # passes on what it gets
        known.append(len(pairs))
        return pairs

    monkeypatch.setattr(joint, "_known", noted)
    for run in "ab":
        write(root, run, STEPS[:2])
    report(root, tmp_path)
    write(root, "a", STEPS[2:])
    write(root, "b", STEPS[2:3])
    report(root, tmp_path)
    write(root, "c", STEPS[:2])
    _, node = report(root, tmp_path)
    assert known == [0, 4, 8]  # c starts where a does, which is a checkpoint that is known
    (tmp_path / "fresh").mkdir()
    fresh = report(root, tmp_path / "fresh")[1]
    np.testing.assert_allclose(node["joint_path"], fresh["joint_path"], atol=1e-9)


def test_a_lone_run_has_no_joint_basis(tmp_path: Path) -> None:
    write(tmp_path / "runs", "a", STEPS)
    store = pipeline.ingest(tmp_path / "runs", tmp_path / "S.zarr", name="nets")
    assert planned(store) == []


def test_what_reading_the_weights_again_costs_is_in_the_plan(tmp_path: Path) -> None:
    for run in "ab":
        write(tmp_path / "runs", run, STEPS)
    store = pipeline.ingest(tmp_path / "runs", tmp_path / "S.zarr", name="nets")
    (group,) = (g for g in plan(store, [IntrinsicDimension()]).groups if g.statistic.name == "joint_trajectory")
    scanned = sum(work.operations for work in group.work if work.kind == "scan")
    assert scanned == 4 * 2 * len(STEPS) * (12 * 8 + 12)


@pytest.mark.parametrize(("held", "titles"), [(0.9, 1), (0.3, 2)])
def test_a_run_of_which_the_joint_plane_holds_little_is_drawn_in_its_own_too(held: float, titles: int) -> None:
    path = np.arange(3.0)[None, :, None] * np.ones((2, 1, 3))
    along = ("run", "step", "group")
    node = xr.Dataset(
        {
            "path": ((*along, "axis"), path[:, :, None]),
            "distance_from_start": (along, path[..., :1]),
            "relative_distance": (along, path[..., :1]),
            "explained_variance": (("run", "group", "component"), np.full((2, 1, 2), 0.5)),
            "explained_variance_null": (("run", "group", "component"), np.full((2, 1, 2), 0.5)),
            "path_dimension": (("run", "group"), np.ones((2, 1))),
            "path_dimension_null": (("run", "group"), np.ones((2, 1))),
            "joint_plane": ("run", np.ones(2)),
            "joint_path": (("run", "step", "axis"), path),
            "joint_explained_variance": (("run", "component"), np.full((2, 2), 0.4)),
            "joint_share_of_path": (("run", "axis"), np.full((2, 3), held / 2)),
        },
        {"run": ["a", "b"], "step": [0, 1, 2]},
    )
    look = Look.of(xr.DataTree.from_dict({"/": xr.Dataset()}), ("a", "b"), np.array([0, 1, 2]))
    gallery, table = path_blocks(node, look)
    assert isinstance(gallery, Gallery)
    assert [image.title.startswith("Paths") for image in gallery.images].count(True) == titles
    assert isinstance(table, PageTable)
    assert table.rows[0][table.columns.index("in the joint plane")] == f"{held:g}"
