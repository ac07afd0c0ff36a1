"""The store: `Store.open(path)`, `ingest_checkpoint`, `record_run`, `verify`. Importing this costs no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.store.cache import DiskCache
    from pipeline.store.failures import Failure
    from pipeline.store.ingest import ingest_checkpoint, mark_gone, record_run
    from pipeline.store.records import BoundMatrix, CheckpointRecord, RunRecord
    from pipeline.store.repairs import repair
    from pipeline.store.statistics import ResultReference, StatisticTable, read_references
    from pipeline.store.store import Store
    from pipeline.store.verification import verify

_NAMES = {
    "BoundMatrix": "records",
    "CheckpointRecord": "records",
    "DiskCache": "cache",
    "Failure": "failures",
    "ResultReference": "statistics",
    "RunRecord": "records",
    "StatisticTable": "statistics",
    "Store": "store",
    "ingest_checkpoint": "ingest",
    "mark_gone": "ingest",
    "read_references": "statistics",
    "record_run": "ingest",
    "repair": "repairs",
    "unchecked": "verification",
    "verify": "verification",
}
__all__ = [
    "BoundMatrix",
    "CheckpointRecord",
    "DiskCache",
    "Failure",
    "ResultReference",
    "RunRecord",
    "StatisticTable",
    "Store",
    "ingest_checkpoint",
    "mark_gone",
    "read_references",
    "record_run",
    "repair",
    "unchecked",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_NAMES[name]}"), name)
