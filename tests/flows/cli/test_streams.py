"""Streams that are closed or full, and paths that no file system takes, end in a sentence."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipeline.store import Store
from tests.end_to_end.archives import command, write_run


@pytest.mark.parametrize(
    ("verb", "redirected"),
    [
        (["verify", "nowhere"], ">&- 2>&-"),
        (["verify", "nowhere"], ">/dev/full"),
        (["catalog", "list"], ">&-"),
        (["catalog", "list"], ">/dev/full"),
    ],
)
def test_a_closed_or_full_stream_is_no_traceback(verb: list[str], redirected: str) -> None:
    line = " ".join(map(str, command(*verb)))
    done = subprocess.run(["bash", "-c", f"{line} {redirected}"], capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr, done.stderr
    assert done.returncode in (0, 2)


def test_a_reader_who_has_seen_enough_does_not_end_the_work(tmp_path: Path) -> None:
    archive = write_run(tmp_path / "runs/a", 2)
    line = " ".join(map(str, command("ingest", archive, "--no-flow", "--store", tmp_path / "S.zarr")))
    script = f"{line} | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and not done.stderr, done.stderr
    store = Store.open(tmp_path / "S.zarr")
    assert [len(store.checkpoints(run.id)) for run in store.runs()] == [2]


def test_an_over_long_out_is_a_sentence(tmp_path: Path) -> None:
    archive = write_run(tmp_path / "runs/a", 1)
    words = command("ingest", archive, "--no-flow", "--store", tmp_path / ("x" * 300) / "S.zarr")
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "too long" in done.stderr and len(done.stderr) < 800
