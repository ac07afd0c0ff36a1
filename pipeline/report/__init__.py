"""From what a store holds to a report: an xarray DataTree, its files, its exports and one HTML page.

The names below are loaded when first used, so that listing an archive or exporting a report stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "StoreView": "view",
    "assemble": "assembly",
    "derive": "assembly",
    "save": "files",
    "load": "files",
    "verify_report": "files",
    "export": "exports",
    "write_html": "html",
}

__all__ = ["StoreView", "assemble", "derive", "export", "load", "save", "verify_report", "write_html"]


def __getattr__(name: str) -> Any:
    """Imports the module that holds `name` on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
