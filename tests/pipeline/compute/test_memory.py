"""A worker's memory is bounded by one matrix, whatever the size of the checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.memory import WORKER_BYTES, ingest, make_archive, measure

SIDE = 1024


@pytest.mark.slow
@pytest.mark.parametrize(("analyzer", "copies"), [("weight_spectra", 3), ("intruder_dimensions", 5)])
def test_the_peak_of_a_worker_keeps_the_promise(tmp_path: Path, analyzer: str, copies: int) -> None:
    runs = make_archive(tmp_path, SIDE, matrices=8)
    limit = WORKER_BYTES + copies * 8 * SIDE**2
    peaks = [ingest(runs, tmp_path / "S.zarr"), *measure(tmp_path / "S.zarr", analyzer)]
    assert not [peak for peak in peaks if peak.peak > limit]
