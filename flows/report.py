"""The flow `report`: one Prefect task per analyzer to derive."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows import common
from flows.prefect_runner import PrefectRunner, errors_as_text
from pipeline.analysis import driver
from pipeline.analysis.events import Listener
from pipeline.analysis.outcome import Written
from pipeline.analysis.request import AnalysisRequest


def report(request: AnalysisRequest, runs: list[str] | None, tell: Listener) -> Written:
    """Derives and assembles the report again, as a flow. `runs`: globs on run ids; None for all."""

    @flow(**common.settings("report"))
    def report_flow(options: dict[str, Any], runs: list[str] | None) -> Written:
        with errors_as_text():
            return driver.report_only(request, runs, PrefectRunner(), tell)

    return report_flow(request.model_dump(mode="json"), runs)
