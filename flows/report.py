"""The flow `report`: one Prefect task per analyzer to derive."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows import analysis, common
from flows.options import AnalyzeOptions
from flows.reporting import Written
from flows.running import PrefectRunner, errors_as_text


@flow(**common.settings("report"))
def report_flow(options: dict[str, Any], runs: list[str] | None = None) -> Written:
    """Derives and assembles the report anew. `runs`: globs on run ids; None for all."""
    with errors_as_text():
        return analysis.report_only(AnalyzeOptions(**options), runs, PrefectRunner())
