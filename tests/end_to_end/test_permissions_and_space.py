"""A read-only folder and a full disk end in a message that names the path and the way out, and lose nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.archives import command, varve, write_run


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 kB, or a skip where the tests may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = shutil.which("mount") and os.geteuid() == 0
    if (
        not mounted
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", folder], check=False).returncode
    ):
        pytest.skip("mounting a small tmpfs needs root and CAP_SYS_ADMIN")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_named_and_the_same_command_completes_with_more_space(small_disk: Path, tmp_path: Path) -> None:
    archive = write_run(tmp_path / "runs/big", 4, shapes={"layers.0.mlp.up_proj.weight": (256, 256)})
    arguments = ("analyze", archive, "--no-flow", "--device", "cpu", "--out", small_disk / "out")
    done = varve(*arguments)
    text = done.stdout + done.stderr
    assert done.returncode in (2, 3), text
    assert "Traceback" not in text
    assert "space" in text.lower() and str(small_disk) in text
    subprocess.run(["mount", "-o", "remount,size=200m", small_disk], check=True)
    done = varve(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert varve("verify", small_disk / "out/store.zarr").returncode == 0


def test_a_read_only_output_folder_is_named(tmp_path: Path) -> None:
    archive = write_run(tmp_path / "runs", 1)
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o555)
    call = command("analyze", archive, "--no-flow", "--device", "cpu", "--out", locked / "out")
    if os.geteuid() == 0:
        # Root writes anywhere: run the command without the capability that lets it.
        if shutil.which("setpriv") is None:
            pytest.skip("dropping root's CAP_DAC_OVERRIDE needs setpriv")
        dropped = "-dac_override,-dac_read_search"
        call = ["setpriv", f"--bounding-set={dropped}", f"--inh-caps={dropped}", *call]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120, check=False)
    text = done.stdout + done.stderr
    assert done.returncode == 2, text
    assert "Traceback" not in text
    assert "locked" in text and "writ" in text.lower()
