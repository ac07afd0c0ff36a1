"""Intrinsic dimension from the command line to the page: a net trained on digits, searched, interrupted, resumed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from safetensors.torch import save_file

import pipeline
from analyzers.contract import Context, Result, Unit
from analyzers.intrinsic_dimension.landscape import Landscape
from flows.cli.app import run
from pipeline.analysis.resolve import analyzers_of
from pipeline.models.tasks import read_task

TASK = {
    "name": "short-digits",
    "kind": "classification",
    "data": "digits",
    "scale": 16,
    "model": "mlp",
    "reference_score": 1.0,
    "training": {"steps": 60, "batch_size": 64, "lr": 0.03, "evaluations": 2},
}
QUICK = ("intrinsic_dimension.seeds=3", "intrinsic_dimension.resolution=3")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """runs/net: a 64-16-10 net at three steps of its training, and task.yaml beside it."""
    root = tmp_path_factory.mktemp("intrinsic")
    data = read_task("digits")[2].data("train")
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(64, 16), torch.nn.ReLU(), torch.nn.Linear(16, 10))
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for step in range(41):
        if step in (0, 10, 40):
            folder = root / "runs" / "net" / f"checkpoint-{step}"
            folder.mkdir(parents=True)
            save_file(net.state_dict(), folder / "model.safetensors")
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(data.inputs[0]), data.targets).backward()
        optimizer.step()
    (root / "task.yaml").write_text(yaml.safe_dump(TASK))
    return root


def analyze(archive: Path, out: Path, *more: str) -> int:
    settings = [part for one in QUICK for part in ("--set", one)]
    arguments = ["analyze", str(archive / "runs"), "--out", str(out), "--analyzers", "intrinsic_dimension", *settings]
    return run([*arguments, "--no-flow", "--workers", "1", "--device", "cpu", *more])


def test_from_the_command_line_to_the_page(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert analyze(archive, tmp_path, "--task", str(archive / "task.yaml")) == 0
    node = xr.open_datatree(tmp_path / "report.zarr", engine="zarr")["intrinsic_dimension"].to_dataset()
    d_int = node["d_int"].sel(threshold="local", level=0.9).isel(run=0, task=0, method=0)
    assert d_int.sel(step=0) > 5 and node["n_trained"].isel(run=0, step=0).item() == 64 * 16 + 16 + 160 + 10
    assert ((node["d_int_low"] <= node["d_int_high"]) | node["d_int"].isnull()).all()
    assert node["baseline_score"].min() > 0.8
    assert node["two_nn"].notnull().all() and node["distance_from_start"].isel(group=0).notnull().all()
    page = (tmp_path / "report.html").read_text()
    assert "Intrinsic dimension over steps: short-digits" in page and "Paths through weight space" in page
    assert "local: level × this checkpoint" in page

    def no_training(self: Landscape, units: Sequence[Unit], contexts: Sequence[Context]) -> list[Any]:
        raise AssertionError(f"trained again: {[unit.trial for unit in units]}")

    monkeypatch.setattr(Landscape, "compute_batch", no_training)
    assert analyze(archive, tmp_path, "--task", str(archive / "task.yaml")) == 0
    again = xr.open_datatree(tmp_path / "report.zarr", engine="zarr")["intrinsic_dimension"].to_dataset()
    np.testing.assert_array_equal(again["d_int"].values, node["d_int"].values)


def test_without_a_task_only_the_path_is_measured(archive: Path, tmp_path: Path) -> None:
    assert analyze(archive, tmp_path) == 0
    node = xr.open_datatree(tmp_path / "report.zarr", engine="zarr")["intrinsic_dimension"].to_dataset()
    assert "d_int" not in node and "No task was given" in node.attrs["notes"]
    assert float(node["explained_variance"].isel(run=0, group=0, component=0)) > 0.5


def test_a_search_that_is_interrupted_trains_no_trial_twice(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"intrinsic_dimension": {"seeds": 2, "resolution": 4.0, "trajectory": False, "representation": False}}
    chosen = analyzers_of(["intrinsic_dimension"], settings, tasks=[str(archive / "task.yaml")])
    store = pipeline.ingest(archive / "runs", tmp_path / "S.zarr")
    trained: list[str] = []
    kept = Landscape.compute_batch

    def counting(self: Landscape, units: Sequence[Unit], contexts: Sequence[Context]) -> list[Result | Exception]:
        if interrupt and len(trained) > 20:
            raise KeyboardInterrupt
        trained.extend(f"{unit.only.step} {sorted((unit.trial or {}).items())}" for unit in units)
        return kept(self, units, contexts)

    monkeypatch.setattr(Landscape, "compute_batch", counting)
    interrupt = True
    with pytest.raises(KeyboardInterrupt):
        pipeline.compute(store, chosen, workers=1)
    before = len(trained)
    interrupt = False
    summary = pipeline.compute(store, chosen, workers=1)
    assert before > 0 and summary.complete and summary.present > 0
    assert len(trained) == len(set(trained)), "a trial was trained twice"


@pytest.mark.parametrize(
    ("task", "wrong"),
    [("nowhere.yaml", "nowhere.yaml"), ("no_such_module:task", "no_such_module")],
)
def test_a_wrong_task_ends_before_any_work(
    archive: Path, tmp_path: Path, task: str, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert analyze(archive, tmp_path / "out", "--task", task) == 2
    assert wrong in capsys.readouterr().err + capsys.readouterr().out or not (tmp_path / "out" / "report.zarr").exists()
