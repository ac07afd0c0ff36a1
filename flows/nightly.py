"""The flow `nightly`: what a schedule runs. The same analysis, which steps aside when the store is being written."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.states import Completed, Failed, State

from flows import common
from flows.cli.words import console, summary
from flows.cli.words.narrator import Narrator
from flows.prefect_runner import PrefectRunner, errors_as_text
from pipeline.analysis.driver import analyze
from pipeline.analysis.lock import StoreBusy
from pipeline.analysis.request import AnalysisRequest
from pipeline.analysis.resolve import resolve
from pipeline.analysis.unchanged import unchanged
from pipeline.archive.text import path_text, utf8


@flow(**common.settings("nightly"))
def nightly(options: dict[str, Any]) -> State[None]:
    """Analyses what is new. Completed when all was measured or is listed; also when nothing changed since the last
    report, which then stays as it is. Skipped while another writes to the store."""
    console.survive_any_text()
    request = AnalysisRequest(**options)
    console.say(f"varve · scheduled analysis of {request.runs}")
    try:
        with errors_as_text():
            if (earlier := unchanged(request)) is not None:
                for line in console.nothing_new(earlier):
                    console.say(line)
                return Completed(name="Unchanged", message=f"nothing new: {path_text(earlier.html)}")
            with Narrator() as tell:
                outcome = analyze(resolve(request), PrefectRunner(), tell)
    except StoreBusy as busy:
        console.say(f"Skipped: {busy}")
        return Completed(name="Skipped", message=utf8(str(busy)))
    common.leave_artifact("varve-nightly", summary.markdown(outcome))
    for line in summary.lines(outcome):
        console.say(line)
    if outcome.computed.failures:
        return Failed(message=f"{outcome.computed.failures} units failed; the next run retries them")
    found = f"{len(outcome.problems)} problems listed" if outcome.problems else "all measured"
    return Completed(message=f"{found}: {path_text(outcome.written.html)}")
