"""The stages of an analysis, from options to report, the same with Prefect and without.

Each stage takes a `Runner` for its pieces of work and a `Terminal` for its words, and returns frozen data.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyzers.errors import ArchiveError, ParameterError
from flows import console
from flows.computing import Computed, check_scheduler, compute
from flows.earlier import with_earlier
from flows.findings import in_lines
from flows.lock import prepare, writing
from flows.materials import named, told_apart
from flows.options import AnalyzeOptions
from flows.reporting import Written, report
from flows.running import Failed, Runner
from flows.unchanged import Done, inputs_of, remember
from pipeline.archive.types import Archive, Checkpoint, Problem
from pipeline.intake import Intake, ingest_one, plan_intake
from pipeline.selection import parse_steps

if TYPE_CHECKING:
    from analyzers.contract import Analyzer
    from analyzers.models import Material
    from pipeline.archive.metrics import Log
    from pipeline.store import CheckpointRecord, Store


@dataclass(frozen=True)
class Ingested:
    """What an ingest did: counts of checkpoints, everything that could not be read, and the runs with their bases.
    `lacks_base`: a run of the archive has none."""

    read: int
    unchanged: int
    failed: int
    problems: tuple[Problem, ...]
    runs: tuple[str, ...]
    bases: dict[str, str] = field(default_factory=dict)
    lacks_base: bool = False


@dataclass(frozen=True)
class Source:
    """An archive with what the catalog says of it."""

    archive: Archive
    bases: dict[str, str]


def find_archive(options: AnalyzeOptions) -> Source:
    """The archive that is asked for: a folder, a file, or the name of a catalog entry. Raises `ArchiveError`."""
    import data_catalog
    from pipeline.api import scan
    from pipeline.archive import require_runs
    from pipeline.archive.metrics_csv import NONE, files_of, with_metrics

    entry = data_catalog.find(options.runs)
    files = files_of(options.metrics)
    if entry is None:
        archive = scan(options.runs, options.name, options.step_pattern, options.step_scale)
        return Source(with_metrics(require_runs(archive), files, NONE in options.metrics), {})
    archive = scan(
        entry.folder,
        options.name or entry.name,
        options.step_pattern or entry.step_pattern,
        options.step_scale or entry.step_scale,
        entry.run_ids,
    )
    named = [(glob, entry.folder / Path(path).expanduser()) for glob, path in entry.metrics.items()]
    return Source(with_metrics(require_runs(archive), (*named, *files), NONE in options.metrics), dict(entry.bases))


def open_store(path: Path) -> Store:
    """The store for writing, made with its parent folder where there is none."""
    from pipeline.store import Store

    path.parent.mkdir(parents=True, exist_ok=True)
    return Store.open(path, mode="a")


def ingest(store: Store, source: Source, options: AnalyzeOptions, runner: Runner) -> Ingested:
    """Brings the archive's new and changed checkpoints into the store, one piece of work each."""
    tell_archive(source.archive)
    intake = plan_intake(store, source.archive, options.base, source.bases, parse_steps(options.steps), options.rehash)
    for gone in intake.gone:
        console.say(f"{gone.run}@{gone.step} is no longer in the archive; the store still has it.")
    failed, found = _read_all(store, intake, options.rehash, runner)
    stored = (p for run in intake.runs for c in store.checkpoints(run) if not c.source_gone for p in c.problems)
    problems = dict.fromkeys((*intake.problems, *found, *stored))  # those of checkpoints that are unchanged, too
    return Ingested(
        read=len(intake.items),
        unchanged=intake.unchanged,
        failed=failed,
        problems=tuple(problems),
        runs=tuple(dict.fromkeys((*intake.runs, *(b.rpartition("@")[0] for b in intake.bases.values())))),
        bases=dict(intake.bases),
        lacks_base=any(run.role != "base" and run.id not in intake.bases for run in source.archive.runs),
    )


def tell_archive(archive: Archive) -> None:
    """One line of what was found."""
    checkpoints = [c for run in archive.runs for c in run.checkpoints]
    console.say(
        f"Found {console.plural(len(archive.runs), 'run')} with {console.plural(len(checkpoints), 'checkpoint')}, "
        f"{console.size(sum(c.nbytes for c in checkpoints))} of tensors, in {archive.root}"
    )
    for hint in archive.hints:
        console.say(hint)


