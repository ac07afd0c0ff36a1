"""One writer on a store at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.lock import StoreBusy, writing
from tests.end_to_end.archives import write_run


def test_the_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    again = writing(tmp_path / "S.zarr")
    with writing(tmp_path / "S.zarr"), pytest.raises(StoreBusy, match=f"process {os.getpid()}, since"), again:
        pytest.fail("two writers")


def test_two_stores_have_two_writers(tmp_path: Path) -> None:
    with writing(tmp_path / "S.zarr"), writing(tmp_path / "T.zarr"):
        pass


def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from flows.lock import writing\n"
        "with writing(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "S.zarr")], check=False)
    assert done.returncode == -9
    with writing(tmp_path / "S.zarr"):
        pass


def test_a_scheduled_run_steps_aside_while_another_writes(tmp_path: Path) -> None:
    from flows.nightly import nightly

    archive = write_run(tmp_path / "runs", 1)
    options = {"runs": str(archive), "out": str(tmp_path), "store": str(tmp_path / "S.zarr")}
    with writing(tmp_path / "S.zarr"):
        state = nightly.fn(options)
    assert state.name == "Skipped" and state.is_completed() and "another varve" in str(state.message)


def test_the_lock_holds_through_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with writing(tmp_path / "real"), pytest.raises(StoreBusy), writing(tmp_path / "link"):
        pass
    with writing(tmp_path / "link"), pytest.raises(StoreBusy), writing(tmp_path / "real"):
        pass
