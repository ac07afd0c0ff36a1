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

from analyzers.errors import ArchiveError
from pipeline.analysis.request import AnalysisRequest
from pipeline.analysis.resolve import analyzers_of, find_archive
from pipeline.analysis.runner import PlainRunner
from pipeline.analysis.stages import ingest as ingest_stage
from pipeline.analysis.stages import open_store
from pipeline.units.selection import Selection, parse_steps

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
    from pipeline.compute.run import carry_out
    from pipeline.compute.work import CACHE_BYTES

    planned = plan(store, configured(analyzers, settings), _selection(runs, include, exclude, steps))
    with open_cluster(workers, scheduler, device, planned) as cluster:
        limit = CACHE_BYTES if cache_bytes is None else cache_bytes
        return carry_out(store, planned, cluster, cache_bytes=limit)


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
    return assemble_tree(opened, configured(analyzers, settings), _selection(runs, include, exclude, steps))


def _selection(
    runs: Sequence[str] | None, include: Sequence[str], exclude: Sequence[str], steps: str | None
) -> Selection:
    return Selection(None if runs is None else tuple(runs), tuple(include), tuple(exclude), parse_steps(steps))


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
