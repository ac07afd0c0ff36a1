"""How data moves: archive → store → statistics → report, as a library for notebooks and scripts.

import pipeline
store = pipeline.ingest("runs/", "S.zarr")
pipeline.compute(store)
pipeline.write_report(pipeline.assemble(store), "out/")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.api import assemble, compute, ingest, scan, write_report

_NAMES = ("assemble", "compute", "ingest", "scan", "write_report")
__all__ = ["assemble", "compute", "ingest", "scan", "write_report"]


def __getattr__(name: str) -> Any:
    # Loaded on first use: `import pipeline` must not cost what one room needs.
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("pipeline.api"), name)
