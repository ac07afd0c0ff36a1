"""What the training logged is one array of the report, whatever the number and the names of the metrics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from pipeline.archive.metrics import Log
from pipeline.report import export, load, metric_figures, save
from pipeline.report.blocks import Details, Gallery, PageTable
from pipeline.report.html import render
from pipeline.report.logged import Logged, metrics_dataset
from pipeline.report.look import Look
from pipeline.report.metric_figures import metrics_section
from pipeline.store.records import RunRecord
from tests.pipeline.report import synthetic

MANY = 2000


def tree_of(logs: dict[str, Log]) -> xr.DataTree:
    dataset = metrics_dataset(logs)
    assert dataset is not None
    return xr.DataTree.from_dict({"/": xr.Dataset(), "/metrics": dataset})


@pytest.fixture
def many() -> xr.DataTree:
    """Two steps of many layers' norms and a few losses, the losses last."""
    names = [f"norm/layer_{i}" for i in range(MANY)] + [f"eval/loss_{i}" for i in range(40)]
    rows = tuple({"step": float(step), **{name: step + i for i, name in enumerate(names)}} for step in (1, 2))
    return tree_of({"a": Log.of(rows, "trainer_state.json")})


def test_logs_are_joined_over_runs_and_steps() -> None:
    runs = [
        RunRecord("a", metrics=({"step": 10, "loss": 2.0}, {"step": 10, "eval/loss": 2.5}, {"step": 20, "loss": 1.0})),
        RunRecord("b", metrics=({"step": 15, "loss": 3.0, "step_time": 1.0},), metric_sources={"loss": "log.csv"}),
        RunRecord("c"),
    ]
    dataset = metrics_dataset({run.id: Log(run.metrics, run.metric_sources) for run in runs})
    assert dataset is not None
    assert dataset["run"].values.tolist() == ["a", "b"] and dataset["step"].values.tolist() == [10, 15, 20]
    loss = dataset["value"].sel(metric="loss")
    np.testing.assert_array_equal(loss.values, [[2.0, np.nan, 1.0], [np.nan, 3.0, np.nan]])
    assert loss["source"] == "training log, log.csv"
    assert dataset["metric"].values.tolist() == ["loss", "eval/loss", "step_time"]
    assert metrics_dataset({"c": Log()}) is None


def test_thousands_of_metrics_take_as_many_files_as_one(many: xr.DataTree, tmp_path: Path) -> None:
    one = tree_of({"a": Log.of(({"step": 1.0, "loss": 2.0},), "log.csv")})
    files = [
        {str(path.relative_to(saved)) for path in saved.rglob("*") if path.is_file()}
        for saved in (save(many, tmp_path / "many.zarr"), save(one, tmp_path / "one.zarr"))
    ]
    assert files[0] == files[1]
    read = load(tmp_path / "many.zarr")["metrics"].to_dataset()
    assert read.identical(many["metrics"].to_dataset())
    assert read["value"].sel(run="a", metric=f"norm/layer_{MANY - 1}").values.tolist() == [MANY, MANY + 1]


def test_no_more_metrics_are_drawn_than_the_page_shows(many: xr.DataTree, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    curves = metric_figures.curves

    def counted(variable: metric_figures.KeyVariable, look: Look) -> metric_figures.Image | None:
        drawn.append(variable.long_name)
        return curves(variable, look)

    monkeypatch.setattr(metric_figures, "curves", counted)
    section = metrics_section(many, Look.of(many, ["a"], np.array([1, 2])), 4)
    assert section is not None
    shown, further = section.blocks
    assert isinstance(shown, Gallery) and len(shown.images) == 4
    assert isinstance(further, Details) and further.summary == f"8 of {36 + MANY} further metrics; report.zarr has all"
    assert drawn == [f"eval/loss_{i}" for i in range(12)]


def test_names_are_kept_as_logged_and_plain_where_a_figure_needs_them(tmp_path: Path) -> None:
    names = ["eval/loss", "eval_loss", "Eval/Loss", "a\x00b\ud800", "run", "step ", "value"]
    rows = tuple({"step": float(step), **dict.fromkeys(names, float(step))} for step in (1, 2))
    tree = tree_of({"a": Log.of(rows, "log.csv")})
    kept = tree["metrics"]["metric"].values.tolist()
    assert kept == ["eval/loss", "eval_loss", "Eval/Loss", "a\\x00b\\ud800", "run", "step ", "value"]
    plain = list(Logged.of(tree).positions)
    assert plain[:3] == ["eval_loss", "eval_loss-2", "Eval_Loss-3"] and len({name.lower() for name in plain}) == 7
    save(tree, tmp_path / "report.zarr")
    for format, name in (("csv", "tables"), ("parquet", "arrow"), ("json", "r.json"), ("netcdf", "r.nc")):
        export(load(tmp_path / "report.zarr"), format, tmp_path / name)
    read = xr.open_datatree(tmp_path / "r.nc", engine="h5netcdf")
    assert read["metrics"]["metric"].values.tolist() == kept


def test_the_page_has_the_figures_that_it_had_for_each_metric() -> None:
    page = render(synthetic.tree(("one", "two"), (0, 1, 2), 3))
    assert "eval accuracy" in page and "Loss and metrics of the runs" in page


def test_what_was_logged_once_is_a_row_of_a_table_and_no_figure() -> None:
    """The Trainer's closing row: the mean loss of the whole training beside what the training took."""
    rows = [{"step": float(step), "loss": 1.0 / step} for step in (1, 2)]
    closing = {"step": 2.0, "train_loss": 0.75, "train_runtime": 60.0, "total_flos": 1e15, "learning_rate": 0.1}
    tree = tree_of({"a": Log.of([*rows, closing], "trainer_state.json")})
    section = metrics_section(tree, Look.of(tree, ["a"], np.array([1, 2])), 4)
    assert section is not None
    shown, results, folded = section.blocks
    assert isinstance(shown, Gallery) and len(shown.images) == 1
    assert isinstance(results, PageTable) and results.rows == (("train_loss", "a", "2", "0.75"),)
    assert isinstance(folded, Details) and folded.summary == "3 metrics logged once"
    (table,) = folded.blocks
    assert isinstance(table, PageTable)
    assert [row[0] for row in table.rows] == ["learning_rate", "train_runtime", "total_flos"]
