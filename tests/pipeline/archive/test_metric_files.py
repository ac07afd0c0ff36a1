"""Logs as loggers, spreadsheets and people write them become rows of the right run, or name the line and the fix."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzers.errors import ArchiveError
from pipeline.archive.metric_files import read_metrics
from pipeline.archive.metrics_csv import Given, Target, logs_from, with_metrics
from pipeline.archive.types import Archive, Run

ONE = (Target("a/one"),)
TWO = (Target("a/one"), Target("a/two"))
Rows = Mapping[str, tuple[Mapping[str, float], ...]]


def given_by(
    folder: Path, text: str | bytes, *targets: Target, name: str = "log.csv", glob: str | None = None
) -> Given:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return logs_from([(glob, path)], targets or ONE)


def rows_of(logs: Given) -> Rows:
    return {run: tuple(map(dict, log.rows)) for run, log in logs.logs.items()}


SAME = ({"step": 5.0, "loss": 0.5}, {"step": 10.0, "loss": 0.25})
FORMS = {
    "plain": "step,loss\n5,0.5\n10,0.25\n",
    "capitals": "Step,loss\n5,0.5\n10,0.25\n",
    "nested step": "trainer/global_step,loss\n5,0.5\n10,0.25\n",
    "index column": ",_step,loss\n0,5,0.5\n1,10,0.25\n",
    "semicolons": "step;loss\n5;0.5\n10;0.25\n",
    "decimal commas": "step;loss\n5;0,5\n10;2,5e-1\n",
    "tabs": "step\tloss\n5\t0.5\n10\t0.25\n",
    "bars": "step|loss\n5|0.5\n10|0.25\n",
    "byte order mark": "\ufeffstep,loss\n5,0.5\n10,0.25\n",
    "utf-16": "step\tloss\n5\t0.5\n10\t0.25\n".encode("utf-16"),
    "quotes": '"step","loss"\n"5","0.5"\n"10","0.25"\n',
    "float steps": "step,loss\n5.0,0.5\n1e1,0.25\n",
    "trailing separators": "step,loss\n5,0.5,\n10,0.25,,\n",
    "clock times": "step,loss,timestamp,Wall time\n5,0.5,2024-01-01 10:00,1.7e9\n10,0.25,2024-01-02 10:00,1.7e9\n",
    "JSON lines": '{"step": 5, "loss": 0.5}\n{"step": 10, "loss": 0.25, "phase": "val"}\n',
    "one JSON line": '[{"step": 5, "loss": 0.5, "ok": true}, {"step": 10, "loss": 0.25, "note": null}]',
    "Trainer": '{"global_step": 10, "log_history": [{"step": 5, "loss": 0.5}, {"step": 10, "loss": 0.25}]}',
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_rows(form: str, tmp_path: Path) -> None:
    assert rows_of(given_by(tmp_path, FORMS[form])) == {"a/one": SAME}


@pytest.mark.parametrize("word", ["", "NaN", "nan", "NA", "n/a", "null", "None", "-"])
def test_what_is_not_there_hides_no_number(word: str, tmp_path: Path) -> None:
    """Lightning writes the training and the validation numbers of a step in rows of their own."""
    logs = given_by(tmp_path, f"epoch,step,train_loss,val_loss\n0,49,0.5,{word}\n0,49,{word},0.75\n")
    assert rows_of(logs)["a/one"] == (
        {"step": 49.0, "epoch": 0.0, "train_loss": 0.5},
        {"step": 49.0, "epoch": 0.0, "val_loss": 0.75},
    )


@pytest.mark.parametrize(("word", "value"), [("inf", float("inf")), ("-Infinity", float("-inf"))])
def test_a_loss_that_overflowed_is_kept(word: str, value: float, tmp_path: Path) -> None:
    assert rows_of(given_by(tmp_path, f"step,loss\n5,{word}\n"))["a/one"] == ({"step": 5.0, "loss": value},)


WANDB = '"Step","{0} - train/loss","{0} - train/loss__MIN","{0} - train/loss__MAX"\n"5","0.5","0.4","0.6"\n'


def test_curves_of_weights_and_biases_go_to_the_runs_in_their_titles(tmp_path: Path) -> None:
    text = '"Step","one - loss","one - loss__MIN","two - loss","two - loss__MAX"\n5,0.5,0.4,,\n6,,,0.25,0.3\n'
    expected = {"a/one": ({"step": 5.0, "loss": 0.5},), "a/two": ({"step": 6.0, "loss": 0.25},)}
    assert rows_of(given_by(tmp_path, text, *TWO)) == expected
    shorter = '"Step","one - loss","two - loss"\n5,0.5,\n6,,0.25\n'
    assert rows_of(given_by(tmp_path, shorter, *TWO)) == expected


def test_one_title_fits_the_one_run_whatever_the_tracker_called_it(tmp_path: Path) -> None:
    expected = ({"step": 5.0, "train/loss": 0.5},)
    assert rows_of(given_by(tmp_path, WANDB.format("fiery-dawn-12")))["a/one"] == expected
    assert rows_of(given_by(tmp_path, WANDB.format("fiery-dawn-12"), *TWO, glob="two")) == {"a/two": expected}
    with pytest.raises(ArchiveError, match=r"title: 'fiery-dawn' is not a run.*a/one, a/two.*RUN_GLOB=log\.csv"):
        given_by(tmp_path, WANDB.format("fiery-dawn"), *TWO)


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("run-.-tag-train_loss.csv", "train_loss"),
        ("run-version_0-tag-loss.csv", "loss"),
        ("val_loss.csv", "val_loss"),
    ],
)
def test_a_curve_of_tensorboard_is_named_by_its_file(name: str, metric: str, tmp_path: Path) -> None:
    text = "Wall time,Step,Value\n1700000000.5,5,0.5\n"
    assert rows_of(given_by(tmp_path, text, name=name)) == {"a/one": ({"step": 5.0, metric: 0.5},)}


def test_the_run_in_a_tensorboard_files_name_tells_which_of_several(tmp_path: Path) -> None:
    text = "Wall time,Step,Value\n1700000000.5,5,0.5\n"
    assert set(rows_of(given_by(tmp_path, text, *TWO, name="run-two-tag-loss.csv"))) == {"a/two"}
    with pytest.raises(ArchiveError, match="which of 2 runs"):
        given_by(tmp_path, text, *TWO, name="run-other-tag-loss.csv")


def test_keras_counts_epochs(tmp_path: Path) -> None:
    text = "epoch,accuracy,loss,val_loss\n0,0.5,1.5,1.75\n1,0.75,1.25,1.5\n"
    rows = rows_of(given_by(tmp_path, text, Target("a/one", "epoch")))["a/one"]
    assert rows[1] == {"step": 1.0, "accuracy": 0.75, "loss": 1.25, "val_loss": 1.5}
    with pytest.raises(
        ArchiveError, match=r"line 2: a/one counts steps, and the line has no step .* Add a column 'step'"
    ):
        given_by(tmp_path, text)


def test_between_epochs_a_run_that_counts_epochs_has_no_place(tmp_path: Path) -> None:
    log = [{"step": 25 * i, "epoch": i / 2, "loss": 1.0 / (1 + i)} for i in range(1, 5)]
    logs = given_by(tmp_path, json.dumps({"log_history": log}), Target("a/one", "epoch"), name="trainer_state.json")
    assert [row["step"] for row in rows_of(logs)["a/one"]] == [1, 2]
    assert [note.partition(": ")[2] for note in logs.notes] == [
        "2 lines between whole epochs are left out, first line 1"
    ]


def test_columns_of_words_are_left_out_and_named(tmp_path: Path) -> None:
    text = (
        "step,loss,phase,host,is_best,date,clock\n5,0.5,train,node-1,True,2024-01-01,10:00:01\n10,0.25,val,node-2,,,\n"
    )
    logs = given_by(tmp_path, text)
    assert rows_of(logs)["a/one"] == SAME
    assert [note.partition(": ")[2] for note in logs.notes] == [
        f"column {name!r} holds no numbers and is left out" for name in ("clock", "host", "is_best", "phase")
    ]
    archive = with_metrics(Archive("a", tmp_path, (Run("a/one", tmp_path, ()),)), [(None, tmp_path / "log.csv")])
    assert archive.hints == logs.notes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('step,loss\n1,"0,5"\n', "line 2, column 'loss': '0,5' is not a number; write decimals with a point"),
        ("step,acc\n1,85%\n", "line 2, column 'acc': '85%' is not a number; write a number, or leave the cell empty"),
        ("step;loss\n1;1.000,5\n", "line 2, column 'loss': '1.000,5' is not a number"),
        ("Run,Step,loss\n,1,1\n", "line 2, column 'Run': it is empty; name the run"),
        ("step,loss\n1,2,3\n", "3 cells, and the first line names 2 columns; quote cells"),
        (b"step,loss\xe9\n1,2\n", "not a readable CSV.*save it as UTF-8"),
        ('{"step": 1, "loss": ', "not valid JSON"),
        ('{"step": 1, "loss": 2}\n{"step": 2, "loss"', "line 2: not valid JSON"),
        ("[1, 2]", r"entry 1: 1 is no entry; expected a list of entries"),
        ('{"log_history": 5}', "'log_history' is 5; expected"),
        ('[{"loss": 2}]', "no column 'step'.*it has: loss"),
    ],
)
def test_what_cannot_be_used_is_named_with_the_way_out(text: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=rf"log\.csv.*{message}"):
        given_by(tmp_path, text)


@settings(deadline=None, max_examples=25)
@given(
    rows=st.lists(st.tuples(st.integers(0, 2**40), st.floats(allow_nan=False)), min_size=1, max_size=5),
    delimiter=st.sampled_from([",", ";", "\t"]),
    decimal=st.sampled_from([".", ","]),
)
def test_any_number_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, float]], delimiter: str, decimal: str
) -> None:
    point = "." if delimiter == "," else decimal
    text = f"step{delimiter}loss\n" + "".join(f"{s}{delimiter}{repr(v).replace('.', point)}\n" for s, v in rows)
    read = rows_of(given_by(tmp_path_factory.mktemp("log"), text))["a/one"]
    assert [(row["step"], row["loss"]) for row in read] == rows


def test_entries_with_names_of_their_own_take_memory_in_proportion(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text("".join(f'{{"step": {i}, "k{i}": 0.5}}\n' for i in range(1500)))
    tracemalloc.start()
    read = read_metrics(log)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(read.lines) == 1500 and read.lines[7].values == {"step": 7.0, "k7": 0.5}
    assert peak < 20e6, peak
