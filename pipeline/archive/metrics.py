"""What the Hugging Face Trainer logged: `trainer_state.json`, its step and its rows of loss and metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analyzers.errors import ArchiveError
from pipeline.archive.guarded import boundary, short
from pipeline.archive.jsonfile import read_json

STATE_FILE = "trainer_state.json"


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
    numbers = {key: value for key, value in entry.items() if type(value) in (int, float)}
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
