"""What an archive holds, as plain frozen data: runs, checkpoints, tensors' headers, and what was wrong.

Tensors travel between the archive and the store as numpy arrays; bfloat16 and float8 are ml_dtypes dtypes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.archive.recipes import Recipe
from pipeline.archive.text import encodable, visible

if TYPE_CHECKING:
    from pipeline.archive.metrics import Log


@dataclass(frozen=True)
class FileStamp:
    """A source file is unchanged when its path (relative to the archive), size and mtime are."""

    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class TensorHeader:
    """A tensor as its file's header tells: `dtype` is torch's name ("bfloat16", "float8_e4m3fn", "float32", ...)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", visible(self.name))


@dataclass(frozen=True)
class Problem:
    """Something that could not be read or measured: which file, which tensor, why, and the way out."""

    path: str
    reason: str
    tensor: str | None = None
    hint: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", visible(self.path))
        object.__setattr__(self, "reason", encodable(self.reason))
        if self.tensor is not None:
            object.__setattr__(self, "tensor", visible(self.tensor))

    def __str__(self) -> str:
        where = f"{self.path}: {self.tensor}" if self.tensor else self.path
        return f"{where}: {self.reason}" + (f" ({self.hint})" if self.hint else "")


@dataclass(frozen=True)
class MatrixSpec:
    """One matrix of a checkpoint: canonical identity and how it is cut from tensors (`recipe`, by tensor name)."""

    name: str
    shape: tuple[int, int]
    recipe: Recipe
    layer: int | None = None
    kind: str = "linear"
    role: str = "weight"
    dtype: str = "float32"
    orientation: str = "out_in"


@dataclass(frozen=True)
class Unmeasured:
    """A tensor that yields no matrix, and why: nothing is silent."""

    tensor: str
    reason: str


@dataclass(frozen=True)
class Layout:
    """How a checkpoint's tensors become matrices. Checkpoints of one run share it, and the store keeps it once."""

    tensors: tuple[TensorHeader, ...]
    matrices: tuple[MatrixSpec, ...]
    unmeasured: tuple[Unmeasured, ...] = ()


@dataclass(frozen=True)
class Checkpoint:
    """What a run saved at one step. Made from headers only; `pipeline.archive.open_tensors` reads values.

    `path` is the file that is opened: the weights, or the index of their shards. `files` are all that it is made of,
    its configs included. `notes` says what was left on purpose (optimizer states, a scheduler): nothing went wrong.
    `kind` "adapter" has `adapter` (the parsed adapter_config.json). `step_source`: "metadata", "name", "catalog",
    or "none" for a lone checkpoint (step 0); `step_unit`: "step", "epoch" or "episode". `config` is the model's
    config.json, empty when there is none.
    """

    run: str
    step: int
    step_source: Literal["metadata", "name", "catalog", "none"]
    path: Path
    format: str
    files: tuple[FileStamp, ...]
    tensors: tuple[TensorHeader, ...]
    kind: Literal["full", "adapter"] = "full"
    config: Mapping[str, Any] = field(default_factory=dict)
    adapter: Mapping[str, Any] | None = None
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    step_unit: str = "step"

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(t.nbytes for t in self.tensors)


@dataclass(frozen=True)
class Run:
    """One training run. `metrics` are rows of its own log ({"step": 30, "loss": 0.4, ...}), `metric_sources` metric →
    the file that it is from: trainer_state.json, or "checkpoint". `given` is the log that the user gives now."""

    id: str
    path: Path
    checkpoints: tuple[Checkpoint, ...]
    role: Literal["run", "base"] = "run"
    metrics: tuple[Mapping[str, float], ...] = ()
    metric_sources: Mapping[str, str] = field(default_factory=dict)
    given: Log | None = None


@dataclass(frozen=True)
class Archive:
    """A folder tree of runs. `problems` lists every file that looked like a checkpoint and could not be read;
    `notes` what was left on purpose (optimizer files, a second copy of the same weights); `others` counts, by suffix,
    the files that hold no weights; `hints` are the notes to act on, or to know before anything is computed."""

    name: str
    root: Path
    runs: tuple[Run, ...]
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    others: Mapping[str, int] = field(default_factory=dict)
    hints: tuple[str, ...] = ()
