"""The log of the Hugging Face Trainer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from analyzers.errors import ArchiveError
from pipeline.archive.metrics import TrainerState, merge_rows, read_trainer_state
from tests.pipeline.archive.folders import write_json


def state(tmp_path: Path, **fields: Any) -> TrainerState:
    write_json(tmp_path / "trainer_state.json", {"global_step": 10, **fields})
    found = read_trainer_state(tmp_path)
    assert found is not None
    return found


def test_rows_keep_their_numbers_and_nothing_else(tmp_path: Path) -> None:
    rows = [{"step": 5, "loss": 0.5, "note": "x", "flag": True, "none": None}, {"loss": 1.0}, "no row"]
    assert state(tmp_path, log_history=rows).rows == ({"step": 5.0, "loss": 0.5},)


def test_a_loss_that_is_nan_stays_nan(tmp_path: Path) -> None:
    (row,) = state(tmp_path, log_history=[{"step": 5, "loss": math.nan, "grad_norm": math.inf}]).rows
    assert math.isnan(row["loss"]) and row["grad_norm"] == math.inf


def test_a_whole_number_beyond_float64_is_dropped(tmp_path: Path) -> None:
    assert state(tmp_path, log_history=[{"step": 5, "huge": 10**400}]).rows == ({"step": 5.0},)


def test_no_state_is_none_and_a_damaged_one_is_an_error(tmp_path: Path) -> None:
    assert read_trainer_state(tmp_path) is None
    for fields in ({"global_step": "7"}, {"global_step": -1}, {"global_step": True}, {}):
        write_json(tmp_path / "trainer_state.json", fields)
        with pytest.raises(ArchiveError, match=r"trainer_state\.json: global_step is"):
            read_trainer_state(tmp_path)


def test_a_resumed_run_keeps_one_row_per_step_and_the_later_one() -> None:
    first = TrainerState(20, rows=({"step": 10.0, "loss": 1.0}, {"step": 20.0, "loss": 0.9}))
    resumed = TrainerState(
        30, rows=({"step": 10.0, "loss": 1.0}, {"step": 20.0, "loss": 0.8}, {"step": 30.0, "loss": 0.7})
    )
    assert [row["loss"] for row in merge_rows([resumed, first])] == [1.0, 0.8, 0.7]


def test_training_and_evaluation_rows_of_one_step_stay_apart() -> None:
    rows = ({"step": 10.0, "loss": 1.0}, {"step": 10.0, "eval_loss": 2.0})
    assert len(merge_rows([TrainerState(10, rows=rows)])) == 2


def test_a_metrics_name_is_visible(tmp_path: Path) -> None:
    rows = [{"step": 5, "l\u202eoss\x1b[0m\n": 0.5}]
    assert state(tmp_path, log_history=rows).rows == ({"step": 5.0, r"l\u202eoss\x1b[0m\x0a": 0.5},)
