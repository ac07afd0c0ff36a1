"""A folder → runs → checkpoints → lazy tensors, their canonical names and matrices.

archive = open_archive("runs/")
with open_tensors(archive.runs[0].checkpoints[-1]) as tensors:
    weight = tensors.read("encoder.layer.0.attention.self.query.weight")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.archive.bases import ResolvedBase, resolve_base
    from pipeline.archive.circuits import circuits
    from pipeline.archive.discover import open_archive, require_runs
    from pipeline.archive.layout import describe
    from pipeline.archive.reader import TensorReader, open_tensors
    from pipeline.archive.types import Archive, Checkpoint, Layout, MatrixSpec, Problem, Run, TensorHeader

# Looked up when first asked for: `import pipeline.archive` stays free of what one caller does not need.
_HOMES = {
    "Archive": "types",
    "Checkpoint": "types",
    "Layout": "types",
    "MatrixSpec": "types",
    "Problem": "types",
    "ResolvedBase": "bases",
    "Run": "types",
    "TensorHeader": "types",
    "TensorReader": "reader",
    "circuits": "circuits",
    "describe": "layout",
    "open_archive": "discover",
    "open_tensors": "reader",
    "require_runs": "discover",
    "resolve_base": "bases",
}

__all__ = [
    "Archive",
    "Checkpoint",
    "Layout",
    "MatrixSpec",
    "Problem",
    "ResolvedBase",
    "Run",
    "TensorHeader",
    "TensorReader",
    "circuits",
    "describe",
    "open_archive",
    "open_tensors",
    "require_runs",
    "resolve_base",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
