"""What a schedule survives: `python -m tests.faults.schedule [FOLDER] [--only NAME]` prints one line per fault.

Each fault strikes while a scheduled run computes. Three nights follow, a minute apart, each with a new checkpoint;
whoever was killed is started again as a service manager or a person would. A fault passes when the three nights have
completed, every checkpoint is in the report, and no earlier run still counts as running. About five minutes each.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import torch
import xarray as xr
from safetensors.torch import save_file

from flows import prefect_env
from tests.end_to_end.archives import command

NIGHTS = 3
SIZE = 384
LOCKED_SECONDS = 70


class Site:
    """One archive, one store, one Prefect home, and the command `varve schedule` on them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home, self.out = folder, folder / "home", folder / "out"
        self.steps: list[int] = []
        self.process: subprocess.Popen[bytes] | None = None
        self.stranger: subprocess.Popen[bytes] | None = None
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        self.environment |= {"PREFECT_HOME": str(self.home), "OMP_NUM_THREADS": "1"}
        self.home.mkdir(parents=True)

    def add_checkpoint(self) -> None:
        step = len(self.steps) * 10
        generator = torch.Generator().manual_seed(step)
        names = [f"layers.{layer}.mlp.{part}.weight" for layer in range(4) for part in ("up_proj", "down_proj")]
        tensors = {name: torch.randn(SIZE, SIZE, generator=generator) for name in names}
        scratch = self.folder / f"new-{step}"
        scratch.mkdir()
        save_file(tensors, scratch / "model.safetensors")
        (self.folder / "runs/a").mkdir(parents=True, exist_ok=True)
        scratch.rename(self.folder / f"runs/a/checkpoint-{step}")
        self.steps.append(step)

    def start(self) -> None:
        words = ["schedule", self.folder / "runs", "--cron", "* * * * *", "--timezone", "UTC", "--out", self.out]
        # Null draws of a verdict near its edge would take longer than the minute between two nights.
        words += ["--analyzers", "weight_spectra"]
        self.process = subprocess.Popen(
            command(*words),
            stdout=(self.folder / "log").open("ab"),
            stderr=subprocess.STDOUT,
            env=self.environment,
            start_new_session=True,
        )

    def record(self) -> dict[str, Any]:
        return dict(json.loads((self.home / "varve-server.json").read_text()))

    def runs(self, *states: str) -> list[dict[str, Any]]:
        record = self.record()
        body = {"flow_runs": {"state": {"type": {"any_": list(states)}}}, "sort": "START_TIME_ASC"}
        with httpx.Client(headers=prefect_env._authorization(record["auth"]), timeout=120) as client:
            token = client.get(f"{record['url']}/csrf-token", params={"client": "faults"}).json()["token"]
            headers = {"Prefect-Csrf-Client": "faults", "Prefect-Csrf-Token": token}
            return list(client.post(f"{record['url']}/flow_runs/filter", json=body, headers=headers).json())

    def family(self) -> list[psutil.Process]:
        """All processes of this site: those whose environment names its Prefect home."""
        members = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("PREFECT_HOME") == str(self.home):
                    members.append(process)
            except psutil.Error:
                continue
        return members

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(90)
        _kill(self.family())


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=20)


def wait_until(true: Callable[[], Any], what: str, seconds: float = 420) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if answer := true():
                return answer
        except (httpx.HTTPError, OSError, ValueError, KeyError):
            pass  # the server is down at the moment, which is what this script is about
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {seconds:.0f} s")
        time.sleep(0.5)


def server_killed(site: Site) -> None:
    """The Prefect server is killed; `varve schedule` stays."""
    _kill([psutil.Process(int(site.record()["pid"]))])


def everything_killed(site: Site) -> None:
    """Server, schedule, run and workers are killed; the schedule is started again."""
    _kill(site.family())
    site.start()


def rebooted(site: Site) -> None:
    """As after a loss of power: all processes are gone, lock files and records stay, the port is somebody else's."""
    port = int(str(site.record()["url"]).split(":")[2].removesuffix("/api"))
    _kill(site.family())
    time.sleep(1)
    words = ["python3", "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    site.stranger = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(2)
    site.start()


def run_killed(site: Site) -> None:
    """Only the process of the run is killed, as the kernel does when memory runs out."""
    for process in site.family():
        if "PREFECT__FLOW_RUN_ID" in process.environ() and process.is_running():
            _kill([process])


def database_locked(site: Site) -> None:
    """Another program holds a write lock on Prefect's database."""
    with sqlite3.connect(site.home / "prefect.db", timeout=60, isolation_level=None) as database:
        database.execute("BEGIN EXCLUSIVE")
        time.sleep(LOCKED_SECONDS)
        database.execute("ROLLBACK")


def stopped(site: Site) -> None:
    """SIGTERM, as from a service manager; the run must end as cancelled, and the schedule is started again."""
    assert site.process is not None
    site.process.send_signal(signal.SIGTERM)
    code = site.process.wait(90)
    assert code == 0, f"exit code {code}"
    assert site.runs("CANCELLED"), "the run that was under way is not cancelled"
    site.start()


FAULTS = {
    fault.__name__: fault
    for fault in (server_killed, everything_killed, rebooted, run_killed, database_locked, stopped)
}


def strike(fault: Callable[[Site], None], folder: Path) -> str:
    """One fault and the three nights after it; "" when all is well, else what is not."""
    site = Site(folder)
    for _ in range(2):
        site.add_checkpoint()
    site.start()
    try:
        wait_until(lambda: (site.out / "store.zarr").exists() and site.runs("RUNNING"), "a first run")
        fault(site)
        struck = time.time()
        for night in range(NIGHTS):
            site.add_checkpoint()
            step = site.steps[-1]
            wait_until(lambda step=step: step in _reported(site), f"night {night + 1}: step {step} in the report")
        wait_until(lambda: len(site.runs("COMPLETED")) >= NIGHTS, f"{NIGHTS} completed runs")
        wait_until(lambda: all(_recent(run, struck) for run in site.runs("RUNNING", "PENDING")), "no dead run")
        failed = [run["name"] for run in site.runs("FAILED")]
        return f"failed runs: {failed}" if failed else ""
    except (TimeoutError, AssertionError) as error:
        return f"{error}\n{(folder / 'log').read_text()[-3000:]}"
    finally:
        site.end()
        if site.stranger is not None:
            site.stranger.kill()


def _reported(site: Site) -> set[int]:
    tree = xr.open_datatree(site.out / "report.zarr", engine="zarr")
    return {int(step) for step in tree["weight_spectra"].step.values}


def _recent(run: dict[str, Any], since: float) -> bool:
    from datetime import datetime

    return datetime.fromisoformat(run["start_time"] or run["created"]).timestamp() > since


def main() -> None:
    """Runs the faults one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=None)
    parser.add_argument("--only", choices=FAULTS, action="append")
    chosen = parser.parse_args()
    folder = chosen.folder or Path(tempfile.mkdtemp(prefix="faults-"))
    for name in chosen.only or FAULTS:
        began = time.monotonic()
        trouble = strike(FAULTS[name], folder / name)
        print(
            f"{name:20} {'well' if not trouble else 'NOT WELL: ' + trouble} ({time.monotonic() - began:.0f} s)",
            flush=True,
        )


if __name__ == "__main__":
    main()
