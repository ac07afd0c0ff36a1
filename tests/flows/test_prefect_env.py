"""Which Prefect API is used, and what is said when there is none; no server is started here."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import prefect_env, server
from flows.prefect_env import Api, PrefectUnavailable
from tests.end_to_end.archives import varve, write_run


@pytest.fixture
def healthy() -> Iterator[str]:
    """Something that answers as a Prefect API does."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            ok = self.path == "/api/health"
            self.send_response(200 if ok else 404)
            self.end_headers()
            self.wfile.write(b"true" if ok else b"")

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as fake:
        threading.Thread(target=fake.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{fake.server_port}/api"
        fake.shutdown()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.setattr(server, "DEFAULT_PORT", 9)
    return tmp_path


def test_an_api_that_answers_is_told_from_one_that_does_not(healthy: str) -> None:
    assert prefect_env.answers(healthy) is None
    assert prefect_env.answers("http://127.0.0.1:9/api") is not None
    assert "404" in str(prefect_env.answers(healthy + "/elsewhere"))


def test_a_configured_api_is_used(monkeypatch: pytest.MonkeyPatch, healthy: str) -> None:
    monkeypatch.setattr(prefect_env, "configured_url", lambda: healthy)
    assert prefect_env.choose_api() == Api(healthy, "configured")


def test_a_configured_api_that_is_down_is_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefect_env, "configured_url", lambda: "http://127.0.0.1:9/api")
    with pytest.raises(PrefectUnavailable, match=r"PREFECT_API_URL is http://127\.0\.0\.1:9/api.*--no-flow"):
        prefect_env.choose_api()


def test_the_server_that_a_schedule_left_running_is_found_again(
    monkeypatch: pytest.MonkeyPatch, home: Path, healthy: str
) -> None:
    monkeypatch.setattr(prefect_env, "configured_url", lambda: None)
    monkeypatch.setenv("PREFECT_API_URL", "")  # restored afterwards
    assert prefect_env.choose_api().kind == "ephemeral"
    (home / "varve-server.json").write_text(json.dumps({"url": healthy, "pid": 1, "log": "x"}))
    monkeypatch.setattr(prefect_env, "use", lambda url: None)
    assert prefect_env.choose_api() == Api(healthy, "local")


def test_a_broken_record_of_a_server_is_none(home: Path) -> None:
    (home / "varve-server.json").write_text("{")
    assert server.recorded() is None and server.running() is None


def test_stopping_never_ends_a_process_that_is_not_prefect(home: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        record = {"url": "http://127.0.0.1:9/api", "pid": other.pid, "log": "x"}
        (home / "varve-server.json").write_text(json.dumps(record))
        assert server.stop() is None
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_temporary_server_that_does_not_start_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.server.api.server import SubprocessASGIServer

    def fail(self: object, timeout: int | None = None) -> None:
        raise RuntimeError("Timed out while attempting to connect")

    monkeypatch.setenv("PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", "true")
    monkeypatch.setattr(SubprocessASGIServer, "start", fail)
    with pytest.raises(PrefectUnavailable, match=r"Timed out.*--no-flow"):
        prefect_env.open_api(Api(None, "ephemeral"))


def test_what_the_user_set_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "DEBUG")
    prefect_env.prepare()
    assert os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] == "DEBUG"


def test_the_command_fails_within_seconds_when_the_configured_server_is_down(tmp_path: Path) -> None:
    write_run(tmp_path / "runs/a", 1)
    started = time.monotonic()
    url = "http://127.0.0.1:9/api"
    done = varve("ingest", tmp_path / "runs", "--store", tmp_path / "S.zarr", PREFECT_API_URL=url)
    assert done.returncode == 2 and time.monotonic() - started < 60
    assert url in done.stderr and "--no-flow" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "S.zarr").exists()
