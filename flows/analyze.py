"""The flow `analyze`: one Prefect task per checkpoint to ingest, per batch of groups, per analyzer to derive."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows import analysis, common, summary
from flows.options import AnalyzeOptions
from flows.running import PrefectRunner, errors_as_text


@flow(**common.settings("analyze"))
def analyze_flow(options: dict[str, Any]) -> analysis.Outcome:
    """Ingests, computes what is missing, writes the report. `options`: the fields of `AnalyzeOptions`."""
    with errors_as_text():
        outcome = analysis.analyze(AnalyzeOptions(**options), PrefectRunner())
    common.leave_artifact("varve-analyze", summary.markdown(outcome))
    return outcome
