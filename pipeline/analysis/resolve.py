"""From a request to what is worked on: the archive with what the catalog says of it, the configured analyzers, and the
runs of a store. Each is found once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyzers.errors import ArchiveError, ParameterError
from pipeline.analysis.lock import prepare
from pipeline.analysis.materials import named, told_apart
from pipeline.analysis.request import AnalysisRequest
from pipeline.archive.types import Archive

if TYPE_CHECKING:
    from analyzers.contract import Analyzer
    from analyzers.models import Material
    from pipeline.archive.metrics import Log
    from pipeline.store import Store


@dataclass(frozen=True)
class ArchiveSource:
    """An archive with the bases that the catalog gives."""

    archive: Archive
    bases: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Resolved:
    """A request whose words all make sense, with the archive and the analyzers that it asks for. `inputs`: a digest of
    the files to be read, from before they are read (`pipeline.analysis.unchanged`)."""

    request: AnalysisRequest
    source: ArchiveSource
    analyzers: tuple[Analyzer, ...]
    inputs: str = ""


def resolve(request: AnalysisRequest) -> Resolved:
    """Everything that can be wrong without reading a weight: settings, archive, bases, steps, scheduler.

    Raises `ParameterError`, `ArchiveError` or `ComputeError` with the word and the way out.
    """
    from pipeline.analysis.unchanged import inputs_of

    analyzers = analyzers_for(request)
    _require_something(request, analyzers)
    inputs = inputs_of(request)
    source = find_archive(request)
    _check_against(source.archive, request)
    check_scheduler(request)
    return Resolved(request, source, analyzers, inputs)


def check_schedule(request: AnalysisRequest) -> str | None:
    """What can be wrong with a schedule before its first run: settings, files that are given, and the places of the
    store and the report, whose folders are made. Returns why the archive cannot be analysed yet, if it cannot."""
    _require_something(request, analyzers_for(request))
    prepare(request.out_path / "store.zarr")
    prepare(request.store_path)
    try:
        find_archive(request.model_copy(update={"metrics": ()}))
    except ArchiveError as error:
        return str(error)
    _check_against(find_archive(request).archive, request)
    return None


def _check_against(archive: Archive, request: AnalysisRequest) -> None:
    """What is asked for by name must be there."""
    from pipeline.archive.bases import check_base_options, parse_base_options

    check_base_options(parse_base_options(request.base), archive)
    request.selection().steps.check({run.id: [c.step for c in run.checkpoints] for run in archive.runs})


def find_archive(request: AnalysisRequest) -> ArchiveSource:
    """The archive that is asked for: a folder, a file, or the name of a catalog entry. Raises `ArchiveError`."""
    import data_catalog
    from pipeline.archive import require_runs
    from pipeline.archive.metrics_csv import NONE, files_of, with_metrics
    from pipeline.archive.scan import scan

    entry = data_catalog.find(request.runs)
    files = files_of(request.metrics)
    if entry is None:
        archive = scan(request.runs, request.name, request.step_pattern, request.step_scale)
        return ArchiveSource(with_metrics(require_runs(archive), files, NONE in request.metrics))
    archive = scan(
        entry.folder,
        request.name or entry.name,
        request.step_pattern or entry.step_pattern,
        request.step_scale or entry.step_scale,
        entry.run_ids,
    )
    logs = [(glob, entry.folder / Path(path).expanduser()) for glob, path in entry.metrics.items()]
    return ArchiveSource(with_metrics(require_runs(archive), (*logs, *files), NONE in request.metrics), entry.bases)


def analyzers_for(request: AnalysisRequest, store: Store | None = None) -> tuple[Analyzer, ...]:
    """The configured analyzers. With a store, whose results are only read, its recorded tasks and probe sets stand in
    for those that are not given. Raises `ParameterError` for what was given and cannot be used."""
    from pipeline.models.factories import import_factory
    from pipeline.store.given import recorded_materials

    tasks: list[str | Material] = [*named(request, "task")]
    probes: list[str | Material] = [*named(request, "probe")]
    model = request.model
    chosen = request.analyzers
    if store is None and model is not None:  # a report runs no model: there the factory is a name that results have
        import_factory(model, "--model")
    if store is not None and not (tasks or probes or model):
        recorded = recorded_materials(store)
        model = next((factory for _, factory in recorded if factory), None)
        taken = [material for material, factory in recorded if factory == model or factory is None]
        tasks += [m for m in told_apart(taken) if m.kind == "task" and _takes(chosen, "tasks")]
        probes += [m for m in told_apart(taken) if m.kind == "probe" and _takes(chosen, "probes")]
        model = model if _takes(chosen, "model") else None
    return analyzers_of(chosen, request.settings, tasks, probes, model)


def _takes(chosen: Sequence[str], key: str) -> bool:
    from analyzers import registry

    return any(key in registry.load(name).Parameters.model_fields for name in chosen or registry.names())


def analyzers_of(
    names: Sequence[str] | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    tasks: Sequence[str | Material] = (),
    probes: Sequence[str | Material] = (),
    model: str | None = None,
) -> tuple[Analyzer, ...]:
    """Configured analyzers: those named, or all that are installed. Raises `ParameterError` for a wrong setting.

    `tasks`, `probes`: YAML files or "package.module:factory", for the analyzers that train or run models; `model`:
    the factory of an architecture that no library knows. Their data are read and checked here.
    """
    from analyzers import registry

    chosen = tuple(names) if names else registry.names()
    given = settings or {}
    for name in given:
        if name not in chosen:  # a setting of an analyzer that is not asked for is unused, but never wrong in silence
            registry.configure(name, given[name])
    handed = _handed(tasks, probes, model)
    taken: set[str] = set()
    configured = []
    for name in chosen:
        fields = registry.load(name).Parameters.model_fields if handed else {}
        fitting = {key: value for key, value in handed.items() if key in fields}
        taken.update(fitting)
        configured.append(registry.configure(name, {**given.get(name, {}), **fitting}))
    for key in handed.keys() - taken:
        raise ParameterError(f"--{key.removesuffix('s')}: none of the chosen analyzers ({', '.join(chosen)}) takes one")
    return tuple(configured)


def _handed(
    tasks: Sequence[str | Material], probes: Sequence[str | Material], model: str | None
) -> dict[str, tuple[Material, ...] | str]:
    """What is given, under the names of the analyzers' parameters."""
    if not (tasks or probes or model):
        return {}
    from pipeline.models.materials import read_material

    handed: dict[str, tuple[Material, ...] | str] = {}
    if tasks:
        handed["tasks"] = _distinct(tuple(read_material("task", t) if isinstance(t, str) else t for t in tasks))
    if probes:
        handed["probes"] = _distinct(tuple(read_material("probe", p) if isinstance(p, str) else p for p in probes))
    if model:
        handed["model"] = model
    return handed


