"""A schedule fires, its second run picks up what came in between, and nothing is left running.

With the wrong fastapi every flow fails, and with the wrong SQLAlchemy a schedule silently never fires: this sees it.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import xarray as xr

from flows import prefect_env
from tests.end_to_end.archives import command, write_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def api(home: Path, path: str, body: dict[str, Any]) -> Any:
    """A reading call of the server's REST API, without Prefect's client in between."""
    record = json.loads((home / "varve-server.json").read_text())
    with httpx.Client(headers=prefect_env._authorization(record["auth"]), timeout=30) as client:
        client_id = {"Prefect-Csrf-Client": "tests"}
        token = client.get(f"{record['url']}/csrf-token", params={"client": "tests"}).json()["token"]
        return client.post(
            f"{record['url']}{path}", json=body, headers=client_id | {"Prefect-Csrf-Token": token}
        ).json()


def wait_until(true: Callable[[], Any], what: str, log: Path, seconds: float = 420) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, f"{what} did not happen in {seconds} s:\n{log.read_text()}"
        time.sleep(1)
    return found


def flow_runs(home: Path, name: str, **state: Any) -> list[dict[str, Any]]:
    wanted = {"flows": {"name": {"any_": [name]}}, "sort": "START_TIME_ASC"}
    return api(home, "/flow_runs/filter", wanted | ({"flow_runs": {"state": state}} if state else {}))


def test_a_scheduled_run_is_created_executed_and_sees_new_checkpoints(
    prefect_home: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    archive, out, log = tmp_path / "runs", tmp_path / "out", tmp_path / "log"
    write_run(archive / "a", [0, 10])
    words = ["schedule", archive, "--cron", "* * * * *", "--timezone", "UTC", "--out", out]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command(*words, "--analyzers", "weight_spectra"), stdout=output, stderr=subprocess.STDOUT, env=environment
        )
    try:

        def completed() -> list[dict[str, Any]]:
            return flow_runs(prefect_home, "nightly", type={"any_": ["COMPLETED"]})

        first = wait_until(completed, "a first scheduled run", log)[0]
        assert first["auto_scheduled"], first
        steps = xr.open_datatree(out / "report.zarr", engine="zarr")["weight_spectra"].step.values.tolist()
        assert steps == [0, 10]

        write_run(archive / "later", [0, 10, 20])  # written aside, then moved in whole
        (archive / "later/checkpoint-20").rename(archive / "a/checkpoint-20")
        for leftover in ("checkpoint-0", "checkpoint-10"):
            (archive / "later" / leftover / "model.safetensors").unlink()

        def picked_up() -> bool:
            tree = xr.open_datatree(out / "report.zarr", engine="zarr")
            return 20 in tree["weight_spectra"].step.values

        wait_until(picked_up, "the new checkpoint in the report", log)
        wait_until(lambda: len(completed()) >= 2, "a second completed run", log)

        artifacts = api(prefect_home, "/artifacts/filter", {})
        assert any(a["key"] == "varve-nightly" and "report.html" in a["data"] for a in artifacts)
        tasks = api(prefect_home, "/task_runs/filter", {"flow_runs": {"id": {"any_": [first["id"]]}}})
        names = sorted(task["name"] for task in tasks)
        assert [n for n in names if "@" in n] == ["runs/a@0", "runs/a@10"]
        assert "weight_spectra" in names
    finally:
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        code = process.wait(60)
    said = log.read_text()
    assert "next" in said and "Prefect server: http://127.0.0.1:" in said
    assert "is still running" in said and "--stop-server" in said, said
    assert code == 0, said
    _, alive = psutil.wait_procs(family, timeout=20)
    assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []
    (deployment,) = api(prefect_home, "/deployments/filter", {})
    assert deployment["concurrency_limit"] is None, "a slot that a killed process held would block every later run"
    assert deployment["paused"]


def test_analyze_uses_the_server_that_runs_and_leaves_its_pieces_as_tasks(
    prefect_home: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    archive = write_run(tmp_path / "pieces", 3)
    words = ["analyze", archive, "--out", tmp_path / "out", "--analyzers", "weight_spectra"]
    done = subprocess.run(command(*words), capture_output=True, text=True, env=environment, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Prefect server: http://127.0.0.1:" in done.stdout and "temporary" not in done.stdout
    assert done.stderr == ""  # the terminal shows our own lines only
    (run,) = flow_runs(prefect_home, "analyze")
    assert run["state_type"] == "COMPLETED"
    tasks = api(prefect_home, "/task_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})
    names = sorted(task["name"] for task in tasks)
    assert [n for n in names if "@" in n] == ["pieces@0", "pieces@10", "pieces@20"]
    assert any(n.endswith("units") for n in names) and "weight_spectra" in names
