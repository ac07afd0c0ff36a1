"""What a schedule does when its server has died: nobody who takes its port is obeyed, or told the password."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from flows import deployment, keeper, server
from flows.keeper import Keeper
from flows.schedule import Schedule
from flows.server import LocalServer
from pipeline.analysis.request import AnalysisRequest


class _Impostor(http.server.BaseHTTPRequestHandler):
    """Answers as Prefect does, to anybody."""

    asked: list[str] = []  # noqa: RUF012 - one for the class: the server makes an object per request

    def do_GET(self) -> None:
        self.asked.append(f"{self.path} {self.headers.get('Authorization')}")
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"true" if self.path.endswith("health") else b'"3.8.0"')

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def impostor() -> Iterator[int]:
    """The port of a server that is not ours."""
    _Impostor.asked.clear()
    with http.server.HTTPServer(("127.0.0.1", 0), _Impostor) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield listening.server_address[1]
        listening.shutdown()


def _ended(port: int) -> LocalServer:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return LocalServer(f"http://127.0.0.1:{port}/api", process.pid, time.time(), "varve:secret", "log")


@pytest.mark.parametrize("kept", [False, True])
def test_what_answers_at_the_port_of_a_dead_server_is_not_asked(
    kept: bool, impostor: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = _ended(impostor)
    me = psutil.Process()
    new = replace(dead, pid=me.pid, began=me.create_time(), auth=dead.auth if kept else "varve:another")
    monkeypatch.setattr(server, "recorded", lambda: dead)
    monkeypatch.setattr(server, "keeps", lambda server: kept)
    monkeypatch.setattr(server, "ensure", lambda tell, like: new)
    monkeypatch.setattr(deployment, "apply", lambda options, schedule: None)
    for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING"):
        monkeypatch.setenv(name, "")  # restored at the end
    told: list[str] = []
    options = AnalysisRequest(runs=str(tmp_path), out=str(tmp_path))
    watching = Keeper(options, Schedule("0 2 * * *", "UTC"), dead.url, told.append)
    runs = watching._child = subprocess.Popen(["sleep", "60"], stdin=subprocess.PIPE)
    try:
        watching._look_at_server()
        assert not _Impostor.asked
        assert (runs.poll() is None) == kept, "runs go on only where nobody else can have had the port"
        assert any("has ended: starting it again" in line for line in told)
        assert watching._server == new
    finally:
        runs.kill()
        runs.wait()


def test_a_server_that_ends_is_noticed_at_once() -> None:
    process = subprocess.Popen(["sleep", "60"])
    running = LocalServer(
        "http://127.0.0.1:1/api", process.pid, psutil.Process(process.pid).create_time(), "a:b", "log"
    )
    threading.Timer(0.2, process.kill).start()
    began = time.monotonic()
    running.wait(60)
    process.wait()
    assert time.monotonic() - began < 30 and not running.alive
    assert keeper.LOOK_SECONDS < 60


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_port_is_kept_from_others_and_where_it_was_not_the_password_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr(server, "DEFAULT_PORT", 0)
    try:
        first = server.ensure(lambda line: None)
        assert server.ensure(lambda line: None) == first
        server.end(first)
        with pytest.raises(OSError, match="in use"), socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(("127.0.0.1", first.port))
        second = server.ensure(lambda line: None)
        assert (second.url, second.auth) == (first.url, first.auth) and second.pid != first.pid
        server.end(second)
        server._KEPT.pop(second.port).close()  # as in another process, or after a reboot
        third = server.ensure(lambda line: None)
        assert third.auth != second.auth
    finally:
        server.stop()
