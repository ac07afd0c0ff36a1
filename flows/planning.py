"""What an analysis would cost, before anything runs: of an archive from its headers, of models from their configs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from flows.analysis import Source, analyzers_for, find_archive
from flows.options import AnalyzeOptions
from pipeline.selection import parse_steps

if TYPE_CHECKING:
    from analyzers.contract import Analyzer
    from pipeline.compute.calibration import Calibration
    from pipeline.compute.estimate import Estimate
    from pipeline.compute.plan import Plan
    from pipeline.paper import PaperStore
    from pipeline.report.groups import Extent
    from pipeline.store import Store


@dataclass(frozen=True)
class Planned:
    """The estimate if every new tensor differs from all others, and the one if all of a name are equal: what then
    happens lies between. `source_bytes` are those of the files' tensors."""

    name: str
    upper: Estimate
    lower: Estimate
    problems: tuple[str, ...] = ()


def plan_archive(options: AnalyzeOptions, calibration: Calibration) -> Planned:
    """The plan of `varve analyze` with these options; reads headers, and the store's documents where there is one."""
    from pipeline.intake import resolve_bases

    analyzers = analyzers_for(options)
    source = find_archive(options)
    bases, problems = resolve_bases(source.archive, options.base, source.bases)
    said = (*source.archive.problems, *problems.values())
    known = _store(options)
    upper, lower = (
        _estimate(options, source, bases, known, analyzers, calibration, frozen) for frozen in (False, True)
    )
    return Planned(source.archive.name, upper, lower, tuple(dict.fromkeys(map(str, said))))


def _estimate(
    options: AnalyzeOptions,
    source: Source,
    bases: Any,
    known: Store | None,
    analyzers: Sequence[Analyzer],
    calibration: Calibration,
    frozen: bool,
) -> Estimate:
    from pipeline.paper import PaperStore

    steps = parse_steps(options.steps)
    paper = PaperStore(source.archive, bases, known, steps, frozen, options.rehash)
    return estimate_paper(paper, analyzers, calibration, options)


def estimate_paper(
    paper: PaperStore, analyzers: Sequence[Analyzer], calibration: Calibration, options: AnalyzeOptions
) -> Estimate:
    """The estimate of what the analyzers need of a store on paper."""
    from pipeline.compute.estimate import estimate
    from pipeline.compute.plan import plan
    from pipeline.report.groups import report_bytes

    store = cast("Store", paper)  # it answers what a plan asks for
    planned = plan(store, analyzers, paper.run_ids, options.include, options.exclude, parse_steps(options.steps))
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


def _store(options: AnalyzeOptions) -> Store | None:
    from pipeline.store import Store

    return Store.open(options.store_path) if options.store_path.exists() else None


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
