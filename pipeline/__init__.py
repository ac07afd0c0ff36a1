"""How data moves: archive → store → statistics → report, as a library for notebooks and scripts.

import pipeline
store = pipeline.ingest("runs/", "S.zarr")
pipeline.compute(store)
pipeline.write_report(pipeline.assemble(store), "out/")
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pipeline import compute as compute_room

if TYPE_CHECKING:
    from pipeline.api import assemble, ingest, scan, write_report

_NAMES = ("assemble", "ingest", "scan", "write_report")
__all__ = ["assemble", "compute", "ingest", "scan", "write_report"]


class _ComputeRoom(ModuleType):
    """The room `pipeline.compute` has the verb's name: called, it is `pipeline.api.compute`, whichever was imported
    first."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return import_module("pipeline.api").compute(*arguments, **options)


compute_room.__class__ = _ComputeRoom


def __getattr__(name: str) -> Any:
    # Loaded on first use: `import pipeline` must not cost what one room needs.
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("pipeline.api"), name)