def _distinct(materials: tuple[Material, ...]) -> tuple[Material, ...]:
    """The materials, if each has a name of its own: results are listed under it. Raises `ParameterError`."""
    known: dict[str, Material] = {}
    for material in materials:
        other = known.setdefault(material.name, material)
        if other is not material:
            what = "the same" if other.digest == material.digest else "another"
            raise ParameterError(
                f"--{material.kind} {material.source}: has the same name, {material.name!r}, as {other.source} "
                f"({what}); give each once, and each its own `name`"
            )
    return materials


def materials_of(analyzers: Sequence[Analyzer]) -> tuple[Material, ...]:
    """The tasks and probe sets that the analyzers were configured with."""
    materials: list[Material] = []
    for analyzer in analyzers:
        for key in ("tasks", "probes"):
            materials += getattr(analyzer.parameters, key, ())
    return tuple(dict.fromkeys(materials))


def _require_something(request: AnalysisRequest, analyzers: Sequence[Analyzer]) -> None:
    """Raises `ParameterError` where what was asked for by name has nothing to measure: it wants a task or probe set."""
    needs = {k: f"--{k[:-1]} FILE" for k in ("tasks", "probes") if any(hasattr(a.parameters, k) for a in analyzers)}
    if request.analyzers and needs and not any(analyzer.statistics() for analyzer in analyzers):
        asked = ", ".join(request.analyzers)
        raise ParameterError(f"--analyzers {asked}: nothing can be measured without {' or '.join(needs.values())}")


def check_scheduler(request: AnalysisRequest) -> None:
    """Fails within seconds, before any reading, when a given scheduler cannot be used. Raises `ComputeError`."""
    if request.scheduler is not None:
        from pipeline.compute.cluster import open_cluster

        with open_cluster(scheduler=request.scheduler, device=request.device):
            pass


def given_logs(store: Store, request: AnalysisRequest) -> dict[str, Log]:
    """The metrics of --metrics for the runs of a store, which stays as it is."""
    from pipeline.archive.metrics import Log
    from pipeline.archive.metrics_csv import NONE, Target, files_of, logs_from

    if not request.metrics:
        return {}
    checkpoints = {run.id: store.checkpoints(run.id) for run in store.runs() if run.role == "run"}
    targets = [Target(run, known[0].step_unit) for run, known in checkpoints.items() if known]
    forgotten = {target.id: Log() for target in targets} if NONE in request.metrics else {}
    return {**forgotten, **logs_from(files_of(request.metrics), targets).logs}


def chosen_runs(ids: Sequence[str], globs: Sequence[str]) -> tuple[str, ...]:
    """The run ids that match one of the globs. Raises `ParameterError` with those there are."""
    for glob in globs:
        if not any(fnmatchcase(run_id, glob) for run_id in ids):
            raise ParameterError(f"--runs {glob!r}: no run matches; there are: {', '.join(ids)}")
    return tuple(run_id for run_id in ids if any(fnmatchcase(run_id, glob) for glob in globs))
