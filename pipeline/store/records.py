"""What the store says of a run and of a checkpoint: frozen data, with their JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pipeline.archive.metrics import Log
from pipeline.archive.recipes import Recipe, from_json, to_json
from pipeline.archive.types import FileStamp, Layout, MatrixSpec, Problem, TensorHeader, Unmeasured

_ABSENT = "-" * 32


@dataclass(frozen=True)
class RunRecord:
    """A run as the store knows it. `base` ("run@step") and `base_kind` are what it is compared with by default.

    `metrics` are what the run itself logged, `given` what the user gave for it; that stays until it is replaced.
    `notes` say what was left out of it on purpose: optimizer states, a second copy of the same weights.
    `archive_notes` say that of its archive, where it concerns no single run.
    """

    id: str
    role: Literal["run", "base"] = "run"
    adapter: bool = False
    base: str | None = None
    base_kind: str | None = None
    metrics: tuple[Mapping[str, float], ...] = ()
    source: str = ""
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    archive_notes: tuple[str, ...] = ()
    metric_sources: Mapping[str, str] = field(default_factory=dict)
    given: Log = field(default_factory=Log)

    @property
    def log(self) -> Log:
        """What the run logged, and above that what the user gave."""
        return Log(self.metrics, self.metric_sources) + self.given

    def to_json(self) -> dict[str, Any]:
        """Plain data, the inverse of `from_json`."""
        return {
            "varve": "run",
            "id": self.id,
            "role": self.role,
            "adapter": self.adapter,
            "base": self.base,
            "base_kind": self.base_kind,
            "metrics": [dict(row) for row in self.metrics],
            "metric_sources": dict(self.metric_sources),
            "given_metrics": [dict(row) for row in self.given.rows],
            "given_sources": dict(self.given.sources),
            "source": self.source,
            "problems": [problem_to_json(problem) for problem in self.problems],
            "notes": list(self.notes),
            "archive_notes": list(self.archive_notes),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> RunRecord:
        """The record that `to_json` wrote."""
        return RunRecord(
            data["id"],
            data["role"],
            data["adapter"],
            data["base"],
            data["base_kind"],
            tuple(data["metrics"]),
            data["source"],
            tuple(Problem(**problem) for problem in data["problems"]),
            tuple(data.get("notes", ())),  # absent in the first stores
            tuple(data.get("archive_notes", ())),  # absent where all runs had the archive's notes
            data.get("metric_sources", {}),  # absent in older stores
            Log(tuple(data.get("given_metrics", ())), data.get("given_sources", {})),
        )


@dataclass(frozen=True)
class Container:
    """Where the bytes of some tensors are: `kind` "array" (tensors/<digest>), or "pack" (packs/<name>).

    `tensors` are indices into the layout's; of a pack, `offsets` and `nbytes` say which bytes are whose. A later kind
    can name an original file in the same way.
    """

    kind: str
    name: str
    tensors: tuple[int, ...]
    offsets: tuple[int, ...] = ()
    nbytes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Alias:
    """Another place in the archive that holds the same weights (a Trainer's output root beside its last checkpoint)."""

    source: str
    files: tuple[FileStamp, ...]


@dataclass(frozen=True)
class CheckpointRecord:
    """A checkpoint in the store. `digests` follow the layout's tensors (None: it could not be read).

    `places` say where their bytes are; `tied` are groups of tensors (indices) that shared one storage in the file.
    `revision` counts how often this step was rewritten in the archive, and `source_gone` tells that it was deleted
    there. `not_finite` are tensors (indices) that hold NaN or infinity. `sketch` (`pipeline.store.sketches`) is empty
    where a tensor is missing or not finite. `step_unit` is what the step counts: "step", "epoch" or "episode". Records
    of the first stores have none of the three.
    """

    run: str
    step: int
    revision: int
    layout: str
    digests: tuple[str | None, ...]
    places: tuple[Container, ...]
    files: tuple[FileStamp, ...]
    source: str
    format: str
    step_source: Literal["metadata", "name", "catalog", "none"] = "name"
    kind: Literal["full", "adapter"] = "full"
    config: Mapping[str, Any] = field(default_factory=dict)
    adapter: Mapping[str, Any] | None = None
    problems: tuple[Problem, ...] = ()
    source_gone: bool = False
    aliases: tuple[Alias, ...] = ()
    ingested: str = ""
    tied: tuple[tuple[int, ...], ...] = ()
    not_finite: tuple[int, ...] = ()
    sketch: str = ""
    step_unit: str = "step"

    def to_json(self) -> dict[str, Any]:
        """Plain data, the inverse of `from_json`; digests joined, so that it stays small."""
        return {
            "varve": "checkpoint",
            "run": self.run,
            "step": self.step,
            "revision": self.revision,
            "layout": self.layout,
            "digests": "".join(digest or _ABSENT for digest in self.digests),
            "places": [asdict(container) for container in self.places],
            "files": _files_to_json(self.files),
            "source": self.source,
            "format": self.format,
            "step_source": self.step_source,
            "kind": self.kind,
            "config": self.config,
            "adapter": self.adapter,
            "problems": [problem_to_json(problem) for problem in self.problems],
            "source_gone": self.source_gone,
            "aliases": [{"source": alias.source, "files": _files_to_json(alias.files)} for alias in self.aliases],
            "ingested": self.ingested,
            "tied": [list(group) for group in self.tied],
            "not_finite": list(self.not_finite),
            "sketch": self.sketch,
            "step_unit": self.step_unit,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> CheckpointRecord:
        """The record that `to_json` wrote."""
        joined = data["digests"]
        digests = [joined[at : at + 32] for at in range(0, len(joined), 32)]
        return CheckpointRecord(
            data["run"],
            data["step"],
            data["revision"],
            data["layout"],
            tuple(None if digest == _ABSENT else digest for digest in digests),
            tuple(_container(place) for place in data["places"]),
            _files_from_json(data["files"]),
            data["source"],
            data["format"],
            data["step_source"],
            data["kind"],
            data["config"],
            data["adapter"],
            tuple(Problem(**problem) for problem in data["problems"]),
            data["source_gone"],
            tuple(Alias(alias["source"], _files_from_json(alias["files"])) for alias in data["aliases"]),
            data["ingested"],
            tuple(tuple(group) for group in data.get("tied", ())),  # absent in the first stores
            tuple(data.get("not_finite", ())),
            data.get("sketch", ""),
            data.get("step_unit", "step"),
        )


@dataclass(frozen=True)
class BoundMatrix:
    """A matrix of one stored checkpoint: its identity, its recipe by digests, and the recipe's key."""

    spec: MatrixSpec
    recipe: Recipe
    key: str


def layout_to_json(layout: Layout) -> dict[str, Any]:
    """Plain data, the inverse of `layout_from_json`."""
    return {
        "tensors": [[t.name, t.dtype, list(t.shape), t.nbytes] for t in layout.tensors],
        "matrices": [
            {
                "name": m.name,
                "shape": list(m.shape),
                "recipe": to_json(m.recipe),
                "layer": m.layer,
                "kind": m.kind,
                "role": m.role,
                "dtype": m.dtype,
                "orientation": m.orientation,
            }
            for m in layout.matrices
        ],
        "unmeasured": [[u.tensor, u.reason] for u in layout.unmeasured],
    }


def layout_from_json(data: Mapping[str, Any]) -> Layout:
    """The layout that `layout_to_json` wrote."""
    return Layout(
        tuple(TensorHeader(name, dtype, tuple(shape), nbytes) for name, dtype, shape, nbytes in data["tensors"]),
        tuple(
            MatrixSpec(**{**matrix, "shape": tuple(matrix["shape"]), "recipe": from_json(matrix["recipe"])})
            for matrix in data["matrices"]
        ),
        tuple(Unmeasured(tensor, reason) for tensor, reason in data["unmeasured"]),
    )


def problem_to_json(problem: Problem) -> dict[str, Any]:
    """Plain data; `Problem(**data)` reads it."""
    return {"path": problem.path, "reason": problem.reason, "tensor": problem.tensor, "hint": problem.hint}


def _files_to_json(files: tuple[FileStamp, ...]) -> list[list[Any]]:
    return [[stamp.path, stamp.size, stamp.mtime_ns] for stamp in files]


def _files_from_json(data: list[list[Any]]) -> tuple[FileStamp, ...]:
    return tuple(FileStamp(*stamp) for stamp in data)


def _container(data: Mapping[str, Any]) -> Container:
    return Container(data["kind"], data["name"], tuple(data["tensors"]), tuple(data["offsets"]), tuple(data["nbytes"]))
