"""How a report stands 1000 checkpoints × 300 small matrices: `python -m tests.benchmarks.scale_report [checkpoints]`.

The statistics of the first checkpoint are computed; its matrices' results stand, under their own keys, for those of
the later checkpoints. Prints files per statistic and seconds to build, open, assemble, save and write the page.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from analyzers.weight_spectra import WeightSpectra
from pipeline.archive.types import Run
from pipeline.compute.cluster import ThreadCluster
from pipeline.compute.run import compute
from pipeline.report import assemble, save, write_html
from pipeline.report.results import Results
from pipeline.store import Store, ingest_checkpoint, record_run
from pipeline.units.selection import Selection
from tests.benchmarks import scale_store

SPECTRA = WeightSpectra(WeightSpectra.Parameters(track=False))
"""The report of scalars: modes are followed by vectors, which the synthetic later checkpoints do not have."""
SIDE = 24
"""Enough singular values for a power law."""


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Prints wall and CPU seconds of the block."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    print(f"{what:<34}{time.perf_counter() - wall:8.1f} s {time.process_time() - cpu:8.1f} CPU s", flush=True)


def fill(store: Store) -> None:
    """Writes results for every checkpoint, one batch per statistic and checkpoint."""
    statistics = SPECTRA.statistics()
    results = Results(store, statistics, Selection())
    for statistic in statistics:
        places = results.found(statistic).places
        table = store.statistic(statistic.name)
        first = {matrix: key for (_, step, matrix), key in places.items() if step == 0}
        values = table.read(first.values())
        by_step: dict[int | None, dict[str, str | None]] = {}
        for (_, step, matrix), key in places.items():
            by_step.setdefault(step, {})[key] = matrix
        seen = set(first.values())
        for keys in by_step.values():
            new = {key: matrix for key, matrix in keys.items() if key not in seen}
            seen.update(new)
            rows = [(key, value) for key, m in new.items() if not isinstance(value := values[first[m]], str)]
            if rows:
                table.write(rows, provenance={"version": statistic.version})


def main(checkpoints: int) -> None:
    """Builds the store and prints what its report costs."""
    root = Path(tempfile.mkdtemp(prefix="varve-scale-report-"))
    scale_store.SIDE = SIDE
    layout = scale_store.synthetic_layout()
    store = Store.create(root / "S.zarr")
    record_run(store, Run("synthetic", Path("/nowhere/synthetic"), ()))

    def ingest(step: int) -> None:
        checkpoint = scale_store.synthetic_checkpoint(step, layout)
        ingest_checkpoint(store, checkpoint, layout, open_tensors=scale_store.open_synthetic)

    with timed("compute the first checkpoint"):
        ingest(0)
        with ThreadCluster(1) as cluster:
            compute(store, [SPECTRA], cluster)
    with timed(f"ingest {checkpoints} checkpoints"):
        for step in range(1, checkpoints):
            ingest(step)
    with timed("write the statistics"):
        fill(store)
    with timed("compact, as the pipeline does"):
        for statistic in SPECTRA.statistics():
            store.statistic(statistic.name).compact()
    for folder in sorted((store.path / "statistics").iterdir()):
        if folder.is_dir():
            print(f"  {folder.name:<32}{scale_store.files_under(folder):8d} files")
    with timed("open the store and all tables"):
        store = Store.open(store.path)
        for statistic in SPECTRA.statistics():
            store.statistic(statistic.name).keys()
    with timed("assemble"):
        tree = assemble(store, [SPECTRA])
    with timed("save"):
        save(tree, root / "report.zarr")
    with timed("write the page"):
        page = write_html(tree, root / "report.html")
    print(f"{'bytes of the page':<34}{page.stat().st_size:10d}")
    shutil.rmtree(root)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
