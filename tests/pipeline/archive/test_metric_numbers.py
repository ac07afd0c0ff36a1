"""Loss and scores beside the weights of a torch file become metrics of the run at the checkpoint's step."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pipeline.archive.folders import only_run, weights


def metrics_of(folder: Path, beside: dict[str, Any]) -> dict[str, float]:
    """What a checkpoint's dict tells, weights under "model"."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"model": weights(), **beside}, folder / "step_30.pt")
    run = only_run(folder)
    return {name: value for row in run.metrics for name, value in row.items() if name != "step"}


@pytest.mark.parametrize("legacy", [False, True])
def test_scalars_of_any_type_are_metrics_at_the_checkpoints_step(tmp_path: Path, legacy: bool) -> None:
    beside = {
        "loss": 0.5,
        "val_loss": np.float32(0.25),
        "acc": torch.tensor(0.75),
        "half": torch.tensor(0.125, dtype=torch.bfloat16),
        "best_acc": 91,
        "reward": torch.tensor(-3),
        "f1": np.float64(math.nan),
        "epoch": 3,
    }
    (tmp_path / "run").mkdir()
    for step in (10, 20):
        path = tmp_path / "run" / f"step_{step}.pt"
        torch.save({"model": weights(), **beside}, path, _use_new_zipfile_serialization=not legacy)
    run = only_run(tmp_path)
    assert [row["step"] for row in run.metrics] == [10, 20]
    row = dict(run.metrics[0])
    assert math.isnan(row.pop("f1"))
    assert row == {
        "step": 10, "loss": 0.5, "val_loss": 0.25, "acc": 0.75, "half": 0.125, "best_acc": 91, "reward": -3
    }  # fmt: skip
    assert set(run.metric_sources.values()) == {"checkpoint"}


def test_counts_settings_and_training_state_are_no_metrics(tmp_path: Path) -> None:
    beside = {
        "global_step": 30, "epoch": 2.0, "seed": 1, "lr": 1e-3, "learning_rate": 1e-3, "version": 1.0, "flag": True,
        "loss_scale": 65536.0, "accumulation_steps": 4, "ema_decay": 0.999, "wall_time": 3.5, "tokens": 1e9,
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
        "scheduler": {"best": 0.5, "last_epoch": 3, "loss": 1.0},
        "args": {"loss": 0.5, "dropout": 0.1}, "losses": [0.5, 0.25], "note": "loss", "acc": torch.ones(3),
    }  # fmt: skip
    assert metrics_of(tmp_path / "run", beside) == {}


def test_dicts_of_results_are_looked_into(tmp_path: Path) -> None:
    beside = {
        "metrics": {"loss": 0.5, "step": 7},
        "val": {"acc": 0.75},
        "loss": {"train": 0.5, "test": torch.tensor(0.25)},
    }
    assert metrics_of(tmp_path / "run", beside) == {"loss": 0.5, "val_acc": 0.75, "loss_train": 0.5, "loss_test": 0.25}


def test_a_scalar_of_the_model_is_no_metric_and_a_loss_beside_bare_weights_is(tmp_path: Path) -> None:
    inside = {**weights(), "logit_scale": torch.tensor(2.5)}
    (tmp_path / "a").mkdir()
    torch.save({"model": inside, "loss": 0.5}, tmp_path / "a" / "step_1.pt")
    torch.save({**inside, "loss": 0.25}, tmp_path / "a" / "step_2.pt")
    assert only_run(tmp_path).metrics == ({"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25})


@settings(deadline=None, max_examples=40)
@given(
    split=st.sampled_from(["", "val_", "test/", "best_", "train-"]),
    word=st.sampled_from(["loss", "acc", "accuracy", "f1", "perplexity", "bleu", "mIoU", "reward", "error_rate"]),
    whole=st.booleans(),
)
def test_names_of_results_are_known_with_any_split(
    tmp_path_factory: pytest.TempPathFactory, split: str, word: str, whole: bool
) -> None:
    value: float = 7 if whole else 0.5
    assert metrics_of(tmp_path_factory.mktemp("any") / "run", {split + word: value}) == {split + word: value}


def test_arrays_of_one_number_and_results_two_levels_deep_are_metrics(tmp_path: Path) -> None:
    beside = {
        "f1": np.array(0.25),
        "top1": np.array([[51.0]]),
        "many": np.arange(3.0),
        "metrics": {"val": {"loss": 0.5, "deep": {"acc": 1.0}}, "train": {"loss": 0.125, "lr": 0.1}},
        "extra_state": {"best_loss": 4.0, "best": 3.0, "train_iterator": {"loss": 1.0}},
        "config": {"error": 0.5},
    }
    assert metrics_of(tmp_path / "run", beside) == {
        "f1": 0.25, "top1": 51.0, "val_loss": 0.5, "best_loss": 4.0, "train_loss": 0.125
    }  # fmt: skip
