"""The flow `ingest`: one Prefect task per checkpoint."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows import analysis, common
from flows.options import AnalyzeOptions
from flows.running import PrefectRunner, errors_as_text


@flow(**common.settings("ingest"))
def ingest_flow(options: dict[str, Any]) -> analysis.Ingested:
    """Brings new and changed checkpoints into the store. `options`: the fields of `AnalyzeOptions`."""
    with errors_as_text():
        return analysis.ingest_only(AnalyzeOptions(**options), PrefectRunner())
