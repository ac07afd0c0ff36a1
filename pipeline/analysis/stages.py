"""The stages of an analysis: ingest, compute, report. Each takes a `Runner` for its pieces of work and a `Listener` for
its events, and returns frozen data."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyzers.errors import ParameterError, StoreError
from pipeline.analysis.earlier import with_earlier
from pipeline.analysis.events import (
    AnalyzerFailed,
    ArchiveFound,
    CheckpointGone,
    CheckpointRead,
    ComputeFinished,
    IngestFinished,
    IngestPlanned,
    Listener,
    ReportStarted,
)
from pipeline.analysis.findings import failed, in_their_units, skipped, unmeasurable, without_matrices
from pipeline.analysis.intake import Intake, ingest_one, plan_intake
from pipeline.analysis.outcome import Computed, Ingested, Written
from pipeline.analysis.request import AnalysisRequest
from pipeline.analysis.resolve import ArchiveSource, analyzers_for
from pipeline.analysis.runner import Failed, Runner
from pipeline.archive.recipes import tensors_of
from pipeline.archive.types import Checkpoint, Problem
from pipeline.compute.allocator import collector_spared

if TYPE_CHECKING:
    from analyzers.contract import Analyzer, Derived
    from pipeline.archive.metrics import Log
    from pipeline.compute.groups import Group
    from pipeline.compute.run import Tally
    from pipeline.store import CheckpointRecord, Store
    from pipeline.units.selection import Selection


def open_store(path: Path) -> Store:
    """The store for writing, made with its parent folder where there is none."""
    from pipeline.store import Store

    path.parent.mkdir(parents=True, exist_ok=True)
    return Store.open(path, mode="a")


def ingest(store: Store, source: ArchiveSource, request: AnalysisRequest, runner: Runner, tell: Listener) -> Ingested:
    """Brings the archive's new and changed checkpoints into the store, one piece of work each."""
    tell(ArchiveFound(source.archive))
    steps = request.selection().steps
    intake = plan_intake(store, source.archive, request.base, source.bases, steps, request.rehash)
    for gone in intake.gone:
        tell(CheckpointGone(gone.run, gone.step, Path(gone.source).exists()))
    unread, met = _read_all(store, intake, request.rehash, runner, tell)
    stored = (p for run in intake.runs for c in store.checkpoints(run) if not c.source_gone for p in c.problems)
    problems = dict.fromkeys((*intake.problems, *met, *stored))  # those of checkpoints that are unchanged, too
    return Ingested(
        read=len(intake.items),
        unchanged=intake.unchanged,
        failed=unread,
        problems=tuple(problems),
        runs=tuple(dict.fromkeys((*intake.runs, *(b.rpartition("@")[0] for b in intake.bases.values())))),
        bases=dict(intake.bases),
        lacks_base=any(run.role != "base" and run.id not in intake.bases for run in source.archive.runs),
    )


def _read_all(store: Store, intake: Intake, rehash: bool, runner: Runner, tell: Listener) -> tuple[int, list[Problem]]:
    """Ingests every item; where one fails, the others go on. Returns how many failed, and all problems."""
    tell(IngestPlanned(len(intake.items), intake.nbytes, intake.unchanged))

    def read(checkpoint: Checkpoint) -> CheckpointRecord:
        return ingest_one(store, intake, checkpoint, rehash)

    problems: list[Problem] = []
    unread = 0
    started = time.monotonic()
    answers = runner.each("ingest", read, intake.items, lambda c: f"{c.run}@{c.step}")
    for checkpoint, answer in zip(intake.items, answers, strict=True):
        reason = ""
        if isinstance(answer, Failed):
            _stop_if_hopeless(answer)
            unread += 1
            reason = answer.reason
            problems.append(Problem(str(checkpoint.path), reason))
        else:
            problems += answer.problems
        tell(CheckpointRead(checkpoint.run, checkpoint.step, reason))
    tell(IngestFinished(time.monotonic() - started))
    return unread, problems


def _stop_if_hopeless(answer: Failed) -> None:
    """A full disk or a store that cannot be written stops everything: it is not this checkpoint's fault."""
    full = isinstance(answer.error, OSError) and answer.error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
    if full or isinstance(answer.error, StoreError):
        raise answer.error


@collector_spared()
def compute(
    store: Store,
    analyzers: Sequence[Analyzer],
    request: AnalysisRequest,
    runs: Sequence[str],
    runner: Runner,
    tell: Listener,
) -> Computed:
    """Computes what is missing. A unit that fails is recorded; only a lost cluster stops the rest."""
    from contextlib import nullcontext

    from pipeline.compute.calibration import current
    from pipeline.compute.cluster import open_cluster
    from pipeline.compute.estimate import estimate
    from pipeline.compute.events import Planned
    from pipeline.compute.plan import plan
    from pipeline.compute.profile import Profile
    from pipeline.compute.run import carry_out
    from pipeline.compute.work import CACHE_BYTES

    selection = request.selection(tuple(runs))
    _require_a_match(store, selection, runs)
    planned = plan(store, analyzers, selection)
    profile = Profile() if request.profile else None
    seconds = estimate(planned, current()).phases.compute if planned.missing else 0.0
    tell(Planned(planned.present, planned.missing, planned.further, len(planned.skips), seconds))

    def call(run: Callable[[Sequence[Group]], Tally], batches: Sequence[Sequence[Group]]) -> Iterable[Tally]:
        for answer in runner.each("compute", run, batches, _label, here=True):
            if isinstance(answer, Failed):
                raise answer.error  # units answer for themselves: the cluster is lost, or the store refuses
            yield answer

    opened = open_cluster(request.workers, request.scheduler, request.device, planned)
    with opened if planned.missing else nullcontext() as cluster:
        limit = CACHE_BYTES if request.cache_bytes is None else request.cache_bytes
        summary = carry_out(store, planned, cluster, tell, limit, profile, call)
    tell(ComputeFinished())
    findings = [
        *without_matrices(store, runs),
        *unmeasurable(store, planned),
        *skipped(planned.skips),
        *failed(planned.units.standing(store.failures()), summary.blocked),
    ]
    return Computed(
        planned.present,
        summary.measured + summary.unmeasurable,
        len(summary.failures) + len(summary.blocked),
        tuple(in_their_units(findings, store)),
        profile.as_data() if profile else None,
    )


