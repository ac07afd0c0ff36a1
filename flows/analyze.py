"""The flow `analyze`: one Prefect task per checkpoint to ingest, per batch of groups, per analyzer to derive."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows import common
from flows.cli.words import summary
from flows.prefect_runner import PrefectRunner, errors_as_text
from pipeline.analysis import driver
from pipeline.analysis.events import Listener
from pipeline.analysis.outcome import Outcome
from pipeline.analysis.resolve import Resolved


def analyze(resolved: Resolved, tell: Listener) -> Outcome:
    """Ingests, computes what is missing, writes the report, as a flow whose parameter is the request."""

    @flow(**common.settings("analyze"))
    def analyze_flow(options: dict[str, Any]) -> Outcome:
        with errors_as_text():
            outcome = driver.analyze(resolved, PrefectRunner(), tell)
        common.leave_artifact("varve-analyze", summary.markdown(outcome))
        return outcome

    return analyze_flow(resolved.request.model_dump(mode="json"))
