"""One writer on a store at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from analyzers.errors import StoreError
from pipeline.analysis.lock import StoreBusy, writing
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
        "import os, sys; from pathlib import Path; from pipeline.analysis.lock import writing\n"
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


def test_the_lock_is_no_link_and_no_other_account_can_take_it(tmp_path: Path) -> None:
    mine = tmp_path / "letters"
    mine.write_text("dear diary")
    lock = tmp_path / "S.zarr.lock"
    lock.symlink_to(mine)
    with pytest.raises(StoreError, match=r"S\.zarr\.lock is a symbolic link.*remove it"), writing(tmp_path / "S.zarr"):
        pass
    assert mine.read_text() == "dear diary"
    lock.unlink()
    lock.touch(0o644)  # as earlier versions made it
    for _ in range(2):
        with writing(tmp_path / "S.zarr"):
            assert lock.stat().st_mode & 0o007 == 0  # whoever can open it can lock it for ever
        lock.unlink()


@pytest.mark.parametrize(
    ("place", "told"),
    [("x" * 300, "too long"), ("x" * 252, "too long"), ("loop/S.zarr", "leads nowhere"), ("file/S.zarr", "a file")],
)
def test_a_place_where_no_store_can_be_is_told(tmp_path: Path, place: str, told: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=told), writing(tmp_path / place):
        pass
