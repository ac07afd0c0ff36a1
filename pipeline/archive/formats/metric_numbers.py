"""Loss and scores that a training loop saved beside the weights of a torch file: {"model": ..., "val_loss": 0.41}.

A number is a metric if its name has a word for a result (loss, acc, f1, ...), or if it is of a floating-point type and
its name has no word for a count or a setting (step, seed, lr, version, ...). A name that ends in such a word
(loss_scale, acc_steps) is none. So are truth values, tensors of the weights themselves, and what optimizers, schedulers
and settings keep. Dicts of results ("metrics", "val", {"loss": {"train": ...}}) are looked into, two levels deep; in
any other dict a number counts if its name is a result ({"extra_state": {"val_loss": ...}}).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from pipeline.archive.formats.state import TRAINING_STATE, as_mapping, is_tensor, is_training_state
from pipeline.archive.formats.step_numbers import SETTINGS, numpy_scalar
from pipeline.archive.metric_words import RESULT, words_of

_NO_RESULT = re.compile(
    r"steps?|iters?|iterations?|epochs?|episodes?|updates|timesteps?|samples|tokens|batch(es)?|count|num|n|size|dim|dims|"
    r"seed|version|lrs?|rate|decay|momentum|betas?|eps|epsilon|gamma|alpha|dropout|warmup|scale|scaling|scaler|weights?|"
    r"coef|coeff|factor|ratio|temperature|temp|threshold|patience|wait|mode|interval|freq|every|max|min|std|mean|ema|"
    r"time|timestamp|date|seconds?|hours|world|rank|workers?|param|params|hyperparameters|args?|config|cfg|bits?|k"
)
_STATISTICS = {"max", "min", "mean", "std", "ema", "rate"}
"""Words that may end a result's name: loss_mean, error_rate."""
_GROUP = re.compile(r"metrics?|logs?|logged|results?|scores?|stats|eval|evaluation|valid|validation|val|test|train")
_NAMES_NOTHING = re.compile(r"(?:\w+_)?(?:metrics?|logs?|logged|results?|stats)")
_MOST = 1000
"""More numbers than a training loop logs by hand."""


def metric_numbers(
    values: Mapping[str, Any], tensor_value: Callable[[Any], float | None], weights: Collection[str]
) -> dict[str, float]:
    """Metric → value, for numbers at the top and in dicts of results. `values` stand beside the weights and above them,
    `weights` are the tensors' names; `tensor_value` reads a stored tensor of one number."""
    metrics: dict[str, float] = {}
    for key, value in values.items():
        number = _number(value, tensor_value)
        if number is not None and _is_metric(key, number) and (key not in weights or is_result(key)):
            metrics[key] = float(number)
    for key, value in values.items():
        if key not in weights:
            for name, number in _in_group(key, value, tensor_value, weights).items():
                metrics.setdefault(name, number)
    return metrics


def _in_group(
    key: str, value: Any, tensor_value: Callable[[Any], float | None], weights: Collection[str], depth: int = 0
) -> dict[str, float]:
    """The metrics of a dict beside the weights, and of the dicts of results in it. Their names begin with the key,
    unless it says no more than that these are metrics."""
    entries = as_mapping(value)
    if not entries or len(entries) > _MOST or is_training_state(value) or TRAINING_STATE.search(key):
        return {}
    is_group = _is_group(key)
    if not is_group and (depth or SETTINGS.search(key)):
        return {}
    metrics: dict[str, float] = {}
    for name, entry in entries.items():
        if not isinstance(name, str) or f"{key}.{name}" in weights:
            continue
        number = _number(entry, tensor_value)
        full = name if _NAMES_NOTHING.fullmatch(key) or not is_group else f"{key}_{name}"
        if number is not None and (
            is_result(name)
            or (is_group and (_is_metric(name, number) or (is_result(key) and _is_metric(full, number))))
        ):
            metrics.setdefault(full, float(number))
        elif number is None and is_group and not depth:
            prefix = "" if full == name else f"{key}_"
            for inner, found in _in_group(name, entry, tensor_value, weights, depth + 1).items():
                metrics.setdefault(prefix + inner, found)
    return metrics


def is_result(name: str) -> bool:
    """Whether a name says how good a model is."""
    words = words_of(name)
    if not words or TRAINING_STATE.search(name) or (_NO_RESULT.fullmatch(words[-1]) and words[-1] not in _STATISTICS):
        return False
    return any(RESULT.fullmatch(word) for word in words)


def _is_metric(name: str, number: float) -> bool:
    if is_result(name):
        return True
    words = words_of(name)
    plain = isinstance(number, float) and bool(words) and TRAINING_STATE.search(name) is None
    return plain and not any(_NO_RESULT.fullmatch(word) for word in words)


def _is_group(key: str) -> bool:
    words = words_of(key)
    if not words or TRAINING_STATE.search(key) or not _GROUP.fullmatch(words[-1]):
        return is_result(key)
    return True


def _number(value: Any, tensor_value: Callable[[Any], float | None]) -> float | None:
    """A Python number, or a scalar of numpy or torch; floats stay floats, whole numbers whole."""
    if is_tensor(value):
        value = tensor_value(value)
    elif not isinstance(value, int | float):
        value = numpy_scalar(value)
    if type(value) is float:
        return value
    return value if type(value) is int and abs(value) < 2**1000 else None
