"""From a folder of mixture-of-experts checkpoints and a probe file to the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
import yaml

from flows.cli.app import run
from tests.pipeline.models.families import tiny

pytest.importorskip("transformers", reason="transformers (extra hf) builds the models")


def analyze(*arguments: str | Path) -> int:
    """`varve analyze` in this process: its exit code."""
    return run([str(a) for a in ("analyze", *arguments, "--no-flow", "--workers", "1", "--device", "cpu")])


def save(model: Any, folder: Path) -> None:
    model.save_pretrained(folder)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """runs/moe: three steps of an OLMoE that drifts; runs/dense: a Llama; probe.yml with two domains."""
    root = tmp_path_factory.mktemp("pathways")
    model = tiny("olmoe")
    for step in (0, 10, 20):
        save(model, root / "runs" / "moe" / f"checkpoint-{step}")
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("mlp.gate.weight"):
                    parameter += 0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step))
    save(tiny("llama"), root / "runs" / "dense" / "checkpoint-5")
    draw = np.random.default_rng(0)
    tokens = np.concatenate([draw.integers(3, 20, (12, 8)), draw.integers(30, 50, (12, 8))])
    np.save(root / "tokens.npy", tokens)
    (root / "domains.txt").write_text("\n".join(["low"] * 12 + ["high"] * 12))
    described = {"tokens": "tokens.npy", "columns": {"domain": "domains.txt"}}
    (root / "probe.yml").write_text(yaml.safe_dump(described))
    return root


def test_pathways_of_an_archive_and_the_dense_run_is_listed_with_its_reason(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = (
        "--analyzers",
        "pathway_metrics,weight_spectra",
        "--include",
        "*embed*",
        "--probe",
        archive / "probe.yml",
    )
    code = analyze(archive / "runs", *options, "--out", out)
    tree = xr.open_datatree(out / "report.zarr", engine="zarr")
    node = tree["pathway_metrics"].to_dataset()
    moe = next(run for run in node.run.values if "moe" in run)
    dense = next(run for run in node.run.values if "dense" in run)
    of_moe = node.sel(run=moe, step=[0, 10, 20]).isel(probe=0)
    for name in (
        "pathway_distance",
        "pathway_length",
        "routing_entropy",
        "expert_load",
        "router_saturation",
        "probe_loss",
    ):
        assert np.isfinite(of_moe[name]).all(), name
    assert np.allclose(of_moe.expert_load.sum("expert"), 1)
    assert np.allclose(of_moe.router_saturation.sel(step=20), 1)
    assert (of_moe.router_saturation.sel(step=0) < 1).any()
    ratio = of_moe.grouped_distance_ratio.sel(column="domain")
    assert np.isfinite(ratio).all()
    assert (of_moe.grouped_distance_ratio_low.sel(column="domain") < ratio).all()
    assert np.isfinite(tree["weight_spectra/stable_rank"]).any()  # the other analyzer went on
    assert np.isnan(node.pathway_distance.sel(run=dense)).all()
    assert "is dense, and has no expert pathways" in (out / "report.html").read_text()
    assert code in (0, 3)


def test_another_threshold_runs_no_model(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--analyzers", "pathway_metrics", "--probe", archive / "probe.yml", "--out", tmp_path / "out")
    analyze(archive / "runs" / "moe", *options)
    capsys.readouterr()
    assert analyze(archive / "runs" / "moe", *options, "--set", "pathway_metrics.thresholds=0.7,0.9") == 0
    said = capsys.readouterr().out
    assert "To compute: 3 units (6 units already in the store)" in said, (
        said
    )  # three distances at .9; .7 and the routing are there
    node = xr.open_datatree(tmp_path / "out" / "report.zarr", engine="zarr")["pathway_metrics"]
    assert node.threshold.values.tolist() == [0.7, 0.9]


def test_neuron_pathways_of_a_dense_run(archive: Path, tmp_path: Path) -> None:
    options = ("--analyzers", "pathway_metrics", "--probe", archive / "probe.yml", "--out", tmp_path / "out")
    assert analyze(archive / "runs" / "dense", *options, "--set", "pathway_metrics.kind=neurons") == 0
    node = xr.open_datatree(tmp_path / "out" / "report.zarr", engine="zarr")["pathway_metrics"].to_dataset()
    assert (node.pathway_length == 2 * 8).all()
    assert "varve's own definition" in node.attrs["notes"]


def test_without_a_probe_nothing_is_measured_and_one_note_says_so(archive: Path, tmp_path: Path) -> None:
    options = ("--analyzers", "pathway_metrics,weight_spectra", "--include", "*embed*", "--out", tmp_path / "out")
    assert analyze(archive / "runs" / "dense", *options) == 0
    assert (tmp_path / "out" / "report.html").read_text().count("No probe set was given") == 1


@pytest.mark.parametrize("model", ["no_such_module:make", "json:nothing", "json:__name__"])
def test_a_model_that_is_none_is_said_before_anything_is_read(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str
) -> None:
    options = ("--analyzers", "pathway_metrics", "--probe", archive / "probe.yml", "--out", tmp_path / "out")
    assert analyze(archive / "runs", *options, "--model", model) == 2
    assert f"--model {model}: " in capsys.readouterr().err
    assert not (tmp_path / "out" / "store.zarr").exists()


def test_a_reason_is_said_once_with_what_it_holds_up(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--analyzers", "pathway_metrics", "--probe", archive / "probe.yml", "--out", tmp_path / "out")
    assert analyze(archive / "runs" / "dense", *options) == 3
    said = capsys.readouterr().out
    assert said.count("is dense, and has no expert pathways") == 1
    assert "1 problem:" in said and "therefore also missing: 4 pathway_distances" in said
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("has no routers: it is dense") == 1 and "needs routing" not in page


def raises(config: dict[str, Any]) -> torch.nn.Module:
    """A user's factory with a fault in it."""
    raise KeyError("n_embd")


def test_a_mended_command_leaves_no_failure_of_the_wrong_one_behind(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--analyzers", "pathway_metrics", "--probe", archive / "probe.yml", "--out", tmp_path / "out")
    assert analyze(archive / "runs" / "moe", *options, "--model", f"{__name__}:raises") == 3
    said = capsys.readouterr()
    assert "called with its config, raised KeyError: 'n_embd'" in said.out and "trying again" not in said.err
    assert "therefore also missing: 12 pathway_distances" in said.out
    assert analyze(archive / "runs" / "moe", *options) == 0
    assert "n_embd" not in (tmp_path / "out" / "report.html").read_text()
