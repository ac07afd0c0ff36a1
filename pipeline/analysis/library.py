"""varve as a library, without Prefect: five lines in a notebook, thin over the stages of an analysis.

import pipeline
store = pipeline.ingest("runs/", "S.zarr")
pipeline.compute(store)
report = pipeline.assemble(store)                 # an xarray DataTree
pipeline.write_report(report, "out/")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from analyzers.errors import ArchiveError, ParameterError
from pipeline.analysis.request import AnalysisRequest
from pipeline.analysis.resolve import analyzers_of, find_archive
from pipeline.analysis.runner import PlainRunner
from pipeline.analysis.stages import ingest as ingest_stage
from pipeline.analysis.stages import open_store
from pipeline.units.selection import Selection

if TYPE_CHECKING:
    import xarray as xr

    from analyzers.contract import Analyzer
    from pipeline.compute.run import Summary
    from pipeline.store import Store


def ingest(folder: str | Path, store: str | Path, **options: Any) -> Store:
    """Reads the checkpoints of a folder into a store (made when there is none) and returns it.

    `options` are those of `varve ingest`: base, steps, metrics, name, step_pattern, step_scale, rehash. What cannot be
    read is listed in the store's run records; when nothing can, `ArchiveError`. A checkpoint that fails raises after
    the others are in.
    """
    from pipeline.analysis.events import CheckpointRead, Event

    request = AnalysisRequest.of(runs=folder, out=Path(store).parent, store=store, **options)
    reasons: list[str] = []

    def collect(event: Event, /) -> None:
        if isinstance(event, CheckpointRead) and event.reason:
            reasons.append(event.reason)

    source = find_archive(request)
    opened = open_store(request.store_path)
    ingest_stage(opened, source, request, PlainRunner(), collect)
    if reasons:
        raise ArchiveError("; ".join(reasons))
    return opened


def compute(
    store: Store | str | Path,
    analyzers: str | Sequence[str | Analyzer] | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    runs: str | Sequence[str] | None = None,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    steps: str | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    workers: int | None = None,
    scheduler: str | None = None,
    cache_bytes: int | None = None,
) -> Summary:
    """Computes what the analyzers need and the store does not hold; the second call computes nothing.

    A single text will do where several may stand. More than one worker means processes, which import the calling
    script again: guard it with ``if __name__ == "__main__":``. In a notebook nothing is needed.
    """
    from pipeline.compute.cluster import open_cluster
    from pipeline.compute.plan import plan
    from pipeline.compute.run import carry_out
    from pipeline.compute.work import CACHE_BYTES

    opened = _opened(store, "a")
    request = AnalysisRequest.of(
        runs=opened.path, include=include, exclude=exclude, steps=steps, device=device, workers=workers,
        scheduler=scheduler, cache_bytes=cache_bytes,
    )  # fmt: skip
    planned = plan(opened, configured(analyzers, settings), _selection(opened, request, runs))
    with open_cluster(request.workers, request.scheduler, request.device, planned) as cluster:
        limit = CACHE_BYTES if request.cache_bytes is None else request.cache_bytes
        return carry_out(opened, planned, cluster, cache_bytes=limit)


def assemble(
    store: Store | str | Path,
    analyzers: str | Sequence[str | Analyzer] | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    runs: str | Sequence[str] | None = None,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    steps: str | None = None,
) -> xr.DataTree:
    """The report as an xarray DataTree, from what is stored: one node per analyzer, and where it all comes from."""
    from pipeline.report import assemble as assemble_tree

    opened = _opened(store, "r")
    request = AnalysisRequest.of(runs=opened.path, include=include, exclude=exclude, steps=steps)
    return assemble_tree(opened, configured(analyzers, settings), _selection(opened, request, runs))


def _opened(store: Store | str | Path, mode: Literal["r", "a"]) -> Store:
    """The store, or the one at a path. Raises `ParameterError` for anything else."""
    from pipeline.store import Store as StoreClass

    if isinstance(store, str | Path):
        return StoreClass.open(store, mode)
    if not isinstance(store, StoreClass):
        raise ParameterError(f"a store is wanted, or its path, not {type(store).__name__}")
    return store


def _selection(store: Store, request: AnalysisRequest, runs: str | Sequence[str] | None) -> Selection:
    """What the request selects of these runs. Raises `ParameterError` for a step that no run has."""
    selection = request.selection(None if runs is None else (runs,) if isinstance(runs, str) else tuple(runs))
    selection.steps.check({run.id: [c.step for c in store.checkpoints(run.id)] for run in store.runs()})
    return selection


def write_report(tree: xr.DataTree, out: str | Path) -> tuple[Path, Path]:
    """Writes OUT/report.zarr and OUT/report.html and returns both paths."""
    from pipeline.report import save, write_html

    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    return save(tree, folder / "report.zarr"), write_html(tree, folder / "report.html")


def configured(
    analyzers: str | Sequence[str | Analyzer] | None, settings: Mapping[str, Mapping[str, Any]] | None
) -> tuple[Analyzer, ...]:
    """Analyzers by name (with settings) or ready made; all that are installed where None."""
    if analyzers is None:
        return analyzers_of(None, settings)
    analyzers = [analyzers] if isinstance(analyzers, str) else analyzers
    return tuple(a if not isinstance(a, str) else analyzers_of([a], settings)[0] for a in analyzers)
