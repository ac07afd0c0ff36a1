"""Runs a verb with or without Prefect, and shows the outcome."""

from __future__ import annotations

from collections.abc import Sequence

from flows import analysis, summary
from flows.console import number, place, plural, problem_lines, report_lines, say
from flows.options import AnalyzeOptions
from flows.running import PlainRunner


def run_analyze(options: AnalyzeOptions, with_prefect: bool) -> int:
    """`varve analyze`: wrong settings and a missing archive fail before Prefect starts."""
    analysis.check(options)
    if with_prefect:
        open_prefect()
        from flows.analyze import analyze_flow

        outcome: analysis.Outcome = analyze_flow(options.model_dump(mode="json"))
    else:
        outcome = analysis.analyze(options, PlainRunner())
    for line in summary.lines(outcome):
        say(line)
    return outcome.exit_code


def run_ingest(options: AnalyzeOptions, with_prefect: bool) -> int:
    """`varve ingest`."""
    analysis.find_archive(options)
    if with_prefect:
        open_prefect()
        from flows.ingest import ingest_flow

        ingested: analysis.Ingested = ingest_flow(options.model_dump(mode="json"))
    else:
        ingested = analysis.ingest_only(options, PlainRunner())
    problems = tuple(dict.fromkeys(map(str, ingested.problems)))
    for line in problem_lines(problems):
        say(line)
    done = ingested.read - ingested.failed
    store = place(options.store_path)
    say(f"\n{plural(done, 'checkpoint')} read, {number(ingested.unchanged)} unchanged. Store: {store}")
    return 3 if problems else 0


def run_report(options: AnalyzeOptions, runs: Sequence[str], with_prefect: bool) -> int:
    """`varve report`."""
    analysis.check_report(options)
    if with_prefect:
        open_prefect()
        from flows.report import report_flow

        written = report_flow(options.model_dump(mode="json"), list(runs) or None)
    else:
        written = analysis.report_only(options, list(runs) or None, PlainRunner())
    for line in (*summary.content_lines(written), *problem_lines(written.problems)):
        say(line)
    say(f"\n{report_lines(written.html, written.zarr)}")
    return 3 if written.problems else 0


def open_prefect() -> None:
    """A Prefect API that answers, or an error that says how to go on without."""
    from flows import prefect_env

    api = prefect_env.choose_api()
    if api.kind == "ephemeral":
        say("Starting a temporary Prefect server, which takes 10 to 20 s (--no-flow runs without Prefect).")
    prefect_env.open_api(api)
    if api.kind != "ephemeral" and api.url:
        say(f"Prefect server: {api.url.removesuffix('/api')}")
