"""Ctrl-C: says so, leaves no process behind, and the same command completes the work."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.end_to_end.archives import command, varve, write_run

SHAPES = {f"layers.{layer}.mlp.up_proj.weight": (224, 224) for layer in range(6)}


def wait_for(log: Path, text: str, process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while text not in log.read_text():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupted_analysis_is_completed_by_the_same_command(tmp_path: Path, number: signal.Signals) -> None:
    archive = write_run(tmp_path / "runs/a", 6, shapes=SHAPES)
    words = ["analyze", archive, "--out", tmp_path / "out", "--no-flow", "--analyzers", "weight_spectra"]
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command(*words), stdout=output, stderr=subprocess.STDOUT)
        wait_for(log, "Computing on", process)
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        code = process.wait(60)
    said = log.read_text()
    assert code == 130, said
    assert "run the same command to continue" in said and "Traceback" not in said
    _, alive = psutil.wait_procs(family, timeout=10)
    assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []

    done = varve(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "already holds 6 checkpoints, unchanged" in done.stdout
    assert (tmp_path / "out/report.html").exists()


def test_an_interrupt_that_lands_in_a_callback_is_not_lost() -> None:
    code = """
import os, signal, time, weakref
from flows.cli.app import stop_gracefully
stop_gracefully()
class Thing: pass
thing = Thing()
reference = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGINT))
try:
    del thing
    for _ in range(200):
        time.sleep(0.05)
    print("went on")
except KeyboardInterrupt:
    print("stopped")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "stopped\n", done.stderr
