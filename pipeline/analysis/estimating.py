"""What an analysis would cost, before anything runs: of an archive from its headers, of models from their configs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pipeline.analysis.request import AnalysisRequest
from pipeline.analysis.resolve import ArchiveSource, analyzers_for, find_archive

if TYPE_CHECKING:
    from analyzers.contract import Analyzer
    from pipeline.analysis.paper import PaperStore
    from pipeline.compute.calibration import Calibration
    from pipeline.compute.estimate import Estimate
    from pipeline.compute.plan import Plan
    from pipeline.report.groups import Extent
    from pipeline.store import Store


@dataclass(frozen=True)
class PlannedAnalysis:
    """The estimate if every new tensor differs from all others, and the one if all of a name are equal: what then
    happens lies between. `source_bytes` are those of the files' tensors."""

    name: str
    upper: Estimate
    lower: Estimate
    problems: tuple[str, ...] = ()


def plan_archive(request: AnalysisRequest, calibration: Calibration) -> PlannedAnalysis:
    """The plan of `varve analyze` with this request; reads headers, and the store's documents where there is one."""
    from pipeline.analysis.intake import resolve_bases

    analyzers = analyzers_for(request)
    source = find_archive(request)
    bases, problems = resolve_bases(source.archive, request.base, source.bases)
    said = (*source.archive.problems, *problems.values())
    known = _store(request)
    upper, lower = (
        _estimate(request, source, bases, known, analyzers, calibration, frozen) for frozen in (False, True)
    )
    return PlannedAnalysis(source.archive.name, upper, lower, tuple(dict.fromkeys(map(str, said))))


def _estimate(
    request: AnalysisRequest,
    source: ArchiveSource,
    bases: Any,
    known: Store | None,
    analyzers: Sequence[Analyzer],
    calibration: Calibration,
    frozen: bool,
) -> Estimate:
    from pipeline.analysis.paper import PaperStore

    paper = PaperStore(source.archive, bases, known, request.selection().steps, frozen, request.rehash)
    return estimate_paper(paper, analyzers, calibration, request)


def estimate_paper(
    paper: PaperStore, analyzers: Sequence[Analyzer], calibration: Calibration, request: AnalysisRequest
) -> Estimate:
    """The estimate of what the analyzers need of a store on paper."""
    from pipeline.compute.estimate import estimate
    from pipeline.compute.plan import plan
    from pipeline.report.groups import report_bytes

    store = cast("Store", paper)  # it answers what a plan asks for
    planned = plan(store, analyzers, request.selection(tuple(paper.run_ids)))
    read = sum(c.nbytes for c in paper.new)
    headers = paper.tensors().values()
    return estimate(
        planned,
        calibration,
        headers,
        read_bytes=read,
        checkpoints=len(paper.new),
        unchanged=paper.unchanged,
        report_units=planned.present + planned.missing,
        report_bytes=report_bytes(_extents(planned)),
    )


def _extents(planned: Plan) -> list[Extent]:
    """The steps and matrices that each run has in the report."""
    from pipeline.report.groups import Extent

    sources = planned.units.sources
    steps = {run.id: sources.steps(run.id) for run in sources.runs}
    names = {run: {name for step in of_run for name in sources.kept(run, step)} for run, of_run in steps.items()}
    return [Extent(run, frozenset(of_run), frozenset(names[run])) for run, of_run in steps.items()]


def _store(request: AnalysisRequest) -> Store | None:
    from pipeline.store import Store

    return Store.open(request.store_path) if request.store_path.exists() else None


def calibrate(say: Callable[[str], None] | None = None) -> tuple[Calibration, Path]:
    """Measures this machine and keeps it. `say` hears of it."""
    import time

    from pipeline.compute.calibration import save
    from pipeline.compute.probe import probe

    started = time.process_time()
    measured = probe((lambda what: say(f"Measuring {what} …")) if say else (lambda _: None))
    path = save(measured)
    if say:
        say(f"Measured in {time.process_time() - started:.0f} CPU seconds.")
    return measured, path