def _read_all(store: Store, intake: Intake, rehash: bool, runner: Runner) -> tuple[int, list[Problem]]:
    """Ingests every item; a checkpoint that fails costs itself. Returns how many failed, and all problems."""
    if not intake.items:
        console.say(console.nothing_to_read(intake.unchanged))
        return 0, []
    unchanged = f" ({console.number(intake.unchanged)} unchanged, already in the store)" if intake.unchanged else ""
    console.say(f"To read: {console.plural(len(intake.items), 'checkpoint')}, {console.size(intake.nbytes)}{unchanged}")

    def read(checkpoint: Checkpoint) -> CheckpointRecord:
        return ingest_one(store, intake, checkpoint, rehash)

    problems: list[Problem] = []
    done = failed = 0
    started = time.monotonic()
    with console.progress("reading", len(intake.items)) as advance:
        answers = runner.each("ingest", read, intake.items, lambda c: f"{c.run}@{c.step}")
        for checkpoint, answer in zip(intake.items, answers, strict=True):
            done += 1
            advance(done, f"{checkpoint.run}@{checkpoint.step}")
            if isinstance(answer, Failed):
                _stop_if_hopeless(answer)
                failed += 1
                problems.append(Problem(str(checkpoint.path), answer.reason))
            else:
                problems += answer.problems
    console.say(f"Read in {console.duration(time.monotonic() - started)}.")
    return failed, problems


def _stop_if_hopeless(failed: Failed) -> None:
    """A full disk or a store that cannot be written stops everything: it is not this checkpoint's fault."""
    from analyzers.errors import StoreError

    full = isinstance(failed.error, OSError) and failed.error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
    if full or isinstance(failed.error, StoreError):
        raise failed.error


@dataclass(frozen=True)
class Outcome:
    """What an analysis did and where its report is; `exit_code` is 3 when something that was asked for is missing."""

    ingested: Ingested
    computed: Computed
    written: Written

    @property
    def problems(self) -> tuple[str, ...]:
        """Everything that could not be read, measured or derived, one line each."""
        every = (*in_lines(self.ingested.problems), *self.computed.findings, *self.written.problems)
        return tuple(dict.fromkeys(map(str, every)))

    @property
    def done(self) -> Done:
        """What a later analysis with nothing to add has to tell."""
        checkpoints = self.ingested.read + self.ingested.unchanged
        units = self.computed.present + self.computed.measured
        return Done(checkpoints, units, self.written.warnings, self.written.notes, self.problems)

    @property
    def exit_code(self) -> int:
        """0, or 3 where something is listed."""
        return self.done.exit_code

    @property
    def is_settled(self) -> bool:
        """Whether another try on the same files would find the same: nothing failed, and each run has its base, which
        may be anywhere."""
        failed = self.ingested.failed or self.computed.failures or self.written.problems
        return not failed and not self.ingested.lacks_base


def analyze(options: AnalyzeOptions, runner: Runner) -> Outcome:
    """Ingest, compute, report: what `varve analyze` and every scheduled run do."""
    from pipeline.store.given import record_materials

    analyzers = analyzers_for(options)
    require_something(options, analyzers)
    check_scheduler(options)
    inputs = inputs_of(options)
    source = find_archive(options)
    with writing(options.store_path):
        store = open_store(options.store_path)
        record_materials(store, materials_of(analyzers), options.model)
        ingested = ingest(store, source, options, runner)
        computed = compute(store, analyzers, options, ingested.runs, runner)
        written = write(store, analyzers, options, ingested.runs, runner, computed.profile)
        outcome = Outcome(ingested, computed, written)
        remember(options, inputs, outcome.done if outcome.is_settled else None, store)
    return outcome


def write(
    store: Store,
    analyzers: Sequence[Analyzer],
    options: AnalyzeOptions,
    runs: Sequence[str] | None,
    runner: Runner,
    profile: Mapping[str, Any] | None = None,
    logs: Mapping[str, Log] | None = None,
) -> Written:
    """Writes the report. What an earlier one in OUT has of other analyzers stays in it (`flows.earlier`)."""
    wider = with_earlier(store, options)
    ready = {analyzer.name: analyzer for analyzer in analyzers}
    others = tuple(name for name in wider.analyzers if name not in ready)
    if others:
        console.say(f"Also kept in the report: {', '.join(others)}.")
        asked = {"analyzers": others, "tasks": (), "probes": (), "model": None}
        ready |= {analyzer.name: analyzer for analyzer in analyzers_for(wider.model_copy(update=asked), store)}
        analyzers = [ready[name] for name in wider.analyzers]
    return report(store, analyzers, wider, runs, runner, profile, logs)


def analyzers_for(options: AnalyzeOptions, store: Store | None = None) -> tuple[Analyzer, ...]:
    """The configured analyzers. With a store, whose results are only read, its recorded tasks and probe sets stand in
    for those that are not given. Raises `ParameterError` for what was given and cannot be used."""
    from pipeline.api import analyzers_of
    from pipeline.models.factories import import_factory
    from pipeline.store.given import recorded_materials

    tasks: list[str | Material] = [*named(options, "task")]
    probes: list[str | Material] = [*named(options, "probe")]
    model = options.model
    chosen = options.analyzers
    if store is None and model is not None:  # a report runs no model: there the factory is a name that results have
        import_factory(model, "--model")
    if store is not None and not (tasks or probes or model):
        recorded = recorded_materials(store)
        model = next((factory for _, factory in recorded if factory), None)
        taken = [material for material, factory in recorded if factory == model or factory is None]
        tasks += [m for m in told_apart(taken) if m.kind == "task" and _takes(chosen, "tasks")]
        probes += [m for m in told_apart(taken) if m.kind == "probe" and _takes(chosen, "probes")]
        model = model if _takes(chosen, "model") else None
    return analyzers_of(chosen, options.settings, tasks, probes, model)


