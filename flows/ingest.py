"""The flow `ingest`: one Prefect task per checkpoint."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows import common
from flows.prefect_runner import PrefectRunner, errors_as_text
from pipeline.analysis import driver
from pipeline.analysis.events import Listener
from pipeline.analysis.outcome import Ingested
from pipeline.analysis.request import AnalysisRequest
from pipeline.analysis.resolve import ArchiveSource


def ingest(source: ArchiveSource, request: AnalysisRequest, tell: Listener) -> Ingested:
    """Brings new and changed checkpoints into the store, as a flow whose parameter is the request."""

    @flow(**common.settings("ingest"))
    def ingest_flow(options: dict[str, Any]) -> Ingested:
        with errors_as_text():
            return driver.ingest_only(source, request, PrefectRunner(), tell)

    return ingest_flow(request.model_dump(mode="json"))
