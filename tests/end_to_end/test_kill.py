"""`kill -9` at any moment loses at most the work in flight: the same command completes, value for value."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from tests.end_to_end.archives import command, varve, write_adapter, write_run

VOLATILE = {"created", "elapsed", "duration"}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kill") / "runs"
    write_run(folder / "one", 6)
    write_run(folder / "two", 6, seed=3)
    for step in (10, 20, 30):
        write_adapter(folder / "lora", step, base="../../one/checkpoint-0", seed=step)
    return folder


def assert_equal_value_for_value(left: Path, right: Path) -> None:
    one, two = (xr.open_datatree(p, engine="zarr") for p in (left, right))
    assert set(one.groups) == set(two.groups)
    compared = 0
    for group in one.groups:
        if "provenance" in group or "archive" in group:
            continue
        a, b = one[group].to_dataset(inherit=False), two[group].to_dataset(inherit=False)
        assert set(a.variables) == set(b.variables), group
        for name in a.variables:
            np.testing.assert_array_equal(a[name].values, b[name].values, err_msg=f"{group}/{name}")
            compared += 1
    assert compared > 20


def kill_and_complete(archive: Path, work: Path, undisturbed: float, kills: int, seed: int) -> None:
    draw = random.Random(seed)
    arguments = ("analyze", archive, "--out", work, "--no-flow", "--device", "cpu")
    for _ in range(kills):
        process = subprocess.Popen(command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(draw.uniform(0.2, 1.0) * undisturbed)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = varve(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr


def undisturbed_run(archive: Path, out: Path) -> float:
    start = time.monotonic()
    done = varve("analyze", archive, "--out", out, "--no-flow", "--device", "cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    return time.monotonic() - start


def test_two_kills_change_nothing(archive: Path, tmp_path: Path) -> None:
    seconds = undisturbed_run(archive, tmp_path / "calm")
    kill_and_complete(archive, tmp_path / "killed", seconds, kills=2, seed=1)
    assert_equal_value_for_value(tmp_path / "calm/report.zarr", tmp_path / "killed/report.zarr")


@pytest.mark.slow
def test_ten_kills_change_nothing(archive: Path, tmp_path: Path) -> None:
    seconds = undisturbed_run(archive, tmp_path / "calm")
    kill_and_complete(archive, tmp_path / "killed", seconds, kills=10, seed=2)
    assert_equal_value_for_value(tmp_path / "calm/report.zarr", tmp_path / "killed/report.zarr")
