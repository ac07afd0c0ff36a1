"""`varve analyze`: what is new is computed, what is known is not, and wrong words fail at once."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from safetensors.numpy import load_file, save_file

from flows.cli.app import run
from pipeline.analysis.lock import writing
from pipeline.report.contents import Contents
from pipeline.report.left_out import not_analysed
from tests.flows.cli.conftest import Analysed


def open_report(analysed: Analysed) -> xr.DataTree:
    return xr.open_datatree(analysed.out / "report.zarr", engine="zarr")


def units(said: str) -> tuple[int, int]:
    """(to compute, all) as the plan's line says."""
    match = re.search(r"To compute: ([\d,]+) units?(?: \(([\d,]+) units? already in the store\))?;", said)
    assert match, said
    missing, present = (int((count or "0").replace(",", "")) for count in match.groups())
    return missing, missing + present


def test_a_second_run_computes_nothing_and_says_so(analysed: Analysed, capsys: pytest.CaptureFixture[str]) -> None:
    before = open_report(analysed)["weight_spectra"].to_dataset().load()
    assert analysed.again() == 0
    said = capsys.readouterr().out
    assert "Nothing to compute: the store" in said and "Nothing to read: the store already holds 4 checkpoints" in said
    xr.testing.assert_identical(before, open_report(analysed)["weight_spectra"].to_dataset().load())


def test_the_last_lines_tell_where_the_report_is(analysed: Analysed, capsys: pytest.CaptureFixture[str]) -> None:
    assert analysed.again("--analyzers", "weight_spectra") == 0
    said = capsys.readouterr().out
    assert str(analysed.out / "report.html") in said and str(analysed.out / "report.zarr") in said


def test_a_new_checkpoint_costs_its_own_work_only(analysed: Analysed, capsys: pytest.CaptureFixture[str]) -> None:
    newest = analysed.archive / "full/checkpoint-30"
    newest.mkdir()
    tensors = load_file(analysed.archive / "full/checkpoint-20/model.safetensors")
    changed = "layers.0.mlp.up_proj.weight"
    tensors[changed] = tensors[changed] + np.float32(0.01)
    save_file(tensors, newest / "model.safetensors")

    assert analysed.again("--analyzers", "weight_spectra") == 0
    said = capsys.readouterr().out
    assert "To read: 1 checkpoint" in said and "3 unchanged" not in said.replace("4 unchanged", "")
    new, all_of_them = units(said)
    assert 0 < new <= all_of_them / 4  # one matrix changed; the other three are bit-equal to step 20's
    steps = open_report(analysed)["weight_spectra"]["spectral_norm"].sel(run="runs/full").dropna("step", how="all").step
    assert steps.values.tolist() == [0, 10, 20, 30]


def test_a_new_setting_of_a_derivation_computes_nothing(analysed: Analysed, capsys: pytest.CaptureFixture[str]) -> None:
    assert analysed.again("--set", "intruder_dimensions.epsilons=[0.4,0.6]") == 0
    assert "Nothing to compute: the store" in capsys.readouterr().out
    tree = open_report(analysed)
    assert tree["intruder_dimensions"].epsilon.values.tolist() == [0.4, 0.6]
    assert json.loads(tree.attrs["options"])["settings"] == {"intruder_dimensions": {"epsilons": [0.4, 0.6]}}


def test_a_deleted_checkpoint_stays_in_the_report(analysed: Analysed, capsys: pytest.CaptureFixture[str]) -> None:
    (analysed.archive / "full/checkpoint-10/model.safetensors").unlink()
    assert analysed.again("--analyzers", "weight_spectra") == 0
    assert "runs/full@10 is no longer in the archive" in capsys.readouterr().out
    assert 10 in open_report(analysed)["weight_spectra"].step.values


def test_a_deleted_run_stays_in_the_report(analysed: Analysed, capsys: pytest.CaptureFixture[str]) -> None:
    before = set(open_report(analysed)["weight_spectra"].run.values.tolist())
    shutil.rmtree(analysed.archive / "lora")
    assert analysed.again("--analyzers", "weight_spectra") == 0
    assert "runs/lora@10 is no longer in the archive" in capsys.readouterr().out
    assert set(open_report(analysed)["weight_spectra"].run.values.tolist()) == before
    assert analysed.again("--analyzers", "weight_spectra") == 0
    assert "no longer" not in capsys.readouterr().out, "said once"


