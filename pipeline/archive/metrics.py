"""What a run logged: rows of numbers with their step, and the file that each metric is from. The Hugging Face Trainer
writes them to `trainer_state.json`; other training loops to the checkpoints, or to files that the user names
(`metrics_csv`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analyzers.errors import ArchiveError
from pipeline.archive.guarded import boundary, short
from pipeline.archive.jsonfile import read_json
from pipeline.archive.text import visible

STATE_FILE = "trainer_state.json"

IN_CHECKPOINTS = "checkpoint"
"""The source of metrics that stood beside the weights."""


@dataclass(frozen=True)
class Log:
    """Rows of a run's numbers, each with its "step", and the source of each metric by name: files' names."""

    rows: tuple[Mapping[str, float], ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)

    def __add__(self, other: Log) -> Log:
        """Both logs; of a number that both have at a step the other one's counts."""
        sources = dict(self.sources)
        for name, source in other.sources.items():
            known = sources.get(name, "").split(", ")
            sources[name] = ", ".join(filter(None, (*known, "" if source in known else source)))
        return Log((*self.rows, *other.rows), sources)

    @staticmethod
    def of(rows: Iterable[Mapping[str, float]], source: str) -> Log:
        """Rows that are all of one source."""
        kept = tuple(row for row in rows if len(row) > 1)
        return Log(kept, {name: source for row in kept for name in row if name != "step"})


@dataclass(frozen=True)
class TrainerState:
    """`step` when it was written, `last_step` that the training aimed at, the best checkpoint's folder, log rows."""

    step: int
    last_step: int | None = None
    best: str | None = None
    rows: tuple[Mapping[str, float], ...] = field(default=(), repr=False)


def read_trainer_state(folder: Path) -> TrainerState | None:
    """The state beside a checkpoint, None when there is none. ArchiveError when it is damaged."""
    path = folder / STATE_FILE
    if not path.is_file():
        return None
    with boundary(path):
        return _state(path, read_json(path))


def _state(path: Path, state: Mapping[str, Any]) -> TrainerState:
    step, last, best = state.get("global_step"), state.get("max_steps"), state.get("best_model_checkpoint")
    if type(step) is not int or not 0 <= step < 2**62:
        raise ArchiveError(f"{path}: global_step is {short(step)}, not a whole number")
    log = state.get("log_history")
    rows = (_row(entry) for entry in (log if isinstance(log, list) else ()))
    return TrainerState(
        step,
        last if type(last) is int and step <= last < 2**62 else None,
        Path(best[:4096]).name if isinstance(best, str) else None,
        tuple(row for row in rows if "step" in row),
    )


def _row(entry: Any) -> dict[str, float]:
    """The numbers of one row of the log; NaN and infinities stay."""
    if not isinstance(entry, dict):
        return {}
    numbers = {visible(key): value for key, value in entry.items() if type(value) in (int, float)}
    # JSON's whole numbers have no limit, float64 has.
    return {key: float(value) for key, value in numbers.items() if type(value) is float or abs(value) < 2**1000}


def merge_rows(states: Iterable[TrainerState]) -> tuple[Mapping[str, float], ...]:
    """One log of a run from its states in order of step: each holds all rows so far, a later one wins.

    Rows of one step that name different things (loss, eval_loss) stay apart.
    """
    merged: dict[tuple[float, frozenset[str]], Mapping[str, float]] = {}
    for state in sorted(states, key=lambda state: state.step):
        merged.update({(row["step"], frozenset(row)): row for row in state.rows})
    return tuple(merged[key] for key in sorted(merged, key=lambda key: (key[0], sorted(key[1]))))
