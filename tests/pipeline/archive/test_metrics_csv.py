"""Loss and metrics of runs from a CSV: --metrics, or one that the catalog names."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzers.errors import ArchiveError
from pipeline.archive.metric_files import read_metrics
from pipeline.archive.metrics import Log
from pipeline.archive.metrics_csv import Target, files_of, logs_from, with_metrics
from pipeline.archive.types import Archive, Run

TWO = (Target("a/one"), Target("a/two"))


def log_of(tmp_path: Path, text: str, *targets: Target, glob: str | None = None) -> dict[str, Log]:
    path = tmp_path / "log.csv"
    path.write_text(text)
    return dict(logs_from([(glob, path)], targets or (Target("a/one"),)).logs)


def test_rows_come_with_the_columns_that_they_have(tmp_path: Path) -> None:
    log = log_of(tmp_path, "step,loss,eval_loss\n0,2.5,\n\n100,1.5,1.75\n")["a/one"]
    assert log.rows == ({"step": 0, "loss": 2.5}, {"step": 100, "loss": 1.5, "eval_loss": 1.75})
    assert log.sources == {"loss": "log.csv", "eval_loss": "log.csv"}


@settings(deadline=None, max_examples=25)
@given(
    column=st.sampled_from(["step", "global_step", "iteration", "_step", "iter"]),
    ends=st.sampled_from(["\n", "\r\n"]),
    bom=st.booleans(),
    padded=st.booleans(),
)
def test_the_step_column_goes_by_its_usual_names(
    tmp_path_factory: pytest.TempPathFactory, column: str, ends: str, bom: bool, padded: bool
) -> None:
    path = tmp_path_factory.mktemp("csv") / "log.csv"
    comma = " , " if padded else ","
    lines = [comma.join(("val acc", column)), comma.join(("0.5", "30"))]
    path.write_bytes(((("\ufeff" if bom else "") + ends.join(lines)) + ends).encode())
    assert logs_from([(None, path)], [Target("a/one")]).logs["a/one"].rows == ({"step": 30, "val acc": 0.5},)


def test_a_run_that_counts_epochs_takes_the_column_of_epochs(tmp_path: Path) -> None:
    targets = (Target("a/epochs", "epoch"), Target("a/steps"))
    logs = log_of(tmp_path, "run,step,epoch,loss\nepochs,400,2,0.5\nsteps,400,2,0.25\n", *targets)
    assert logs["a/epochs"].rows == ({"step": 2, "loss": 0.5},)
    assert logs["a/steps"].rows == ({"step": 400, "epoch": 2, "loss": 0.25},)


def test_lines_go_to_the_runs_that_they_name(tmp_path: Path) -> None:
    text = "run,step,loss\none,5,0.5\na/two,5,0.75\n"
    logs = log_of(tmp_path, text, *TWO)
    assert {run: log.rows for run, log in logs.items()} == {
        "a/one": ({"step": 5, "loss": 0.5},),
        "a/two": ({"step": 5, "loss": 0.75},),
    }
    assert set(log_of(tmp_path, text, *TWO, glob="t*")) == {"a/two"}


def test_each_run_gets_the_files_that_name_it(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("step,loss\n5,0.5\n")
    runs = tuple(Run(f"a/{name}", tmp_path, (), metrics=({"step": 1.0},)) for name in ("one", "two", "other"))
    files = [("*/t*", tmp_path / "log.csv"), ("one", tmp_path / "log.csv")]
    archive = with_metrics(Archive("a", tmp_path, runs), files)
    assert [run.metrics for run in archive.runs] == [({"step": 1.0},)] * 3
    given = Log(({"step": 5, "loss": 0.5},), {"loss": "log.csv"})
    assert [run.given for run in archive.runs] == [given, given, None]


def test_a_base_beside_the_one_run_needs_no_column(tmp_path: Path) -> None:
    logs = log_of(tmp_path, "step,loss\n5,0.5\n", Target("a/one"), Target("a/base", is_base=True))
    assert set(logs) == {"a/one"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("loss\n1\n", "line 1: no column 'step', 'epoch' or 'global_step'; it has: loss"),
        ("", "line 1: no column 'step', 'epoch' or 'global_step'; it has: nothing"),
        ("step,loss,loss\n1,2,3\n", "line 1: two columns are called 'loss'"),
        ("step,loss\n0,1\n1,low\n", "line 3, column 'loss': 'low' is not a number"),
        ("step,loss\n0,1,2\n", "line 2: 3 cells, and the first line names 2 columns"),
        ("step,loss\n,1\n", "line 2: a/one counts steps, and the line has no step .*it has: loss"),
        ("epoch,loss\n3,1\n", "line 2: a/one counts steps, and the line has no step .*it has: epoch, loss"),
        ("step,loss\nnan,1\n", "line 2, column 'step': nan is no step"),
        ("step,loss\n1.5,1\n", r"line 2, column 'step': 1\.5 is no step"),
        ("step,loss\n-1,1\n", "line 2, column 'step': -1 is no step"),
        ("run,step,loss\nono,1,1\n", "line 2, column 'run': 'ono' is not a run; did you mean 'one'"),
        ("run,step,loss\n,1,1\n", "line 2, column 'run': it is empty"),
        ('step,loss\n1,"2\n', "not a readable CSV"),
    ],
)
def test_what_cannot_be_used_is_named_by_file_line_and_column(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=rf"log\.csv.*{message}"):
        log_of(tmp_path, text)


def test_a_file_for_several_runs_has_to_tell_which(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"which of 2 runs .*a/one, a/two.*column 'run', or write RUN_GLOB=log\.csv"):
        log_of(tmp_path, "step,loss\n5,0.5\n", *TWO)
    with pytest.raises(ArchiveError, match="column 'run': 'one' may be a/one or b/one"):
        log_of(tmp_path, "run,step\none,5\n", Target("a/one"), Target("b/one"))


def test_a_glob_or_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="no run matches 'tow'; there are: a/one"):
        logs_from([("tow", tmp_path / "log.csv")], [Target("a/one")])
    with pytest.raises(ArchiveError, match=r"absent\.csv: No such file"):
        logs_from([("one", tmp_path / "absent.csv")], [Target("a/one")])
    (tmp_path / "bytes.csv").write_bytes(b"step,loss\n\xff\xfe,1\n")
    with pytest.raises(ArchiveError, match=r"bytes\.csv: not a readable CSV"):
        read_metrics(tmp_path / "bytes.csv")


def test_the_option_names_a_file_or_a_glob_and_a_file(tmp_path: Path) -> None:
    odd = tmp_path / "lr=1.csv"
    odd.write_text("step\n")
    assert files_of(["log.csv", "seed*=b.csv", str(odd)]) == [
        (None, Path("log.csv")),
        ("seed*", Path("b.csv")),
        (None, odd),
    ]
