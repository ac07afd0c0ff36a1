"""Every export holds the report's numbers, and never touches what is not an export."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import xarray as xr

from analyzers.errors import ReportError
from pipeline.report import export, load, save
from tests.pipeline.report import synthetic
from tests.pipeline.report.test_files import assert_same


@pytest.fixture(scope="module")
def tree() -> xr.DataTree:
    """A small whole report, with infinities and runs whose names need quoting."""
    made = synthetic.tree(runs=('a,"b"', "línea\n2"), matrices=4, steps=(0, 10, 1000))
    made["weight_spectra/spectral_norm"].values[0, 0, 0] = np.inf
    return made


def column(frame: pd.DataFrame, run: str, step: int, matrix: str, name: str) -> float:
    """One cell of a tidy table."""
    row = frame[(frame["run"] == run) & (frame["step"] == step) & (frame["matrix"] == matrix)]
    assert len(row) == 1
    return float(row[name].iloc[0])


def test_netcdf_keeps_groups_values_strings_and_attributes(tree: xr.DataTree, tmp_path: Path) -> None:
    path = export(tree, "netcdf", tmp_path / "report.nc")
    with xr.open_datatree(path, engine="h5netcdf") as opened:
        assert_same(tree, opened.load())
        assert opened.attrs["archive"] == "synthetic"


def test_a_saved_report_exports_like_the_one_in_memory(tree: xr.DataTree, tmp_path: Path) -> None:
    saved = load(save(tree, tmp_path / "report.zarr"))
    for format in ("netcdf", "json"):
        a, b = export(tree, format, tmp_path / f"a.{format}"), export(saved, format, tmp_path / f"b.{format}")
        if format == "json":
            first, second = json.loads(a.read_text()), json.loads(b.read_text())
            assert first["tables"] == second["tables"]
        else:
            with xr.open_datatree(a, engine="h5netcdf") as x, xr.open_datatree(b, engine="h5netcdf") as y:
                assert_same(x.load(), y.load())


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_tables_have_one_row_per_measured_run_step_and_matrix(tree: xr.DataTree, tmp_path: Path, format: str) -> None:
    folder = export(tree, format, tmp_path / "tables")
    read = pd.read_csv if format == "csv" else pd.read_parquet
    frame = read(folder / f"weight_spectra.{format}")
    dataset = tree["weight_spectra"].to_dataset()
    assert len(frame) == int(dataset["stable_rank"].notnull().sum())
    for run in dataset["run"].values:
        cell = column(frame, run, 1000, "encoder.layer.0.q", "stable_rank")
        assert cell == float(dataset["stable_rank"].sel(run=run, step=1000, matrix="encoder.layer.0.q"))
    assert np.isinf(frame["spectral_norm"].max())
    energies = read(folder / f"weight_spectra.energy.{format}")
    assert set(energies["energy"]) == {0.5, 0.9, 0.95, 0.99}
    assert {"layer", "kind"} <= set(frame.columns)
    folder = export(tree, format, tmp_path / "tables", ["*"])
    sigma = read(folder / f"weight_spectra.runs.run0.{format}")
    assert set(sigma.columns) >= {"step", "matrix", "rank", "sigma"} and set(sigma["matrix"]) == set(frame["matrix"])
    if format == "csv":
        columns = pd.read_csv(folder / "columns.csv").set_index(["file", "column"])
        assert columns.loc[("weight_spectra.csv", "stable_rank"), "long_name"] == "stable rank"
        assert columns.loc[("weight_spectra.csv", "stable_rank"), "units"] == 1
    else:
        field = pq.read_schema(folder / "weight_spectra.parquet").field("stable_rank")
        assert field.metadata == {b"long_name": b"stable rank", b"units": b"1", b"source": b"synthetic"}


def test_tables_of_different_dims_get_different_names(tree: xr.DataTree, tmp_path: Path) -> None:
    folder = export(tree, "parquet", tmp_path / "tables")
    names = {p.stem for p in folder.glob("*.parquet")}
    assert {"intruder_dimensions", "intruder_dimensions.side", "intruder_dimensions.side.k.epsilon"} <= names
    assert {"archive.runs", "archive.unmeasured", "provenance", "metrics"} <= names
    variables = {str(v) for n in tree.subtree for v in n.to_dataset(inherit=False).data_vars}
    written = {c for p in folder.glob("*.parquet") for c in pq.read_schema(p).names}
    assert variables <= written


def test_json_is_strict_and_says_infinity_as_text(tree: xr.DataTree, tmp_path: Path) -> None:
    def refuse(text: str) -> float:
        raise AssertionError(f"{text} is not JSON")

    text = export(tree, "json", tmp_path / "report.json").read_text(encoding="utf-8")
    document = json.loads(text, parse_constant=refuse)
    table = document["tables"]["weight_spectra"]
    first = dict(zip(table["columns"], table["rows"][0], strict=True))
    assert first["spectral_norm"] == "inf" and float(first["spectral_norm"]) == np.inf
    assert first["run"] == 'a,"b"' and isinstance(first["stable_rank"], float)
    assert table["columns"]["stable_rank"]["units"] == "1"
    at = list(table["columns"]).index("run")
    assert {row[at] for row in table["rows"]} == {'a,"b"', "línea\n2"}


def test_an_unknown_format_names_the_nearest(tree: xr.DataTree, tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"'parket'.*did you mean 'parquet'.*netcdf, csv, parquet, json"):
        export(tree, "parket", tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_an_export_replaces_an_export_and_nothing_else(tree: xr.DataTree, tmp_path: Path) -> None:
    small = synthetic.tree(matrices=2, intruders=False)
    folder = export(tree, "csv", tmp_path / "tables")
    export(small, "csv", folder)
    assert not (folder / "intruder_dimensions.csv").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(ReportError, match="not a varve export"):
        export(small, "csv", tmp_path / "mine")
    with pytest.raises(ReportError, match="is a folder, but this format writes one file"):
        export(small, "json", tmp_path / "mine")
    (tmp_path / "file").write_text("keep")
    with pytest.raises(ReportError, match="is a file, but this format writes a folder"):
        export(small, "parquet", tmp_path / "file")
    export(small, "json", tmp_path / "report.json")
    export(small, "json", tmp_path / "report.json")
    assert {p.name for p in tmp_path.iterdir()} == {"tables", "mine", "file", "report.json"}


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_csv_has_no_cell_that_a_spreadsheet_would_run(tmp_path: Path, start: str) -> None:
    name = f"{start}cmd|' /C calc'!A0"
    made = synthetic.tree(runs=(name, "plain"), matrices=2, steps=(0, 10))
    made["weight_spectra/stable_rank"].values[:] = -1.5
    folder = export(made, "csv", tmp_path / "tables")
    frame = pd.read_csv(folder / "weight_spectra.csv")
    assert set(frame["run"]) == {f"'{name}".replace("\r", r"\r"), "plain"}
    assert (frame["stable_rank"] == -1.5).all()
    for file in folder.glob("*.csv"):
        cells = pd.read_csv(file, dtype=str, keep_default_na=False)
        for column in cells:
            texts = cells[column][pd.to_numeric(cells[column], errors="coerce").isna()]
            assert not texts.str.startswith(("=", "+", "-", "@", "\t", "\r")).any(), (file.name, column)
