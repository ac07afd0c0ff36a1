"""Copies, parameters that never move, NaN and outliers among checkpoints are warned of, and the exit code stays 0."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import save_file

from pipeline.analysis.intake import ingest_one, plan_intake
from pipeline.archive.scan import scan
from pipeline.store import Store
from pipeline.store.content_findings import content_findings
from tests.end_to_end.archives import varve

Weights = dict[str, torch.Tensor]
SHAPES = {"embed.weight": (48, 32), "layers.0.fc.weight": (32, 32), "layers.0.norm.weight": (32,), "head.bias": (48,)}


def moving(count: int, seed: int = 0, step: float = 0.05) -> list[Weights]:
    """A random walk through the weights of a small model."""
    generator = torch.Generator().manual_seed(seed)
    weights = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    path = [weights]
    for _ in range(count - 1):
        weights = {name: v + step * torch.randn(v.shape, generator=generator) for name, v in weights.items()}
        path.append(weights)
    return path


def write(folder: Path, path: list[Weights]) -> Path:
    for at, weights in enumerate(path):
        (folder / f"step{100 * at}").mkdir(parents=True)
        save_file({name: v.contiguous() for name, v in weights.items()}, folder / f"step{100 * at}/model.safetensors")
    return folder


def codes(root: Path, tmp_path: Path) -> dict[str, list[str]]:
    """The findings of a folder of runs, by code."""
    store = Store.create(tmp_path / "S.zarr")
    intake = plan_intake(store, scan(root))
    for checkpoint in intake.items:
        ingest_one(store, intake, checkpoint)
    runs = store.runs()
    by_code: dict[str, list[str]] = {}
    for finding in content_findings(store, runs, {run.id: store.checkpoints(run.id) for run in runs}):
        by_code.setdefault(finding.code, []).append(str(finding))
    return by_code


def test_ordinary_runs_give_no_finding(tmp_path: Path) -> None:
    for seed in range(2):
        write(tmp_path / f"runs/{seed}", moving(6, seed))
    assert codes(tmp_path / "runs", tmp_path) == {}


def test_copied_steps_a_shard_and_a_wrong_base_stand_on_the_terminal_and_on_the_page(tmp_path: Path) -> None:
    path = moving(6)
    path[0] = path[2] = path[5]
    path[3] = {**path[3], "embed.weight": path[5]["embed.weight"]}
    write(tmp_path / "x", path)
    done = varve("analyze", tmp_path / "x", "--out", tmp_path / "out", "--no-flow", "--analyzers", "weight_spectra")
    assert done.returncode == 0, done.stdout + done.stderr
    page = re.sub(r"<[^>]+>", " ", (tmp_path / "out/report.html").read_text(encoding="utf-8"))
    for words in (
        "x is compared with its first step, 0, which holds the same weights as steps 200 and 500, the last",
        "At step 300 of x, 1 of 4 parameters (embed.weight) is bit-equal to those of steps 0, 200 and 500",
        "Steps 0, 200 and 500 of x hold the same weights",
    ):
        assert words in done.stdout
        assert words in page
        assert page.index(words) < page.index("1 run with 6 checkpoints")
    table = xr.open_datatree(tmp_path / "out/report.zarr", engine="zarr")["archive/contents"].to_dataset()
    assert list(table["code"].values) == ["base_is_a_later_step", "copied_tensors", "equal_steps"]
    assert table["steps"].values[2] == "0, 200, 500"


def test_gains_that_bfloat16_froze_are_named(tmp_path: Path) -> None:
    path = [{name: v.to(torch.bfloat16) for name, v in weights.items()} for weights in moving(5)]
    for weights in path:
        weights["layers.0.norm.weight"] = torch.ones(32, dtype=torch.bfloat16)
    found = codes(write(tmp_path / "x", path), tmp_path)
    assert list(found) == ["never_changed"]
    assert "layers.0.norm.weight" in found["never_changed"][0] and "bfloat16" in found["never_changed"][0]


@pytest.mark.parametrize(("steps", "words"), [((3, 4, 5), "from step 300 on"), ((2,), "at step 200")])
def test_nan_in_a_vector_is_told_with_the_steps(tmp_path: Path, steps: tuple[int, ...], words: str) -> None:
    path = moving(6)
    for step in steps:
        path[step]["head.bias"] = torch.full((48,), np.inf)
    found = codes(write(tmp_path / "x", path), tmp_path)
    assert found["not_finite"] == [f"head.bias of x holds NaN or infinity {words}."]


def test_a_checkpoint_of_another_model_in_the_middle_is_an_outlier(tmp_path: Path) -> None:
    path = moving(7)
    path[4] = moving(1, seed=9)[0]
    found = codes(write(tmp_path / "x", path), tmp_path)
    assert list(found) == ["outlier"] and found["outlier"][0].startswith("Step 400 of x stands apart")


def test_runs_of_one_seed_are_told(tmp_path: Path) -> None:
    one, other = moving(5), moving(5)
    for step in (3, 4):
        other[step] = {**other[step], "head.bias": other[step]["head.bias"] + step}
    write(tmp_path / "runs/one", one)
    write(tmp_path / "runs/other", other)
    found = codes(tmp_path / "runs", tmp_path)
    assert list(found) == ["identical_until"]
    assert "part at step 300, where 1 of 4 parameters differ: head.bias" in found["identical_until"][0]
