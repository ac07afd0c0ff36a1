"""Controls of the landscape: what the intrinsic dimension would be of something that it must not be the same for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from analyzers.intrinsic_dimension.task import Data, Task

Control = Literal["none", "random_init", "shuffled_labels", "shuffled_inputs"]
CONTROLS: tuple[Control, ...] = ("random_init", "shuffled_labels", "shuffled_inputs")
ORDER_SEED = 20180424
"""One order of the pixels and one shuffle of the labels for all trials, so that they measure one thing."""
MEMORISED = 4096
"""Of shuffled labels the training examples themselves are scored, at most this many."""


@dataclass(frozen=True)
class Splits:
    """The data that a trial uses."""

    train: Data
    tune: Data
    score: Data


def controlled(task: Task, control: Control) -> Splits:
    """The task's splits, changed as the control says.

    shuffled_labels: training labels permuted among the examples; tune and score are two halves of the *training*
    examples, because there is nothing to generalise from (as in 1804.08838). shuffled_inputs: one order of the pixels
    for all splits. random_init changes the model, not the data.
    """
    splits = {name: task.data(name) for name in ("train", "tune", "score")}
    if control == "shuffled_labels":
        train = splits["train"]
        draw = torch.Generator().manual_seed(ORDER_SEED)
        order = torch.randperm(len(train), generator=draw)
        shuffled = Data(train.inputs, train.targets[order])
        chosen = torch.randperm(len(train), generator=draw)[: 2 * MEMORISED]
        half = max(1, len(chosen) // 2)
        return Splits(
            shuffled, shuffled.take(chosen[:half]), shuffled.take(chosen[half:] if len(chosen) > 1 else chosen)
        )
    if control == "shuffled_inputs":
        splits = {name: task.shuffled(data, ORDER_SEED) for name, data in splits.items()}
    return Splits(splits["train"], splits["tune"], splits["score"])


def chance(task: Task, data: Data) -> float:
    """The accuracy of always naming the commonest class of `data`; NaN for a loss."""
    if task.metric != "accuracy":
        return float("nan")
    return float(torch.bincount(data.targets.flatten()).max()) / data.targets.numel()
