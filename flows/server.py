"""The persistent local Prefect server that schedules need: started once in the background, found again, stopped.

Its address, process and log stand in PREFECT_HOME/varve-server.json. An ephemeral server polls but never fires a
schedule, so `varve schedule` wants this one or one that the user runs.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from flows.prefect_env import PrefectUnavailable, answers, prepare

DEFAULT_PORT = 4200
START_SECONDS = 180.0


@dataclass(frozen=True)
class LocalServer:
    """A server on this machine. `pid` 0: it answers at the default address, but somebody else started it."""

    url: str
    pid: int
    log: str


def home() -> Path:
    """PREFECT_HOME, without importing Prefect."""
    return Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()


def _record() -> Path:
    return home() / "varve-server.json"


def _log() -> Path:
    return home() / "varve-server.log"


def recorded() -> LocalServer | None:
    """The server that we started last, whether or not it still runs."""
    try:
        data = json.loads(_record().read_text(encoding="utf-8"))
        return LocalServer(str(data["url"]), int(data["pid"]), str(data["log"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def running() -> LocalServer | None:
    """The server that we started, or one at Prefect's default address, if it answers."""
    server = recorded()
    if server is not None and answers(server.url, 3.0) is None:
        return server
    default = f"http://127.0.0.1:{DEFAULT_PORT}/api"
    if _listens(DEFAULT_PORT) and answers(default, 3.0) is None:
        return LocalServer(default, 0, "")
    return None


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    """The default port where it is free, else any free one."""
    for port in (DEFAULT_PORT, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise PrefectUnavailable("no free port on 127.0.0.1 for a Prefect server")


def start(tell: Callable[[str], None] = lambda line: None) -> LocalServer:
    """Starts a server that outlives this process and waits until it answers. Raises `PrefectUnavailable`."""
    prepare()
    port = _free_port()
    url, log = f"http://127.0.0.1:{port}/api", _log()
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "PREFECT_API_URL": url, "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO"}
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C in our terminal must not reach it
            )
    except OSError as error:
        raise PrefectUnavailable(f"a Prefect server cannot be started, its log is {log}: {error}") from error
    tell(f"Starting a Prefect server at {url.removesuffix('/api')} (half a minute the first time); its log: {log}")
    deadline = time.monotonic() + START_SECONDS
    while answers(url, 2.0) is not None:
        if process.poll() is not None:
            raise PrefectUnavailable(f"the Prefect server ended with exit code {process.returncode}; see {log}")
        if time.monotonic() > deadline:
            _kill(process.pid)
            raise PrefectUnavailable(f"the Prefect server did not answer within {START_SECONDS:.0f} s; see {log}")
        time.sleep(0.3)
    server = LocalServer(url, process.pid, str(log))
    scratch = _record().with_suffix(".tmp")
    scratch.write_text(json.dumps(asdict(server)), encoding="utf-8")
    scratch.replace(_record())
    return server


def _kill(pid: int) -> None:
    """Ends the process and what it started: politely, then not."""
    try:
        parent = psutil.Process(pid)
        family = [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in family:
        try:
            process.send_signal(signal.SIGTERM)
        except psutil.NoSuchProcess:
            continue
    _, alive = psutil.wait_procs(family, timeout=10)
    for process in alive:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def stop() -> LocalServer | None:
    """Stops the server that we started, if it runs; returns it, or None when there was none of ours."""
    server = recorded()
    if server is None:
        return None
    ours = server.pid if _is_prefect(server.pid) else 0
    if ours:
        _kill(ours)
    _record().unlink(missing_ok=True)
    return server if ours else None


def _is_prefect(pid: int) -> bool:
    """Whether `pid` still is a Prefect server: process ids are given out anew."""
    try:
        return any("prefect" in part for part in psutil.Process(pid).cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
