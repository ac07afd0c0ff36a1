"""varve in a notebook or a script:

    import varve
    report = varve.analyze("runs/", out="out")            # everything: an xarray DataTree
    store = varve.ingest("runs/", "S.zarr")               # or step by step
    varve.compute(store)
    report = varve.assemble(store)
    varve.write_report(report, "out")

This package only names what lives elsewhere; each name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analyzers.errors import VarveError as VarveError
    from flows.cli.notebook import analyze as analyze
    from pipeline.analysis.library import assemble as assemble
    from pipeline.analysis.library import compute as compute
    from pipeline.analysis.library import ingest as ingest
    from pipeline.analysis.library import write_report as write_report
    from pipeline.archive.scan import scan as scan
    from pipeline.report.exports import export as export
    from pipeline.report.files import load as open_report
    from pipeline.store.store import Store as Store

_HOMES = {
    "Store": "pipeline.store.store:Store",
    "VarveError": "analyzers.errors:VarveError",
    "analyze": "flows.cli.notebook:analyze",
    "assemble": "pipeline.analysis.library:assemble",
    "compute": "pipeline.analysis.library:compute",
    "export": "pipeline.report.exports:export",
    "ingest": "pipeline.analysis.library:ingest",
    "open_report": "pipeline.report.files:load",
    "scan": "pipeline.archive.scan:scan",
    "write_report": "pipeline.analysis.library:write_report",
}

__all__ = [
    "Store", "VarveError", "analyze", "assemble", "compute", "export", "ingest", "open_report", "scan", "write_report",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Imports the module that holds `name` on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'varve' has no attribute {name!r}; it has: {', '.join(__all__)}")
    from varve.command import check_not_shadowed

    check_not_shadowed()
    module, _, attribute = _HOMES[name].partition(":")
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
