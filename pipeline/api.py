"""varve as a library, without Prefect: five lines in a notebook.

import pipeline
store = pipeline.ingest("runs/", "S.zarr")
pipeline.compute(store)
report = pipeline.assemble(store)                 # an xarray DataTree
pipeline.write_report(report, "out/")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from analyzers.errors import ArchiveError, ParameterError
from pipeline.archive.types import Archive
from pipeline.intake import ingest_one, plan_intake
from pipeline.selection import parse_steps

if TYPE_CHECKING:
    import xarray as xr

    from analyzers.contract import Analyzer
    from analyzers.models import Material
    from pipeline.compute.run import Summary
    from pipeline.store import Store


def scan(
    folder: str | Path,
    name: str | None = None,
    step_pattern: str | None = None,
    step_scale: float | None = None,
    run_ids: Mapping[str, str] | None = None,
) -> Archive:
    """The runs and checkpoints of a folder, from headers alone. `run_ids`: folder relative to the root → run id.

    Raises `ArchiveError` for a folder that is not there, or when two runs are given one id.
    """
    from pipeline.archive import open_archive

    archive = open_archive(folder, name, step_pattern, step_scale or 1)
    return _renamed(archive, run_ids) if run_ids else archive


def _renamed(archive: Archive, run_ids: Mapping[str, str]) -> Archive:
    """The archive with the ids that the catalog gives."""
    renamed, places = [], dict[str, Path]()
    for run in archive.runs:
        relative = run.path.relative_to(archive.root).as_posix()
        run_id = run_ids.get(relative, run.id)
        if run_id in places:
            raise ArchiveError(
                f"two runs are called {run_id!r}: {places[run_id]} and {run.path}; change the catalog entry's run_ids"
            )
        places[run_id] = run.path
        checkpoints = tuple(replace(c, run=run_id) for c in run.checkpoints)
        renamed.append(replace(run, id=run_id, checkpoints=checkpoints))
    return replace(archive, runs=tuple(sorted(renamed, key=lambda run: run.id)))


def ingest(
    folder: str | Path,
    store: str | Path,
    base: str | Sequence[str] = (),
    steps: str | None = None,
    name: str | None = None,
    step_pattern: str | None = None,
    step_scale: float | None = None,
    rehash: bool = False,
    metrics: str | Path | Sequence[str | Path] = (),
) -> Store:
    """Reads the checkpoints of a folder into a store (made when there is none) and returns it.

    `base`, `steps` and `metrics` are written as on the command line. What cannot be read is listed in the store's run
    records; when nothing can, `ArchiveError`. A checkpoint that fails raises after the others are in.
    """
    from pipeline.archive import require_runs
    from pipeline.archive.metrics_csv import NONE, files_of, with_metrics
    from pipeline.store import Store

    files = [str(metrics)] if isinstance(metrics, str | Path) else [str(file) for file in metrics]
    archive = require_runs(scan(folder, name, step_pattern, step_scale))
    archive = with_metrics(archive, files_of(files), NONE in files)
    opened = Store.open(store, mode="a")
    given = (base,) if isinstance(base, str) else tuple(base)
    intake = plan_intake(opened, archive, given, steps=parse_steps(steps), rehash=rehash)
    failed: list[ArchiveError] = []
    for checkpoint in intake.items:
        try:
            ingest_one(opened, intake, checkpoint, rehash)
        except ArchiveError as error:
            failed.append(error)
    if failed:
        raise ArchiveError("; ".join(map(str, failed)))
    return opened


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
    """The materials, if each has a name of its own: results stand under it. Raises `ParameterError`."""
    known: dict[str, Material] = {}
    for one in materials:
        other = known.setdefault(one.name, one)
        if other is not one:
            what = "the same" if other.digest == one.digest else "another"
            raise ParameterError(
                f"--{one.kind} {one.source}: has the same name, {one.name!r}, as {other.source} ({what}); give each "
                "once, and each its own `name`"
            )
    return materials


def compute(
    store: Store,
    analyzers: Sequence[str | Analyzer] | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    runs: Sequence[str] | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    steps: str | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    workers: int | None = None,
    scheduler: str | None = None,
    cache_bytes: int | None = None,
) -> Summary:
    """Computes what the analyzers need and the store does not hold; the second call computes nothing.

    More than one worker means processes, which import the calling script anew: guard it with
    ``if __name__ == "__main__":``. In a notebook nothing is needed.
    """
    from pipeline.compute.cluster import open_cluster
    from pipeline.compute.plan import plan
    from pipeline.compute.run import compute as carry_out
    from pipeline.compute.work import CACHE_BYTES

    chosen = configured(analyzers, settings)
    selection = parse_steps(steps)
    planned = plan(store, chosen, runs, include, exclude, selection)
    with open_cluster(workers, scheduler, device, planned) as cluster:
        return carry_out(
            store,
            chosen,
            cluster,
            runs=runs,
            include=include,
            exclude=exclude,
            steps=selection,
            cache_bytes=CACHE_BYTES if cache_bytes is None else cache_bytes,
        )


def assemble(
    store: Store | str | Path,
    analyzers: Sequence[str | Analyzer] | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    runs: Sequence[str] | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    steps: str | None = None,
) -> xr.DataTree:
    """The report as an xarray DataTree, from what is stored: one node per analyzer, and where it all comes from."""
    from pipeline.report import assemble as assemble_tree
    from pipeline.store import Store as StoreClass

    opened = StoreClass.open(store) if isinstance(store, str | Path) else store
    return assemble_tree(opened, configured(analyzers, settings), runs, include, exclude, parse_steps(steps))


def write_report(tree: xr.DataTree, out: str | Path) -> tuple[Path, Path]:
    """Writes OUT/report.zarr and OUT/report.html and returns both paths."""
    from pipeline.report import save, write_html

    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    return save(tree, folder / "report.zarr"), write_html(tree, folder / "report.html")


def configured(
    analyzers: Sequence[str | Analyzer] | None, settings: Mapping[str, Mapping[str, Any]] | None
) -> tuple[Analyzer, ...]:
    """Analyzers by name (with settings) or ready made; all that are installed where None."""
    if analyzers is None:
        return analyzers_of(None, settings)
    return tuple(a if not isinstance(a, str) else analyzers_of([a], settings)[0] for a in analyzers)
