"""What a dead writer left is removed; what a living one is writing stays."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from analyzers.errors import StoreError
from pipeline.store import Store
from pipeline.store.documents import FILE
from pipeline.store.scratch import ABANDONED_AFTER_S, clean, open_lock, publish, scratch, store_errors

LEAVE = """
import os, sys
from pathlib import Path
from pipeline.store.scratch import scratch
with scratch(Path(sys.argv[1])) as folder:
    (folder / "half").write_bytes(b"half")
    print(folder.name, flush=True)
    if sys.argv[2] == "die":
        os._exit(9)
    sys.stdin.read()
"""


def leftovers(store: Store) -> set[str]:
    return {path.name for path in (store.path / "tmp").iterdir()} - {FILE}


def test_the_next_writer_removes_what_a_killed_one_left(store: Store) -> None:
    subprocess.run([sys.executable, "-c", LEAVE, str(store.path), "die"], check=False, stdout=subprocess.DEVNULL)
    assert len(leftovers(store)) == 1
    Store.open(store.path, "r")
    assert len(leftovers(store)) == 1, "a reader removes nothing"
    Store.open(store.path, "a")
    assert not leftovers(store)


def test_what_a_living_process_is_writing_stays(store: Store) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", LEAVE, str(store.path), "live"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        assert not clean(store.path)
        assert leftovers(store) == {name}
        process.communicate()
    assert not leftovers(store)


def test_a_process_id_given_to_somebody_else_does_not_protect_a_leftover(store: Store) -> None:
    with scratch(store.path) as mine:
        machine, pid, born, rest = mine.name.split("-")
    (store.path / "tmp" / f"{machine}-{pid}-{int(born) - 1000}-{rest}").mkdir()
    assert len(clean(store.path)) == 1


def test_a_leftover_of_another_machine_goes_when_it_is_old(store: Store) -> None:
    other = store.path / "tmp" / "0badcafe-1-1-abc"
    other.mkdir()
    assert not clean(store.path)
    long_ago = time.time() - 2 * ABANDONED_AFTER_S
    os.utime(other, (long_ago, long_ago))
    assert clean(store.path) == [other]


def test_publishing_onto_an_existing_name_changes_nothing(store: Store) -> None:
    for content, expected in ((b"first", True), (b"second", False)):
        with scratch(store.path) as folder:
            (folder / "value").write_bytes(content)
            assert publish(folder, store.path / "tensors" / "t") is expected
    assert (store.path / "tensors" / "t" / "value").read_bytes() == b"first"


@pytest.mark.parametrize(
    ("code", "words"),
    [(errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only"), (errno.EACCES, "no permission"), (errno.EIO, "")],
)
def test_a_system_error_names_the_path_and_the_way_out(code: int, words: str) -> None:
    with (
        pytest.raises(StoreError, match=f"/somewhere/S.zarr.*{words}"),
        store_errors(Path("/somewhere/S.zarr"), "write"),
    ):
        raise OSError(code, os.strerror(code))


def test_a_lock_is_no_link_and_other_accounts_cannot_open_it(tmp_path: Path) -> None:
    (tmp_path / "old.lock").touch(0o644)
    for name in ("old.lock", "new.lock"):
        os.close(open_lock(tmp_path / name))
        assert (tmp_path / name).stat().st_mode & 0o007 == 0
    (tmp_path / "link.lock").symlink_to("elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        open_lock(tmp_path / "link.lock")
    assert not (tmp_path / "elsewhere").exists()
