"""An analysis from a resolved request to its outcome: what `varve analyze`, `varve.analyze` and a schedule do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pipeline.analysis.events import Listener, silent
from pipeline.analysis.lock import writing
from pipeline.analysis.outcome import Ingested, Outcome, Written
from pipeline.analysis.request import AnalysisRequest
from pipeline.analysis.resolve import ArchiveSource, Resolved, analyzers_for, chosen_runs, given_logs, materials_of
from pipeline.analysis.runner import PlainRunner, Runner
from pipeline.analysis.stages import compute, ingest, open_store, report
from pipeline.analysis.unchanged import remember

PLAIN = PlainRunner()


def analyze(resolved: Resolved, runner: Runner = PLAIN, tell: Listener = silent) -> Outcome:
    """Ingest, compute, report."""
    from pipeline.store.given import record_materials

    request, analyzers = resolved.request, resolved.analyzers
    with writing(request.store_path):
        store = open_store(request.store_path)
        record_materials(store, materials_of(analyzers), request.model)
        ingested = ingest(store, resolved.source, request, runner, tell)
        computed = compute(store, analyzers, request, ingested.runs, runner, tell)
        written = report(store, analyzers, request, ingested.runs, runner, tell, computed.profile)
        outcome = Outcome(ingested, computed, written)
        remember(request, resolved.inputs, outcome.done if outcome.is_settled else None, store)
    return outcome


def ingest_only(
    source: ArchiveSource, request: AnalysisRequest, runner: Runner = PLAIN, tell: Listener = silent
) -> Ingested:
    """What `varve ingest` does."""
    with writing(request.store_path):
        store = open_store(request.store_path)
        ingested = ingest(store, source, request, runner, tell)
    return replace(ingested, problems=(*ingested.problems, *store.damage()))


def check_report(request: AnalysisRequest) -> None:
    """What can be wrong with a report before it is derived: settings and store."""
    from pipeline.store import Store

    store = Store.open(request.store_path, mode="r")
    analyzers_for(request, store)
    given_logs(store, request)


def report_only(
    request: AnalysisRequest, globs: Sequence[str] | None, runner: Runner = PLAIN, tell: Listener = silent
) -> Written:
    """What `varve report` does: nothing is read but statistics. Raises `ParameterError` when no run matches."""
    from pipeline.store import Store

    store = Store.open(request.store_path, mode="r")
    runs = None if globs is None else chosen_runs([record.id for record in store.runs()], globs)
    logs = given_logs(store, request)
    return report(store, analyzers_for(request, store), request, runs, runner, tell, logs=logs)
