"""inspect, ingest, report, export, verify: what each says and how it ends."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import xarray as xr
from safetensors.numpy import save_file

from flows.cli.app import run
from pipeline.store import Store
from tests.end_to_end.archives import weights, write_adapter, write_run
from tests.flows.cli.conftest import Analysed
from tests.flows.cli.test_main import imported_after


def test_inspect_shows_runs_steps_and_bytes(pristine: Analysed, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(pristine.archive)]) == 0
    said = capsys.readouterr().out
    assert "runs/full" in said and "0, 10, 20" in said and "adapter" in said and "2 runs, 4 checkpoints" in said


def test_inspect_reads_no_weights_and_imports_no_torch(pristine: Analysed) -> None:
    words = ["inspect", str(pristine.archive), "--parameters", "all"]
    assert imported_after(f"from flows.cli.app import run\nassert run({words!r}) == 0") == set()


def test_inspect_shows_what_parameters_become(pristine: Analysed, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(pristine.archive), "--parameters", "full"]) == 0
    said = capsys.readouterr().out
    assert "layers.0.mlp.up_proj" in said and "48 × 24" in said
    assert "Not measured: 1 tensor" in said and "layers.0.input_layernorm.weight" in said


def test_inspect_of_a_wrong_run_names_those_there_are(pristine: Analysed, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(pristine.archive), "--parameters", "ful"]) == 2
    assert "runs/full" in capsys.readouterr().err


def test_inspect_tells_what_was_left_on_purpose(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = write_run(tmp_path / "runs/one", 1) / "checkpoint-0"
    (checkpoint / "optimizer.pt").write_bytes(b"0")
    assert run(["inspect", str(tmp_path / "runs")]) == 0
    assert "optimizer.pt" in capsys.readouterr().out


def test_two_outside_bases_whose_folders_share_a_name_stay_two(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        (tmp_path / name / "model").mkdir(parents=True)
        save_file(weights(seed), tmp_path / name / "model/model.safetensors")
        write_adapter(tmp_path / "runs" / f"lora-{name}", 10, base=str(tmp_path / name / "model"), seed=seed)
    assert run(["ingest", str(tmp_path / "runs"), "--store", str(tmp_path / "S.zarr"), "--no-flow"]) == 0
    bases = [record.base for record in Store.open(tmp_path / "S.zarr").runs() if record.role == "run"]
    assert len(set(bases)) == 2


def test_a_copy_of_an_archive_is_told_the_way_out_and_a_moved_one_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "one/runs/a", 1)
    ingest = ["ingest", "--store", str(tmp_path / "S.zarr"), "--no-flow"]
    assert run([*ingest, str(tmp_path / "one/runs")]) == 0
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert run([*ingest, str(tmp_path / "two/runs")]) != 0
    said = capsys.readouterr()
    assert "--name" in said.out + said.err
    assert run([*ingest, str(tmp_path / "two/runs"), "--name", "copy"]) == 0
    shutil.rmtree(tmp_path / "one")
    assert run([*ingest, str(tmp_path / "two/runs")]) == 0


def test_inspect_as_json_is_nothing_but_json(pristine: Analysed, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(pristine.archive), "--json", "--parameters", "lora"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [r["steps"] for r in data["runs"]] == [[0, 10, 20], [10]]
    assert data["parameters"]["runs/lora"]["matrices"][0]["role"] == "delta"


def test_inspect_of_a_damaged_file_lists_it_and_ends_in_three(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "runs/a", 2)
    torn = tmp_path / "runs/a/checkpoint-10/model.safetensors"
    torn.write_bytes(torn.read_bytes()[:50])
    assert run(["inspect", str(tmp_path / "runs")]) == 3
    assert "checkpoint-10/model.safetensors" in capsys.readouterr().out


def test_inspect_of_an_empty_folder_says_what_was_looked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["inspect", str(tmp_path)]) == 2
    assert "safetensors" in capsys.readouterr().err


def test_ingest_then_verify_then_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "runs/a", 2)
    store = tmp_path / "S.zarr"
    assert run(["ingest", str(tmp_path / "runs"), "--store", str(store), "--no-flow"]) == 0
    assert "2 checkpoints read, 0 unchanged" in capsys.readouterr().out
    assert run(["ingest", str(tmp_path / "runs"), "--store", str(store), "--no-flow"]) == 0
    assert "0 checkpoints read, 2 unchanged" in capsys.readouterr().out
    assert run(["verify", str(store)]) == 0
    capsys.readouterr()

    chunk = max((p for p in (store / "packs").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    damaged = bytearray(chunk.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    chunk.write_bytes(damaged)
    assert run(["verify", str(store)]) == 3
    assert "problem" in capsys.readouterr().out
    assert run(["verify", str(store), "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_verify_of_what_is_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_report_needs_no_weights(analysed: Analysed, tmp_path: Path) -> None:
    shutil.rmtree(analysed.archive)
    words = ["report", str(analysed.out / "store.zarr"), "--out", str(tmp_path / "again"), "--no-flow"]
    assert run([*words, "--analyzers", "weight_spectra"]) == 0
    before = xr.open_datatree(analysed.out / "report.zarr", engine="zarr")["weight_spectra"].to_dataset()
    after = xr.open_datatree(tmp_path / "again/report.zarr", engine="zarr")["weight_spectra"].to_dataset()
    xr.testing.assert_equal(before.load(), after.load())


def test_report_of_chosen_runs(analysed: Analysed, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["report", str(analysed.out / "store.zarr"), "--out", str(tmp_path / "o"), "--no-flow"]
    assert run([*words, "--analyzers", "weight_spectra", "--runs", "*full"]) == 0
    tree = xr.open_datatree(tmp_path / "o/report.zarr", engine="zarr")
    assert tree["weight_spectra"].run.values.tolist() == ["runs/full"]
    assert run([*words, "--runs", "nothing*"]) == 2
    assert "runs/lora" in capsys.readouterr().err


def test_report_of_a_missing_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report", str(tmp_path / "S.zarr"), "--out", str(tmp_path / "o"), "--no-flow"]) == 2
    assert "there is no store" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("format", "out"), [("netcdf", "r.nc"), ("csv", "tables"), ("parquet", "t"), ("json", "r.json")]
)
def test_export(pristine: Analysed, tmp_path: Path, format: str, out: str) -> None:
    words = ["export", str(pristine.out / "report.zarr"), "--format", format, "--out", str(tmp_path / out)]
    assert run(words) == 0
    assert (tmp_path / out).exists()


def test_export_of_a_store_says_what_a_report_is(pristine: Analysed, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", str(pristine.out / "store.zarr"), "--format", "csv", "--out", "x"]) == 2
    assert "varve report" in capsys.readouterr().err


def test_an_unknown_format_names_the_right_one(pristine: Analysed, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", str(pristine.out / "report.zarr"), "--format", "netcfd", "--out", "x"]) == 2
    assert "netcdf" in capsys.readouterr().err


def test_the_catalog_lists_shows_and_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["catalog", "list"]) == 0
    assert "demo" in capsys.readouterr().out
    assert run(["catalog", "show", "demo", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "demo"
    assert run(["catalog", "show", "demmo"]) == 2
    assert "did you mean 'demo'" in capsys.readouterr().err
