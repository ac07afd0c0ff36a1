"""What is kept beside every result: how it was computed, so that each number can be traced."""

from __future__ import annotations

import functools
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from analyzers.contract import Statistic
from pipeline.store.statistics import INPUTS

_DISTRIBUTIONS = ("varve", "torch", "numpy", "scipy")


@functools.lru_cache(maxsize=1)
def software() -> dict[str, str]:
    """Versions of what the numbers depend on; "source" for a varve that is not installed."""
    found = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "source"
    return found


def provenance(statistic: Statistic, device: str, inputs: Mapping[str, str] | None) -> dict[str, Any]:
    """Of the results of one statistic from one device. A unit's seed derives from its key, which is beside it.

    `inputs`: the batches that its input results were read from, with their digests. None where one of these results is
    of an older version: those kept no such record, and did not check what they read.
    """
    return {
        "statistic": statistic.name,
        "version": statistic.version,
        "class": f"{type(statistic).__module__}.{type(statistic).__qualname__}",
        "parameters": statistic.parameters(),
        "extent": statistic.extent,
        "device": device,
        "software": software(),
        **({} if inputs is None else {INPUTS: dict(inputs)}),
    }
