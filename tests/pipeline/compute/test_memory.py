"""A worker's memory is bounded by one matrix, whatever the size of the checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.memory import ingest, make_archive, measure

SIDE = 1536
SLACK = 128 * 2**20
"""What libraries load and allocate on first use, and the 64 MiB of decoded packs."""


@pytest.mark.slow
def test_the_peak_of_a_worker_is_a_few_copies_of_one_matrix(tmp_path: Path) -> None:
    runs = make_archive(tmp_path, SIDE, matrices=8)
    copy = 8 * SIDE**2
    peaks = [(ingest(runs, tmp_path / "S.zarr"), 3)]
    for analyzer, copies in (("weight_spectra", 3), ("intruder_dimensions", 5)):
        peaks += [(peak, copies) for peak in measure(tmp_path / "S.zarr", analyzer)]
    above = [peak for peak, copies in peaks if peak.peak - peak.before > copies * copy + SLACK]
    assert not above
