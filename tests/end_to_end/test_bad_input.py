"""What is wrong with an archive is said with file and tensor, costs only itself, and ends in exit code 3."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from safetensors.numpy import save_file

from tests.end_to_end.archives import SHAPES, varve, weights, write_adapter, write_run


def analyze(archive: Path, out: Path, *more: str) -> tuple[int, str, xr.DataTree | None]:
    done = varve("analyze", archive, "--out", out, "--no-flow", "--device", "cpu", *more)
    text = done.stdout + done.stderr
    assert "Traceback" not in text, text
    report = out / "report.zarr"
    return done.returncode, text, xr.open_datatree(report, engine="zarr") if report.exists() else None


class Hostile:
    """Runs a command when it is unpickled by anyone who executes pickles."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return Path.touch, (self.marker,)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    write_run(folder / "good", 2)
    return folder


def assert_good_run_measured(tree: xr.DataTree | None) -> None:
    assert tree is not None
    spectra = tree["weight_spectra"].to_dataset()
    good = [r for r in spectra.run.values if str(r).endswith("good")]
    assert len(good) == 1
    norms = spectra["spectral_norm"].sel(run=good[0])
    assert int(np.isfinite(norms).sum()) == 8  # 4 matrices × 2 steps


def test_a_truncated_safetensors_costs_its_checkpoint(archive: Path, tmp_path: Path) -> None:
    write_run(archive / "torn", 2, seed=1)
    torn = archive / "torn/checkpoint-10/model.safetensors"
    torn.write_bytes(torn.read_bytes()[:-100])
    code, text, tree = analyze(archive, tmp_path / "out")
    assert code == 3
    assert "torn/checkpoint-10/model.safetensors" in text
    assert_good_run_measured(tree)


def test_a_hostile_torch_file_does_not_run_and_is_named(archive: Path, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    (archive / "evil").mkdir()
    with zipfile.ZipFile(archive / "evil/step_10.pt", "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps({"w": Hostile(marker)}))
        file.writestr("archive/version", "3\n")
    code, text, tree = analyze(archive, tmp_path / "out")
    assert not marker.exists()
    assert code == 3
    assert "evil/step_10.pt" in text
    assert_good_run_measured(tree)


def test_a_tensor_of_nan_is_named_and_the_others_are_measured(archive: Path, tmp_path: Path) -> None:
    tensors = weights(5)
    tensors["layers.0.mlp.up_proj.weight"][3, 4] = np.nan
    (archive / "sick/checkpoint-10").mkdir(parents=True)
    save_file(tensors, archive / "sick/checkpoint-10/model.safetensors")
    code, text, tree = analyze(archive, tmp_path / "out")
    assert code == 3
    assert "layers.0.mlp.up_proj" in text and "sick" in text
    assert tree is not None
    norms = tree["weight_spectra"].to_dataset()["spectral_norm"]
    sick = next(r for r in norms.run.values if str(r).endswith("sick"))
    assert int(np.isfinite(norms.sel(run=sick)).sum()) == 3
    assert_good_run_measured(tree)
    again, text, _ = analyze(archive, tmp_path / "out")
    assert again == 3 and "layers.0.mlp.up_proj" in text  # the finding is stored, and still said


def test_an_empty_folder_is_refused_with_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, text, tree = analyze(tmp_path / "empty", tmp_path / "out")
    assert code == 2 and tree is None
    assert "empty" in text and "safetensors" in text


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    code, text, _ = analyze(tmp_path / "nowhere", tmp_path / "out")
    assert code == 2 and "nowhere" in text


def test_a_checkpoint_with_missing_parameters_leaves_holes_not_errors(archive: Path, tmp_path: Path) -> None:
    write_run(archive / "partial", 1, seed=2)
    tensors = weights(3)
    del tensors["layers.0.mlp.up_proj.weight"]
    (archive / "partial/checkpoint-10").mkdir()
    save_file(tensors, archive / "partial/checkpoint-10/model.safetensors")
    _, text, tree = analyze(archive, tmp_path / "out")
    assert tree is not None, text
    norms = tree["weight_spectra"].to_dataset()["spectral_norm"]
    partial = norms.sel(run=next(r for r in norms.run.values if str(r).endswith("partial")))
    assert int(np.isfinite(partial).sum()) == 4 + 3
    assert_good_run_measured(tree)


def test_a_model_of_vectors_only_says_that_it_has_no_matrix(tmp_path: Path) -> None:
    folder = tmp_path / "runs/vectors/checkpoint-1"
    folder.mkdir(parents=True)
    save_file({"norm.weight": np.ones(8, np.float32), "bias": np.zeros(8, np.float32)}, folder / "model.safetensors")
    code, text, _ = analyze(tmp_path / "runs", tmp_path / "out")
    assert code in (2, 3) and "norm.weight" in text


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (1, 7), (1, 1)])
def test_odd_shapes_do_not_stop_the_others(archive: Path, tmp_path: Path, shape: tuple[int, int]) -> None:
    tensors = {"odd.weight": np.zeros(shape, np.float32), **weights(4)}
    (archive / "odd/checkpoint-5").mkdir(parents=True)
    save_file(tensors, archive / "odd/checkpoint-5/model.safetensors")
    _, text, tree = analyze(archive, tmp_path / "out")
    assert tree is not None, text
    assert_good_run_measured(tree)


def test_an_adapter_of_rank_zero_is_listed_with_its_tensor(archive: Path, tmp_path: Path) -> None:
    write_adapter(archive / "flat", 10, base="../../good/checkpoint-0", rank=0)
    code, text, tree = analyze(archive, tmp_path / "out")
    assert code == 3 and "flat" in text
    assert_good_run_measured(tree)


def test_an_adapter_without_its_base_keeps_its_spectra_and_says_where_it_looked(archive: Path, tmp_path: Path) -> None:
    write_adapter(archive / "lost", 10, base="nobody/has-this-model")
    code, text, tree = analyze(archive, tmp_path / "out", "--analyzers", "weight_spectra,intruder_dimensions")
    assert code == 3
    assert "nobody/has-this-model" in text
    assert tree is not None
    norms = tree["weight_spectra"].to_dataset()["spectral_norm"]
    lost = norms.sel(run=next(r for r in norms.run.values if str(r).endswith("lost")))
    assert int(np.isfinite(lost).sum()) == 4


def test_a_base_of_other_shapes_is_refused_matrix_by_matrix(archive: Path, tmp_path: Path) -> None:
    other = {name: (shape[0], shape[1] + 1) if len(shape) == 2 else shape for name, shape in SHAPES.items()}
    base = tmp_path / "other-base"
    base.mkdir()
    save_file(weights(9, other), base / "model.safetensors")
    code, text, tree = analyze(archive, tmp_path / "out", "--base", str(base))
    assert code == 3
    assert "(24, 48) here and (24, 49) there" in text
    assert_good_run_measured(tree)


def test_two_runs_of_one_name_are_told_apart_or_refused_by_name(tmp_path: Path) -> None:
    write_run(tmp_path / "runs/A", 1)
    entry = {"name": "twins", "title": "t", "path": str(tmp_path / "runs"), "run_ids": {"A": "same", "B": "same"}}
    write_run(tmp_path / "runs/B", 1, seed=7)
    catalog = tmp_path / "catalog"
    catalog.mkdir()
    (catalog / "twins.yaml").write_text(json.dumps(entry))
    done = varve("analyze", "twins", "--out", tmp_path / "out", "--no-flow", VARVE_CATALOG=str(catalog))
    assert "Traceback" not in done.stderr
    assert done.returncode in (2, 3) and "same" in done.stdout + done.stderr