def _takes(chosen: Sequence[str], key: str) -> bool:
    from analyzers import registry

    return any(key in registry.load(name).Parameters.model_fields for name in chosen or registry.names())


def materials_of(analyzers: Sequence[Analyzer]) -> tuple[Material, ...]:
    """The tasks and probe sets that the analyzers were configured with."""
    found: list[Material] = []
    for analyzer in analyzers:
        for key in ("tasks", "probes"):
            found += getattr(analyzer.parameters, key, ())
    return tuple(dict.fromkeys(found))


def require_something(options: AnalyzeOptions, analyzers: Sequence[Analyzer]) -> None:
    """Raises `ParameterError` where what was asked for by name has nothing to measure: it wants a task or probe set."""
    needs = {k: f"--{k[:-1]} FILE" for k in ("tasks", "probes") if any(hasattr(a.parameters, k) for a in analyzers)}
    if options.analyzers and needs and not any(analyzer.statistics() for analyzer in analyzers):
        named = ", ".join(options.analyzers)
        raise ParameterError(f"--analyzers {named}: nothing can be measured without {' or '.join(needs.values())}")


def check(options: AnalyzeOptions) -> None:
    """Everything that can be wrong without reading a weight: settings, archive, steps, scheduler."""
    require_something(options, analyzers_for(options))
    _check_against(find_archive(options).archive, options)
    check_scheduler(options)


def check_schedule(options: AnalyzeOptions) -> None:
    """What can be wrong with a schedule before its first run: settings, files that are given, and the places of the
    store and the report, whose folders are made. An archive that cannot be analysed yet is reported only."""
    require_something(options, analyzers_for(options))
    prepare(options.out_path / "store.zarr")
    prepare(options.store_path)
    try:
        find_archive(options.model_copy(update={"metrics": ()}))
    except ArchiveError as error:
        console.say(f"For the moment there is nothing to analyse: {error}")
    else:
        _check_against(find_archive(options).archive, options)


def _check_against(archive: Archive, options: AnalyzeOptions) -> None:
    """What is asked for by name must be there."""
    from pipeline.archive.bases import check_base_options, parse_base_options

    check_base_options(parse_base_options(options.base), archive)
    parse_steps(options.steps).check({run.id: [c.step for c in run.checkpoints] for run in archive.runs})


def ingest_only(options: AnalyzeOptions, runner: Runner) -> Ingested:
    """What `varve ingest` does."""
    source = find_archive(options)
    with writing(options.store_path):
        store = open_store(options.store_path)
        ingested = ingest(store, source, options, runner)
    return replace(ingested, problems=(*ingested.problems, *store.damage()))


def check_report(options: AnalyzeOptions) -> None:
    """What can be wrong with a report before it is derived: settings and store."""
    from pipeline.store import Store

    store = Store.open(options.store_path, mode="r")
    analyzers_for(options, store)
    given_logs(store, options)


def report_only(options: AnalyzeOptions, globs: Sequence[str] | None, runner: Runner) -> Written:
    """What `varve report` does: nothing is read but statistics. Raises `ParameterError` when no run matches."""
    from pipeline.store import Store

    store = Store.open(options.store_path, mode="r")
    runs = None if globs is None else chosen_runs([record.id for record in store.runs()], globs)
    return write(store, analyzers_for(options, store), options, runs, runner, logs=given_logs(store, options))


def given_logs(store: Store, options: AnalyzeOptions) -> dict[str, Log]:
    """The metrics of --metrics for the runs of a store, which stays as it is."""
    from pipeline.archive.metrics import Log
    from pipeline.archive.metrics_csv import NONE, Target, files_of, logs_from

    if not options.metrics:
        return {}
    checkpoints = {run.id: store.checkpoints(run.id) for run in store.runs() if run.role == "run"}
    targets = [Target(run, known[0].step_unit) for run, known in checkpoints.items() if known]
    forgotten = {target.id: Log() for target in targets} if NONE in options.metrics else {}
    return {**forgotten, **logs_from(files_of(options.metrics), targets).logs}


def chosen_runs(ids: Sequence[str], globs: Sequence[str]) -> list[str]:
    """The run ids that match one of the globs. Raises `ParameterError` with those there are."""
    for glob in globs:
        if not any(fnmatchcase(run_id, glob) for run_id in ids):
            raise ParameterError(f"--runs {glob!r}: no run matches; there are: {', '.join(ids)}")
    return [run_id for run_id in ids if any(fnmatchcase(run_id, glob) for glob in globs)]
