"""Which variables an export holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from analyzers.errors import ReportError
from pipeline.archive.metrics import Log
from pipeline.report import export
from pipeline.report.choice import VECTOR_LENGTH, chosen, places_of
from pipeline.report.exports import vectors_left_out
from pipeline.report.logged import metrics_dataset
from tests.pipeline.report import synthetic

VECTORS = ("plugin/profile", "weight_spectra/sigma")


@pytest.fixture(scope="module")
def tree() -> xr.DataTree:
    """A small report with σ of each run, and a plugin whose variables are long in different ways."""
    made = synthetic.tree(runs=("one", "two"), matrices=2, steps=(0, 10))
    long = VECTOR_LENGTH + 1
    made["plugin"] = xr.Dataset(
        {
            "profile": (("run", "position"), np.ones((2, long))),
            "short": (("run", "level"), np.ones((2, VECTOR_LENGTH))),
            "by_group": (("run", "group"), np.ones((2, long))),
        },
        {"run": ["one", "two"], "group": [f"group {i}" for i in range(long)]},
    )
    log = Log.of([{"step": 1.0, "total_flos": 1.0, "eval/loss": 2.0}], "trainer_state.json")
    logged = metrics_dataset({"one": log, "two": log})
    assert logged is not None
    made["metrics"] = logged
    return made


def names(tree: xr.DataTree) -> set[str]:
    return {f"{place.node.partition('/')[0]}/{place.name}" for place in places_of(tree)} - {"metrics/value"}


@pytest.mark.parametrize("format", ["csv", "json", "csv.gz", "json.gz"])
def test_text_leaves_vectors_out_and_names_them(tree: xr.DataTree, tmp_path: Path, format: str) -> None:
    assert tuple(sorted(vectors_left_out(tree, format))) == VECTORS
    assert vectors_left_out(tree, format, ["*"]) == ()
    path = export(tree, "json", tmp_path / "report.json")
    document = json.loads(path.read_text())
    assert set(document["attributes"]["left_out"].split(",")) == set(VECTORS)
    columns = {name for table in document["tables"].values() for name in table["columns"]}
    assert {"short", "by_group", "stable_rank", "value"} <= columns
    assert columns.isdisjoint({"sigma", "profile"})


@pytest.mark.parametrize("format", ["netcdf", "parquet"])
def test_binary_formats_hold_everything(tree: xr.DataTree, format: str) -> None:
    assert vectors_left_out(tree, format) == ()


def test_a_vector_that_is_named_is_written(tree: xr.DataTree, tmp_path: Path) -> None:
    folder = export(tree, "csv", tmp_path / "tables", ["sigma"])
    written = {path.name for path in folder.iterdir()}
    assert "weight_spectra.runs.run0.csv" in written and "weight_spectra.csv" not in written
    assert "left_out" not in json.loads((folder / "report.json").read_text())


@pytest.mark.parametrize(
    ("globs", "expected"),
    [
        (["stable_*", "weight_spectra/spectral_norm"], {"weight_spectra/stable_rank", "weight_spectra/spectral_norm"}),
        (["total_*_p"], {"intruder_dimensions/total_intruders_p"}),
        (["metrics/total_*"], {"metrics/total_flos"}),
        (["total_flos"], {"metrics/total_flos"}),  # no analyzer has one of that name
        (["eval/loss"], {"metrics/eval/loss"}),
        (["metrics/eval/*"], {"metrics/eval/loss"}),
        (["weight_spectra/sigma"], {"weight_spectra/sigma"}),
        (["weight_spectra/runs/*/sigma"], {"weight_spectra/sigma"}),
    ],
)
def test_globs_choose_variables_of_analyzers_first(tree: xr.DataTree, globs: list[str], expected: set[str]) -> None:
    assert names(chosen(tree, globs)) == expected


def test_a_glob_without_a_node_leaves_the_training_log_alone(tree: xr.DataTree) -> None:
    assert {name.partition("/")[0] for name in names(chosen(tree, ["total_*"]))} == {"intruder_dimensions"}


def test_an_earlier_report_with_a_variable_for_each_metric_is_exported(tmp_path: Path) -> None:
    loss = xr.Dataset({"loss": (("run", "step"), np.ones((1, 2)))}, {"run": ["one"], "step": [1, 2]})
    earlier = xr.DataTree.from_dict({"/metrics": loss})
    assert names(chosen(earlier, ["loss"])) == {"metrics/loss"}
    frame = pd.read_csv(export(earlier, "csv", tmp_path / "tables") / "metrics.csv")
    assert frame["loss"].tolist() == [1, 1]


def test_an_asterisk_is_everything(tree: xr.DataTree) -> None:
    assert names(chosen(tree, ["*"])) == names(tree)


def test_a_chosen_variable_keeps_its_coordinates_and_rows(tree: xr.DataTree, tmp_path: Path) -> None:
    frame = pd.read_csv(export(tree, "csv", tmp_path / "tables", ["stable_rank"]) / "weight_spectra.csv")
    assert len(frame) == int(tree["weight_spectra/stable_rank"].notnull().sum())
    assert {"run", "step", "matrix", "layer", "kind"} <= set(frame.columns)


@pytest.mark.parametrize(
    ("glob", "hint"),
    [
        ("stable_rnk", "did you mean 'stable_rank'"),
        ("stabel_*", "did you mean 'stable_rank'"),
        ("weight_spektra/alpha", "did you mean 'weight_spectra/alpha'"),
        ("nonsense", "there are alpha, .*, and [0-9]+ more; `columns.csv`"),
        ("", "there are alpha"),
    ],
)
def test_a_name_that_is_not_there_brings_near_ones(tree: xr.DataTree, tmp_path: Path, glob: str, hint: str) -> None:
    with pytest.raises(ReportError, match=f"no variable of the report matches '{glob.replace('*', '.')}': {hint}"):
        export(tree, "json", tmp_path / "none.json", ["stable_rank", glob])
    assert not list(tmp_path.iterdir())