def _require_a_match(store: Store, selection: Selection, runs: Sequence[str]) -> None:
    """Raises `ParameterError` when --include and --exclude leave nothing of an archive that has matrices."""
    if not (selection.include or selection.exclude):
        return
    newest = (record for run in runs for record in store.checkpoints(run)[-1:])
    specs = [matrix.spec for record in newest for matrix in store.matrices(record)]
    if specs and all(selection.excluded((spec.name, *tensors_of(spec.recipe))) for spec in specs):
        given = [f"--include {g!r}" for g in selection.include] + [f"--exclude {g!r}" for g in selection.exclude]
        names = list(dict.fromkeys(spec.name for spec in specs))
        some = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise ParameterError(f"{' '.join(given)}: no matrix remains; the archive has: {some}")


def _label(batch: Sequence[Group]) -> str:
    names = ", ".join(dict.fromkeys(group.statistic.name for group in batch))
    return f"{names}: {sum(len(group.units) for group in batch)} units"


def report(
    store: Store,
    analyzers: Sequence[Analyzer],
    request: AnalysisRequest,
    runs: Sequence[str] | None,
    runner: Runner,
    tell: Listener,
    profile: Mapping[str, Any] | None = None,
    logs: Mapping[str, Log] | None = None,
) -> Written:
    """Writes OUT/report.zarr and OUT/report.html from what is stored. What an earlier report in OUT has of other
    analyzers stays in it (`pipeline.analysis.earlier`). Where one analyzer fails, the report lacks its node.

    `profile` (where the computation's time went) stays in the report's attributes; `logs` are metrics that the store
    does not have.
    """
    from pipeline.compute.allocator import release_freed_memory
    from pipeline.report import assemble, derive, save, write_html
    from pipeline.report.contents import archive_rows
    from pipeline.report.spill import Spill
    from pipeline.store import cache, recent

    recent.forget()
    cache.forget()
    request, analyzers, kept = _with_kept(store, request, analyzers)
    tell(ReportStarted(kept))
    selection = request.selection(None if runs is None else tuple(runs))
    out = request.out_path
    out.mkdir(parents=True, exist_ok=True)
    with Spill(out / "report.zarr") as spill:

        def of(analyzer: Analyzer) -> tuple[Derived, ...]:
            release_freed_memory()
            return derive(store, analyzer, selection, spill)

        derived, problems = _all_derived(analyzers, of, runner, tell)
        problems += [str(damage) for damage in store.damage()]
        release_freed_memory()
        there = [a for a in analyzers if a.name in derived]
        tree = assemble(store, there, selection, derived=derived, problems=problems, logs=logs)
        problems += [text for text in map(str, store.damage()) if text not in problems]  # assembling reads more
        if profile is not None:
            tree.attrs["profile"] = json.dumps(profile)
        tree.attrs["options"] = json.dumps(request.model_dump(mode="json", exclude_defaults=True), sort_keys=True)
        contents = archive_rows(tree, "contents")
        warnings, notes = (
            tuple(str(row["text"]) for row in contents if row["severity"] == severity)
            for severity in ("warning", "note")
        )
        release_freed_memory()
        zarr, html = save(tree, out / "report.zarr"), write_html(tree, out / "report.html")
    return Written(zarr, html, tuple(problems), warnings, notes)


def _with_kept(
    store: Store, request: AnalysisRequest, analyzers: Sequence[Analyzer]
) -> tuple[AnalysisRequest, Sequence[Analyzer], tuple[str, ...]]:
    """The request and its analyzers with those of the earlier report in OUT, and the names of these."""
    wider = with_earlier(store, request)
    ready = {analyzer.name: analyzer for analyzer in analyzers}
    kept = tuple(name for name in wider.analyzers if name not in ready)
    if kept:
        asked = {"analyzers": kept, "tasks": (), "probes": (), "model": None}
        ready |= {analyzer.name: analyzer for analyzer in analyzers_for(wider.model_copy(update=asked), store)}
        analyzers = [ready[name] for name in wider.analyzers]
    return wider, analyzers, kept


def _all_derived(
    analyzers: Sequence[Analyzer], of: Callable[[Analyzer], tuple[Derived, ...]], runner: Runner, tell: Listener
) -> tuple[dict[str, tuple[Derived, ...]], list[str]]:
    """What each analyzer derives, by its name, and a sentence on each that failed."""
    derived: dict[str, tuple[Derived, ...]] = {}
    problems: list[str] = []
    answers = runner.each("derive", of, analyzers, lambda a: a.name, here=True)
    for analyzer, answer in zip(analyzers, answers, strict=True):
        if isinstance(answer, Failed):
            problems.append(f"analyzer {analyzer.name}: {answer.reason}")
            tell(AnalyzerFailed(analyzer.name, answer.trace))
        else:
            derived[analyzer.name] = answer
    return derived, problems
