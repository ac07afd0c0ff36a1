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
    from pipeline.analysis.library import assemble, ingest, write_report
    from pipeline.archive.scan import scan

_LIBRARY = "pipeline.analysis.library"
_HOMES = {"assemble": _LIBRARY, "ingest": _LIBRARY, "scan": "pipeline.archive.scan", "write_report": _LIBRARY}
__all__ = ["assemble", "compute", "ingest", "scan", "write_report"]


class _ComputeRoom(ModuleType):
    """The room `pipeline.compute` has the verb's name: called, it is the library's `compute`, whichever was imported
    first."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return import_module(_LIBRARY).compute(*arguments, **options)


compute_room.__class__ = _ComputeRoom


def __getattr__(name: str) -> Any:
    # Loaded on first use: `import pipeline` must not cost what one room needs.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
