"""Runs a verb with or without Prefect, and shows the outcome."""

from __future__ import annotations

from collections.abc import Sequence

from flows.cli.words import summary
from flows.cli.words.console import number, place, plural, problem_lines, report_lines, say
from flows.cli.words.narrator import Narrator
from pipeline.analysis import driver
from pipeline.analysis.request import AnalysisRequest
from pipeline.analysis.resolve import find_archive, resolve


def run_analyze(request: AnalysisRequest, with_prefect: bool) -> int:
    """`varve analyze`: wrong settings and a missing archive fail before Prefect starts."""
    resolved = resolve(request)
    with Narrator() as tell:
        if with_prefect and open_prefect():
            from flows.analyze import analyze

            outcome = analyze(resolved, tell)
        else:
            outcome = driver.analyze(resolved, tell=tell)
    for line in summary.lines(outcome):
        say(line)
    return outcome.exit_code


def run_ingest(request: AnalysisRequest, with_prefect: bool) -> int:
    """`varve ingest`."""
    source = find_archive(request)
    with Narrator() as tell:
        if with_prefect and open_prefect():
            from flows.ingest import ingest

            ingested = ingest(source, request, tell)
        else:
            ingested = driver.ingest_only(source, request, tell=tell)
    problems = tuple(dict.fromkeys(map(str, ingested.problems)))
    for line in problem_lines(problems):
        say(line)
    done = ingested.read - ingested.failed
    store = place(request.store_path)
    say(f"\n{plural(done, 'checkpoint')} read, {number(ingested.unchanged)} unchanged. Store: {store}")
    return 3 if problems else 0


def run_report(request: AnalysisRequest, runs: Sequence[str], with_prefect: bool) -> int:
    """`varve report`."""
    driver.check_report(request)
    with Narrator() as tell:
        if with_prefect and open_prefect():
            from flows.report import report

            written = report(request, list(runs) or None, tell)
        else:
            written = driver.report_only(request, list(runs) or None, tell=tell)
    for line in (*summary.content_lines(written), *problem_lines(written.problems)):
        say(line)
    say(f"\n{report_lines(written.html, written.zarr)}")
    return 3 if written.problems else 0


def open_prefect() -> bool:
    """Whether there is a Prefect API: the one that is configured, or the server that `varve schedule` keeps. Where
    there is none, nobody waits for one to start. Raises `PrefectUnavailable` for a configured one that fails."""
    from flows.prefect_api import choose_api

    api = choose_api()
    if api is None:
        say("No Prefect server is configured or running: the analysis runs without one.")
        return False
    say(f"Prefect server: {api.url.removesuffix('/api')}")
    return True
