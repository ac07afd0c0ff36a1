"""The library as a notebook uses it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import pipeline
from analyzers.errors import ArchiveError, ParameterError
from tests.end_to_end.archives import write_adapter, write_run


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api") / "runs"
    write_run(folder / "one", 3)
    write_adapter(folder / "lora", 10, base="../../one/checkpoint-0")
    return folder


def test_five_lines_from_a_folder_to_a_report(archive: Path, tmp_path: Path) -> None:
    store = pipeline.ingest(archive, tmp_path / "S.zarr")
    summary = pipeline.compute(store, ["weight_spectra"])
    tree = pipeline.assemble(store, ["weight_spectra"])
    zarr, html = pipeline.write_report(tree, tmp_path / "out")

    assert summary.complete and summary.measured > 0
    norms = tree["weight_spectra"]["spectral_norm"]
    assert int(np.isfinite(norms.sel(run="runs/one")).sum()) == 3 * 4
    assert int(np.isfinite(norms.sel(run="runs/lora")).sum()) == 4
    assert "weight_spectra" in xr.open_datatree(zarr, engine="zarr").children
    assert html.read_text().lower().startswith("<!doctype html>")
    assert pipeline.compute(store, ["weight_spectra"]).measured == 0


def test_only_the_chosen_steps_and_parameters(archive: Path, tmp_path: Path) -> None:
    store = pipeline.ingest(archive / "one", tmp_path / "S.zarr", steps="last")
    assert [c.step for c in store.checkpoints("one")] == [0, 20]  # the last, and the first as its base
    pipeline.compute(store, ["weight_spectra"], include=["*mlp*"], steps="last")
    tree = pipeline.assemble(store, ["weight_spectra"], include=["*mlp*"], steps="last")
    norms = tree["weight_spectra"]["spectral_norm"]
    assert norms.step.values.tolist() == [20]
    assert {str(m).rsplit(".", 1)[1] for m in norms.matrix.values} == {"up_proj", "down_proj"}


def test_a_wrong_setting_names_the_right_one(archive: Path, tmp_path: Path) -> None:
    store = pipeline.ingest(archive, tmp_path / "S.zarr")
    with pytest.raises(ParameterError, match=r"did you mean 'epsilons?'"):
        pipeline.compute(store, ["intruder_dimensions"], {"intruder_dimensions": {"epsilom": 0.5}})


def test_a_folder_without_checkpoints_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="safetensors"):
        pipeline.ingest(tmp_path, tmp_path / "S.zarr")


def test_the_rest_is_ingested_when_a_base_is_missing(archive: Path, tmp_path: Path) -> None:
    write_adapter(tmp_path / "runs/lost", 10, base="nobody/has-this")
    store = pipeline.ingest(tmp_path / "runs", tmp_path / "S.zarr")
    (record,) = store.runs()
    assert record.base is None
    assert "nobody/has-this" in str(record.problems[0])


def test_the_verb_works_whichever_room_was_imported_first() -> None:
    code = (
        "import pipeline.compute.plan\n"
        "from pipeline import compute\n"
        "assert callable(compute)\n"
        "import pipeline\n"
        "assert pipeline.compute is compute and pipeline.compute.plan"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_the_library_is_cheap() -> None:
    code = "import pipeline, sys\nprint([m for m in ('torch', 'zarr', 'dask', 'xarray', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_catalog_may_name_runs_but_not_two_alike(archive: Path) -> None:
    from pipeline.archive.scan import scan

    renamed = scan(archive, run_ids={"one": "first"})
    assert [run.id for run in renamed.runs] == ["first", "runs/lora"]
    assert {c.run for c in renamed.runs[0].checkpoints} == {"first"}
    with pytest.raises(ArchiveError, match="two runs are called 'x'"):
        scan(archive, run_ids={"one": "x", "lora": "x"})


def test_a_single_text_selects_as_a_list_of_one(archive: Path, tmp_path: Path) -> None:
    store = pipeline.ingest(archive, tmp_path / "S.zarr")
    one = pipeline.compute(store, "weight_spectra", include="*mlp*", steps="last", workers=1)
    assert one.measured > 0
    assert pipeline.compute(store, ["weight_spectra"], include=["*mlp*"], steps="last", workers=1).measured == 0
    tree = pipeline.assemble(str(store.path), "weight_spectra", include="*mlp*", runs=store.runs()[0].id)
    assert all("mlp" in name for name in tree["weight_spectra"].matrix.values)


@pytest.mark.parametrize(
    "options",
    [{"device": "gpu"}, {"steps": "77"}, {"steps": 10}, {"workers": 1.5}, {"cache_bytes": -1}, {"include": 3}],
)
def test_wrong_values_are_refused_as_by_the_command(archive: Path, tmp_path: Path, options: dict) -> None:
    store = pipeline.ingest(archive, tmp_path / "S.zarr")
    with pytest.raises(ParameterError):
        pipeline.compute(store, "weight_spectra", **options)


def test_what_is_no_store_is_refused() -> None:
    with pytest.raises(ParameterError, match="not NoneType"):
        pipeline.compute(None)  # type: ignore[arg-type]  # the point of the test