def test_what_was_left_on_purpose_is_said_in_the_report(analysed: Analysed) -> None:
    (analysed.archive / "full/checkpoint-10/optimizer.pt").write_bytes(b"Adam's moments")
    assert analysed.again("--analyzers", "weight_spectra") == 0
    tree = open_report(analysed)
    assert any("optimizer.pt" in str(note) for note in tree["archive/notes"].to_dataset()["note"].values)
    assert "archive/problems" not in [path.strip("/") for path in tree.groups]
    section = not_analysed(tree, Contents.of(tree))
    assert "optimizer.pt" in repr(section)


def test_the_alias_does_the_same(analysed: Analysed, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["analyse", str(analysed.archive), "--out", str(analysed.out), "--no-flow", "--analyzers", "weight_spectra"]
    assert run(words) == 0
    assert "Nothing to compute" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "intruder_dimensions.epsilom=0.5"], "epsilon"),
        (["--set", "weight_spectre.k=5"], "weight_spectra"),
        (["--analyzers", "intruders"], "intruder_dimensions"),
        (["--analyzers", ","], "names no analyzer; known: "),
        (["--analyzers", "pathway_metrics"], "nothing can be measured without --probe FILE"),
        (["--steps", "11"], "10"),
        (["--base", "nowhere/at/all"], "nowhere/at/all"),
        (["--base", "ful=full@10"], "--base ful=full@10: no run matches; runs: runs/full"),
        (["--config", "absent.yaml"], "absent.yaml"),
    ],
)
def test_a_wrong_word_ends_before_any_work(
    analysed: Analysed, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    stamp = (analysed.out / "report.html").stat().st_mtime_ns
    code = analysed.again("--analyzers", "weight_spectra", *words)
    captured = capsys.readouterr()
    assert message in captured.out + captured.err
    assert code == 2
    assert (analysed.out / "report.html").stat().st_mtime_ns == stamp


def test_a_scheduler_that_does_not_answer_fails_within_seconds(
    analysed: Analysed, capsys: pytest.CaptureFixture[str]
) -> None:
    started = time.monotonic()
    assert analysed.again("--scheduler", "tcp://127.0.0.1:9") == 2
    assert time.monotonic() - started < 25
    assert "tcp://127.0.0.1:9" in capsys.readouterr().err


def test_a_store_that_another_writes_is_left_alone(analysed: Analysed, capsys: pytest.CaptureFixture[str]) -> None:
    with writing(analysed.out / "store.zarr"):
        assert analysed.again() == 2
    assert "being written by another varve (process" in capsys.readouterr().err


def test_a_file_config_and_its_override(analysed: Analysed, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("intruder_dimensions:\n  epsilons: [0.3, 0.5]\n")
    assert analysed.again("--config", str(config)) == 0
    assert open_report(analysed)["intruder_dimensions"].epsilon.values.tolist() == [0.3, 0.5]
    assert analysed.again("--config", str(config), "--set", "intruder_dimensions.epsilons=[0.7]") == 0
    assert open_report(analysed)["intruder_dimensions"].epsilon.values.tolist() == [0.7]


def test_naming_analyzers_keeps_the_rest_of_the_report(analysed: Analysed, capsys: pytest.CaptureFixture[str]) -> None:
    assert analysed.again("--set", "intruder_dimensions.epsilons=[0.4,0.6]") == 0
    before = open_report(analysed)["intruder_dimensions"].to_dataset().load()
    assert analysed.again("--analyzers", "weight_spectra", "--set", "weight_spectra.quantiles=8") == 0
    assert "Also kept in the report: intruder_dimensions" in capsys.readouterr().out
    tree = open_report(analysed)
    xr.testing.assert_identical(before, tree["intruder_dimensions"].to_dataset().load())
    assert tree["weight_spectra"].sizes["quantile"] == 8
    assert [one["name"] for one in json.loads(tree.attrs["analyzers"])][:2] == ["weight_spectra", "intruder_dimensions"]
    assert analysed.again("--analyzers", "intruder_dimensions") == 0
    assert open_report(analysed)["weight_spectra"].sizes["quantile"] == 8


def test_an_analyzer_that_is_kept_also_shows_new_checkpoints(analysed: Analysed) -> None:
    shutil.copytree(analysed.archive / "full/checkpoint-20", analysed.archive / "full/checkpoint-30")
    assert analysed.again("--analyzers", "intruder_dimensions") == 0
    assert 30 in open_report(analysed)["weight_spectra"].step.values
