"""Loss and metrics of runs from a CSV that the catalog names."""

from __future__ import annotations

from pathlib import Path

import pytest

from analyzers.errors import ArchiveError
from pipeline.archive.metrics_csv import read_metrics_csv, with_metrics
from pipeline.archive.types import Archive, Run


def test_rows_come_with_the_columns_that_they_have(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("step,loss,eval_loss\n0,2.5,\n100,1.5,1.75\n")
    assert read_metrics_csv(path) == ({"step": 0, "loss": 2.5}, {"step": 100, "loss": 1.5, "eval_loss": 1.75})


def test_each_run_gets_the_files_that_name_it(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("step,loss\n5,0.5\n")
    runs = tuple(Run(f"a/{name}", tmp_path, (), metrics=({"step": 1.0},)) for name in ("one", "two", "other"))
    found = with_metrics(Archive("a", tmp_path, runs), {"*/t*": "log.csv", "one": "log.csv"})
    assert [len(run.metrics) for run in found.runs] == [2, 2, 1]
    assert found.runs[1].metrics[-1] == {"step": 5, "loss": 0.5}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("loss\n1\n", "no column 'step'; it has: loss"),
        ("", "no column 'step'; it has: nothing"),
        ("step,loss\n0,1\n1,low\n", "line 3: loss is 'low', not a number"),
        ("step,loss\n,1\n", "line 2: no step"),
        ("step,loss\nnan,1\n", "line 2: no step"),
    ],
)
def test_a_csv_that_does_not_serve_is_said_with_its_line(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(text)
    with pytest.raises(ArchiveError, match=said):
        read_metrics_csv(path)


def test_a_run_or_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    archive = Archive("a", tmp_path, (Run("a/one", tmp_path, ()),))
    with pytest.raises(ArchiveError, match="no run matches 'tow'; there are: a/one"):
        with_metrics(archive, {"tow": "log.csv"})
    with pytest.raises(ArchiveError, match=r"absent\.csv: No such file"):
        with_metrics(archive, {"one": "absent.csv"})
