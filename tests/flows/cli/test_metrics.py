"""--metrics: a CSV becomes metrics of the report, and says which source each has."""

from __future__ import annotations

from pathlib import Path

import pytest
import xarray as xr

import varve
from analyzers.errors import ArchiveError
from pipeline.analysis.request import AnalysisRequest
from pipeline.analysis.resolve import find_archive, given_logs
from pipeline.archive.metrics import Log
from pipeline.archive.types import Run
from pipeline.report.archive_tables import archive_nodes
from pipeline.report.logged import metrics_dataset
from pipeline.store import Store
from pipeline.store.ingest import record_run
from tests.end_to_end.archives import write_run


def logged(archive_logs: dict[str, Log]) -> xr.Dataset:
    dataset = metrics_dataset(archive_logs)
    assert dataset is not None
    return dataset


def test_the_options_file_joins_what_the_run_logged_and_the_store_keeps_both_sources(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "one", [10, 20])
    (tmp_path / "log.csv").write_text("run,step,my_score\none,10,0.5\n")
    options = AnalysisRequest.of(runs=tmp_path / "runs", out=tmp_path / "out", metrics=[str(tmp_path / "log.csv")])
    (run,) = find_archive(options).archive.runs
    store = Store.open(tmp_path / "store.zarr", mode="a")
    record = record_run(store, run)
    assert store.run(run.id) == record
    dataset = logged({run.id: record.log})
    score = dataset["value"].sel(metric="my_score")
    assert score["source"] == "log.csv"
    assert score.sel(step=10).item() == 0.5


def test_a_relative_file_means_the_same_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = AnalysisRequest.of(runs=tmp_path, out=tmp_path / "out", metrics=["log.csv", "seed*=b.csv"])
    assert options.metrics == (str(tmp_path / "log.csv"), f"seed*={tmp_path / 'b.csv'}")


def test_a_report_refuses_a_file_that_it_cannot_use(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "one", 1)
    (run,) = find_archive(AnalysisRequest.of(runs=tmp_path / "runs", out=tmp_path / "out")).archive.runs
    store = Store.open(tmp_path / "store.zarr", mode="a")
    record_run(store, run)
    options = AnalysisRequest.of(runs=tmp_path / "store.zarr", out=tmp_path, metrics=[str(tmp_path / "absent.csv")])
    with pytest.raises(ArchiveError, match="absent"):
        given_logs(store, options)


@pytest.mark.parametrize("has_own_log", [True, False])
def test_given_metrics_belong_to_the_store_until_others_are_given(tmp_path: Path, has_own_log: bool) -> None:
    checkpoint = write_run(tmp_path / "runs" / "one", [10]) / "checkpoint-10"
    if has_own_log:
        log = '{"global_step": 10, "log_history": [{"step": 10, "loss": 2.0}]}'
        (checkpoint / "trainer_state.json").write_text(log)
    (tmp_path / "first.csv").write_text("step,acc,f1\n10,0.5,0.25\n")
    (tmp_path / "second.csv").write_text("step,acc\n10,0.75\n")
    store = Store.open(tmp_path / "store.zarr", mode="a")
    own = {"loss": 2.0} if has_own_log else {}

    def numbers_after(*metrics: str) -> dict[str, float]:
        options = AnalysisRequest.of(runs=tmp_path / "runs", out=tmp_path / "out", metrics=metrics)
        (run,) = find_archive(options).archive.runs
        record_run(store, run)
        return {name: value for row in store.run(run.id).log.rows for name, value in row.items() if name != "step"}

    assert numbers_after() == own
    assert numbers_after(str(tmp_path / "first.csv")) == {**own, "acc": 0.5, "f1": 0.25}
    assert numbers_after() == {**own, "acc": 0.5, "f1": 0.25}
    assert numbers_after(str(tmp_path / "second.csv")) == {**own, "acc": 0.75}
    assert numbers_after() == {**own, "acc": 0.75}
    assert numbers_after("none") == own
    assert numbers_after() == own


def test_files_for_one_run_leave_those_of_the_others(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store.zarr", mode="a")
    runs = [Run(f"a/{name}", tmp_path / name, (), given=Log.of([{"step": 1.0, "acc": 0.5}], "x")) for name in "bc"]
    for run in runs:
        record_run(store, run)
    record_run(store, Run("a/b", tmp_path / "b", (), given=Log.of([{"step": 1.0, "acc": 0.75}], "y")))
    record_run(store, Run("a/c", tmp_path / "c", ()))
    assert [run.log.rows[0]["acc"] for run in store.runs()] == [0.75, 0.5]


def test_a_report_shows_other_metrics_than_the_store_and_leaves_it_as_it_is(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "one", [10])
    (tmp_path / "first.csv").write_text("step,acc\n10,0.5\n")
    (tmp_path / "second.csv").write_text("step,f1\n10,0.75\n")
    store = varve.ingest(tmp_path / "runs", tmp_path / "store.zarr", metrics=tmp_path / "first.csv")
    (record,) = store.runs()
    assert record.log.rows == ({"step": 10.0, "acc": 0.5},)
    options = AnalysisRequest.of(
        runs=store.path, out=tmp_path, store=store.path, metrics=[str(tmp_path / "second.csv")]
    )
    assert given_logs(store, options)[record.id].rows == ({"step": 10.0, "f1": 0.75},)
    tables = archive_nodes(store, store.runs(), {}, logs=given_logs(store, options))
    assert tables["/metrics"]["metric"].values.tolist() == ["f1"]
    forgotten = given_logs(store, options.model_copy(update={"metrics": ("none",)}))
    assert "/metrics" not in archive_nodes(store, store.runs(), {}, logs=forgotten)
    assert store.runs() == (record,)
