"""--metrics: a CSV becomes metrics of the report, and says which source each has."""

from __future__ import annotations

from pathlib import Path

import pytest
import xarray as xr

from analyzers.errors import ArchiveError
from flows.analysis import find_archive, given_logs
from flows.cli.request import options_from
from pipeline.archive.metrics import Log
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
    options = options_from(runs=tmp_path / "runs", out=tmp_path / "out", metrics=[str(tmp_path / "log.csv")])
    (run,) = find_archive(options).archive.runs
    store = Store.open(tmp_path / "store.zarr", mode="a")
    record = record_run(store, run)
    assert store.run(run.id) == record
    dataset = logged({run.id: Log(record.metrics, record.metric_sources)})
    score = dataset["value"].sel(metric="my_score")
    assert score["source"] == "log.csv"
    assert score.sel(step=10).item() == 0.5


def test_a_relative_file_means_the_same_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = options_from(runs=tmp_path, out=tmp_path / "out", metrics=["log.csv", "seed*=b.csv"])
    assert options.metrics == (str(tmp_path / "log.csv"), f"seed*={tmp_path / 'b.csv'}")


def test_a_report_refuses_a_file_that_it_cannot_use(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "one", 1)
    (run,) = find_archive(options_from(runs=tmp_path / "runs", out=tmp_path / "out")).archive.runs
    store = Store.open(tmp_path / "store.zarr", mode="a")
    record_run(store, run)
    options = options_from(runs=tmp_path / "store.zarr", out=tmp_path, metrics=[str(tmp_path / "absent.csv")])
    with pytest.raises(ArchiveError, match="absent"):
        given_logs(store, options)
