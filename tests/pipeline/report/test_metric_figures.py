"""Losses and scores stand open on the page; speed, cost and schedules are folded away."""

from __future__ import annotations

import pytest

from pipeline.report.metric_figures import sort_of


@pytest.mark.parametrize(
    "name",
    [
        "loss",
        "train_loss",
        "eval_loss",
        "val/loss",
        "evalLoss",
        "eval_accuracy",
        "acc",
        "test_acc",
        "f1",
        "eval_rougeL",
        "perplexity",
        "mean_reward",
        "rollout/ep_rew_mean_score",
        "energy_loss",
        "time_error",
        "eval_top5",
        "val_anything",
        "top1",
    ],
)
def test_what_says_how_good_a_model_is_stands_open(name: str) -> None:
    assert sort_of(name) == "result"


@pytest.mark.parametrize(
    "name",
    [
        "eval_samples_per_second",
        "eval_steps_per_second",
        "train_samples_per_second",
        "eval_runtime",
        "train_runtime",
        "total_flos",
        "time/fps",
        "time_per_step",
        "tokens_per_sec",
        "throughput",
        "gpu_memory",
        "evalRuntime",
        "train/step_time_ms",
        "max_memory_allocated",
        "perf/mfu",
        "system.cpu",
        "tokens/s",
    ],
)
def test_what_says_what_training_took_is_folded_away(name: str) -> None:
    assert sort_of(name) == "cost"


@pytest.mark.parametrize("name", ["learning_rate", "lr", "epoch", "grad_norm", "num_input_tokens_seen", "momentum"])
def test_schedules_are_neither(name: str) -> None:
    assert sort_of(name) == "other"
