"""The number of files grows with checkpoints, not with matrices: `benchmarks/scale_store.py` measures the full size."""

from __future__ import annotations

from pathlib import Path

from pipeline.archive.types import Run
from pipeline.store import Store, ingest_checkpoint, record_run
from tests.benchmarks.scale_store import (
    files_under,
    open_synthetic,
    statistic_values,
    synthetic_checkpoint,
    synthetic_layout,
)

CHECKPOINTS, MATRICES = 20, 300


def test_twenty_checkpoints_of_three_hundred_matrices_take_few_files(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "S.zarr")
    layout = synthetic_layout(MATRICES)
    record_run(store, Run("synthetic", Path("/nowhere/synthetic"), ()))
    for step in range(CHECKPOINTS):
        ingest_checkpoint(store, synthetic_checkpoint(step, layout), layout, open_tensors=open_synthetic)
    # A pack (two files) and a manifest each; the layout, the run and the rooms once.
    assert files_under(store.path) <= 3 * CHECKPOINTS + 20
    seen: set[str] = set()
    for record in Store.open(store.path).checkpoints("synthetic"):
        matrices = store.matrices(record)
        assert len(matrices) == MATRICES
        new = [matrix.key for matrix in matrices if matrix.key not in seen]
        store.statistic("spectrum").write([(key, statistic_values(key)) for key in new])
        seen.update(new)
    assert len(seen) == MATRICES // 2 * (CHECKPOINTS + 1), "half of them are frozen, and counted once"
    assert files_under(store.path / "statistics" / "spectrum") < 10 * CHECKPOINTS, "10 000 for a thousand"
    assert Store.open(store.path).statistic("spectrum").keys() == seen
