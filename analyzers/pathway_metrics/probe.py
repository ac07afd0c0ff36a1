"""The probe set that is run through a checkpoint: what `Context.models.open` gives for a `Material` of kind "probe"."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

COLUMNS = ("class", "domain", "group")
"""Columns of a probe that samples are grouped by."""

Trace = Mapping[str, np.ndarray]
"""Recorded routing of one checkpoint; the fields are described in `analyzers.pathway_metrics.traces`."""


@dataclass(frozen=True)
class ProbeColumn:
    """One label per sample: `codes` (N,) int64 into `names`; −1 where a sample has none."""

    codes: np.ndarray
    names: tuple[str, ...]

    @staticmethod
    def of(values: np.ndarray) -> ProbeColumn:
        """A column of any values; empty texts and NaN are no label."""
        texts = np.array(["" if v is None or v != v else str(v) for v in np.asarray(values).ravel().tolist()])
        names = [name for name in dict.fromkeys(sorted(texts.tolist(), key=_natural)) if name]
        at = {name: code for code, name in enumerate(names)}
        return ProbeColumn(np.array([at.get(text, -1) for text in texts.tolist()], dtype=np.int64), tuple(names))


def _natural(text: str) -> tuple[int, float, str]:
    try:
        return (0, float(text), text)
    except ValueError:
        return (1, 0.0, text)


@dataclass(frozen=True)
class Probe:
    """N samples. `inputs`: int64 token ids (N, T), padded, with `lengths` (N,); or, where `tokens` is False, float
    arrays (N, ...) as the model takes them. `labels` (N,) int64: the answer expected at the sample's last place.
    `vocabulary`: how many ids the tokenizer has, None where ids were given.
    `traces`: gives recorded routing of (run, step) instead of any model.
    """

    name: str
    inputs: np.ndarray
    lengths: np.ndarray
    tokens: bool = True
    labels: np.ndarray | None = None
    columns: Mapping[str, ProbeColumn] = field(default_factory=dict)
    batch_size: int = 16
    vocabulary: int | None = None
    padding: int = 0
    traces: Callable[[str, int], Trace | None] | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def batches(self) -> Iterator[np.ndarray]:
        """Positions of samples, `batch_size` of similar length at a time, so that little is padded."""
        order = np.argsort(self.lengths, kind="stable") if self.tokens else np.arange(len(self))
        for start in range(0, len(order), self.batch_size):
            yield order[start : start + self.batch_size]
