"""A few tries of `tests.faults.flips` and `tests.faults.kills`; the scripts make all of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import xarray as xr

from analyzers.errors import ReportError
from pipeline.report import load, save, swap, verify_report
from tests.pipeline.report import synthetic


def test_a_report_that_was_killed_while_it_was_saved_is_the_old_or_the_new_one() -> None:
    words = [sys.executable, "-m", "tests.faults.kills", "--first", "60", "--stride", "40"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and "deaths" in done.stdout, done.stdout + done.stderr


@pytest.fixture
def report(tmp_path: Path) -> Path:
    return save(synthetic.tree(matrices=2, steps=(0, 10), intruders=False), tmp_path / "report.zarr")


def test_a_deleted_or_changed_file_of_a_report_is_noticed(report: Path) -> None:
    files = [path for path in sorted(report.rglob("*")) if path.is_file()]
    for file in files[:: max(1, len(files) // 12)]:
        whole = file.read_bytes()
        file.unlink()
        with pytest.raises(ReportError):
            load(report).load()
        file.write_bytes(whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:])
        with pytest.raises(ReportError):
            load(report).load()
        file.write_bytes(whole)
    assert verify_report(report) == []


def test_a_changed_chunk_is_an_error_in_xarray_alone(report: Path) -> None:
    chunk = next(path for path in sorted(report.rglob("*")) if path.is_file() and path.name != "zarr.json")
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(Exception, match="checksum"):
        xr.open_datatree(report, engine="zarr").load()


def test_a_deleted_chunk_is_an_error_here_and_fill_values_in_xarray_alone(report: Path) -> None:
    """Zarr has no setting for it: docs/report.md tells users to open reports with `varve.open_report`."""
    whole = load(report)["weight_spectra/stable_rank"].load()
    chunk = next(path for path in (report / "weight_spectra" / "stable_rank" / "c").rglob("*") if path.is_file())
    chunk.unlink()
    alone = xr.open_datatree(report, engine="zarr")["weight_spectra/stable_rank"].load()
    assert bool(whole.notnull().any()) and bool(alone.isnull().all())
    with pytest.raises(ReportError, match="is missing"):
        load(report)


def test_a_report_replaced_while_it_is_read_is_an_error_and_no_mixture(report: Path) -> None:
    opened = load(report)
    save(synthetic.tree(matrices=3, steps=(0, 10, 20), seed=1, intruders=False), report)
    with pytest.raises(ReportError, match=r"replaced during reading|is missing"):
        opened.load()


@pytest.mark.parametrize("exchanges", [True, False])
def test_what_killed_writers_left_is_swept_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool
) -> None:
    if not exchanges:
        monkeypatch.setattr(swap, "exchange", lambda one, other: False)
    target = tmp_path / "report.zarr"
    tree = synthetic.tree(matrices=2, steps=(0, 10), intruders=False)
    save(tree, target)
    dead = swap.fresh_path(target).name.replace(f"-{os.getpid()}-", "-999999999-")
    (tmp_path / dead).mkdir()
    living = swap.fresh_path(target)
    living.mkdir()
    (tmp_path / ".report.zarr.notes").mkdir()
    save(tree, target)
    names = {path.name for path in tmp_path.iterdir()}
    assert dead not in names and {living.name, ".report.zarr.notes"} <= names
    assert load(target).load() is not None and xr.open_datatree(target, engine="zarr") is not None


def test_a_leftover_that_cannot_be_removed_is_no_failure(report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pipeline.report.swap.shutil.rmtree", refused)
    save(synthetic.tree(matrices=3, intruders=False), report)
    assert verify_report(report) == []
