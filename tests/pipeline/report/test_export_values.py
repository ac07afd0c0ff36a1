"""What CSV and JSON hold equals the report value for value, in the fewest digits that give a number back."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.report import export
from pipeline.report.tables import datasets_of
from tests.pipeline.report import synthetic

Tables = dict[str, pd.DataFrame]


def json_tables(path: Path) -> Tables:
    content = path.read_bytes()
    tables = json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)["tables"]
    return {name: pd.DataFrame(table["rows"], columns=list(table["columns"])) for name, table in tables.items()}


def csv_tables(folder: Path) -> Tables:
    files = [path for path in folder.glob("*.csv*") if not path.name.startswith("columns.")]
    return {path.name.partition(".csv")[0]: pd.read_csv(path) for path in files}


READERS: dict[str, Callable[[Path], Tables]] = {
    "json": json_tables,
    "json.gz": json_tables,
    "csv": csv_tables,
    "csv.gz": csv_tables,
}


def assert_holds(tables: Tables, tree: xr.DataTree) -> None:
    """Every value of every measured variable stands in one row of one table, and no row holds any other."""
    for path, dataset in datasets_of(tree).items():
        for name, variable in dataset.data_vars.items():
            dims = [str(dim) for dim in variable.dims]
            if variable.dtype.kind not in "fi" or not set(dims) <= set(dataset.coords):
                continue
            stem = path.strip("/").replace("/", ".")
            (table,) = (t for n, t in tables.items() if name in t and (n == stem or n.startswith(f"{stem}.")))
            index = {d: {value: i for i, value in enumerate(dataset[d].values.tolist())} for d in dims}
            at = [[index[d][value] for value in table[d]] for d in dims]
            held = np.full(variable.shape, np.nan, variable.dtype)
            held[tuple(at)] = pd.to_numeric(table[name]).to_numpy().astype(variable.dtype)
            np.testing.assert_array_equal(held, variable.values, err_msg=f"{path}/{name}")


@pytest.fixture(scope="module")
def tree() -> xr.DataTree:
    """A whole report in two dtypes, with infinity, tiny and huge numbers, and a column of whole numbers."""
    made = synthetic.tree(runs=("a/one", "a/two"), matrices=4, steps=(0, 10, 1000))
    made["weight_spectra/spectral_norm"].values[0, 0, :3] = np.inf, -np.inf, 5e-324
    made["weight_spectra/stable_rank"].values[0, 0, 0] = 1.7976931348623157e308
    single = made["weight_spectra/alpha"].astype("float32")
    made["weight_spectra"] = made["weight_spectra"].to_dataset(inherit=False).assign(alpha=single)
    return made


@pytest.mark.parametrize("format", READERS)
def test_the_tables_of_text_equal_the_report(tree: xr.DataTree, tmp_path: Path, format: str) -> None:
    path = export(tree, format, tmp_path / f"report.{format}", ["*"])
    assert_holds(READERS[format](path), tree)


NUMBERS = st.sampled_from((np.float16, np.float32, np.float64)).flatmap(
    lambda dtype: arrays(dtype, (2, 3), elements=st.floats(width=np.dtype(dtype).itemsize * 8))  # type: ignore[arg-type]  # 16, 32 or 64
)


@settings(deadline=None, max_examples=15)
@given(values=NUMBERS)
@pytest.mark.parametrize("format", ["json", "csv"])
def test_any_float_comes_back(tmp_path_factory: pytest.TempPathFactory, format: str, values: np.ndarray) -> None:
    axes = {"run": ["a", "b"], "step": [1, 2, 3]}
    tree = xr.DataTree.from_dict({"/plugin": xr.Dataset({"x": (("run", "step"), values)}, axes)})
    path = export(tree, format, tmp_path_factory.mktemp("any") / f"report.{format}")
    tables = READERS[format](path)
    if np.isnan(values).all():
        assert tables["plugin"].empty
    else:
        assert_holds(tables, tree)


def test_digits_are_those_of_the_stored_dtype(tmp_path: Path) -> None:
    columns: dict[str, Any] = {
        "single": ("run", np.array([0.3, 0.1], np.float32)),
        "count": ("run", np.array([3.0, np.nan])),
        "double": ("run", np.array([0.1 + 0.2, 1e22])),
        "negative_zero": ("run", np.array([-0.0, 1.0])),
    }
    tree = xr.DataTree.from_dict({"/plugin": xr.Dataset(columns, {"run": ["a", "b"]})})
    lines = (export(tree, "csv", tmp_path / "csv") / "plugin.csv").read_text().splitlines()
    assert lines[1:] == ["a,0.3,3,0.30000000000000004,-0.0", "b,0.1,,1e+22,1.0"]
    text = export(tree, "json", tmp_path / "report.json").read_text()
    assert '["a",0.3,3,0.30000000000000004,-0.0],' in text and '["b",0.1,null,1e+22,1.0]' in text
    described = json.loads(text)["tables"]["plugin"]["columns"]
    assert {name: column["dtype"] for name, column in described.items()} == {
        "run": "string", "single": "float32", "count": "float64", "double": "float64", "negative_zero": "float64",
    }  # fmt: skip


def test_compressed_exports_are_the_same_bytes_each_time(tree: xr.DataTree, tmp_path: Path) -> None:
    packed = export(tree, "json", tmp_path / "report.json.gz").read_bytes()
    assert gzip.decompress(packed) == export(tree, "json", tmp_path / "report.json").read_bytes()
    assert packed == export(tree, "json.gz", tmp_path / "again").read_bytes()
