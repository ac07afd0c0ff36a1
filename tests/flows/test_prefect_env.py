"""Which Prefect API is used, and what is said when there is none; no server is started here."""

from __future__ import annotations

import base64
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from flows import prefect_api, prefect_env, server
from flows.prefect_api import Api
from flows.prefect_env import PrefectUnavailable
from tests.end_to_end.archives import varve, write_run

AUTH = "varve:secret"


def _serving(answers: dict[str, bytes]) -> http.server.ThreadingHTTPServer:
    """An HTTP server that knows these paths; those below /api/admin ask for the password."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = answers.get(self.path, answers.get("*"))
            wanted = "Basic " + base64.b64encode(AUTH.encode()).decode()
            locked = self.path.startswith("/api/admin") and self.headers.get("Authorization") != wanted
            self.send_response(404 if body is None else 401 if locked else 200)
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: object) -> None: ...

    return http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@contextmanager
def _url_of(answers: dict[str, bytes]) -> Iterator[str]:
    with _serving(answers) as fake:
        threading.Thread(target=fake.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{fake.server_port}/api"
        fake.shutdown()


@pytest.fixture
def healthy() -> Iterator[str]:
    """Something that answers as a Prefect API does."""
    with _url_of({"/api/health": b"true", "/api/admin/version": b'"3.8.8"'}) as url:
        yield url


@pytest.fixture
def password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefect_env, "_configured_authorization", lambda: prefect_env._authorization(AUTH))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.setattr(server, "DEFAULT_PORT", 9)
    return tmp_path


def test_an_api_that_answers_is_told_from_one_that_does_not(healthy: str) -> None:
    assert prefect_env.trouble_with(healthy, auth=AUTH) is None
    assert prefect_env.trouble_with("http://127.0.0.1:9/api") is not None
    assert "404" in str(prefect_env.trouble_with(healthy + "/elsewhere"))
    assert "rejects the credentials" in str(prefect_env.trouble_with(healthy, auth="varve:wrong"))


@pytest.mark.parametrize("body", [b"", b"ok", b"true", b"<html>hello</html>", b'{"status": "up"}', b'"3"'])
def test_what_merely_answers_is_not_taken_for_prefect(body: bytes) -> None:
    with _url_of({"*": body}) as url:
        assert "something other than Prefect" in str(prefect_env.trouble_with(url, auth=AUTH))


def test_a_configured_api_is_used(monkeypatch: pytest.MonkeyPatch, healthy: str, password: None) -> None:
    monkeypatch.setattr(prefect_api, "configured_url", lambda: healthy)
    assert prefect_api.choose_api() == Api(healthy, "configured")


def test_a_configured_api_that_is_down_is_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefect_api, "configured_url", lambda: "http://127.0.0.1:9/api")
    with pytest.raises(PrefectUnavailable, match=r"PREFECT_API_URL is http://127\.0\.0\.1:9/api.*--no-flow"):
        prefect_api.choose_api()


def _record(home: Path, url: str, pid: int, began: float) -> None:
    record = {"url": url, "pid": pid, "began": began, "auth": AUTH, "log": "x"}
    (home / "varve-server.json").write_text(json.dumps(record))


def test_the_server_that_a_schedule_left_running_is_found_again(
    monkeypatch: pytest.MonkeyPatch, home: Path, healthy: str
) -> None:
    monkeypatch.setattr(prefect_api, "configured_url", lambda: None)
    for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING"):
        monkeypatch.setenv(name, "")  # restored afterwards
    assert prefect_api.choose_api() is None
    _record(home, healthy, os.getpid(), psutil.Process().create_time())
    assert prefect_api.choose_api() == Api(healthy, "local")
    assert os.environ["PREFECT_API_URL"] == healthy and os.environ["PREFECT_API_AUTH_STRING"] == AUTH


def test_whoever_took_the_port_of_a_dead_server_does_not_get_its_password(home: Path, healthy: str) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for pid, began in ((ended.pid, time.time()), (os.getpid(), 1.0)):  # gone; and a number that was given out anew
        _record(home, healthy, pid, began)
        assert server.running() is None


def test_a_foreign_server_at_the_default_port_is_not_used(
    monkeypatch: pytest.MonkeyPatch, home: Path, healthy: str
) -> None:
    monkeypatch.setattr(server, "DEFAULT_PORT", int(healthy.split(":")[2].removesuffix("/api")))
    monkeypatch.setattr(prefect_api, "configured_url", lambda: None)
    assert server.running() is None and prefect_api.choose_api() is None


def test_the_password_is_in_no_text_about_the_server(home: Path) -> None:
    _record(home, "http://127.0.0.1:9/api", 1, 1.0)
    recorded = server.recorded()
    assert recorded is not None and recorded.auth == AUTH
    assert "secret" not in repr(recorded) and "secret" not in str(recorded)


def test_a_broken_record_of_a_server_is_none(home: Path) -> None:
    (home / "varve-server.json").write_text("{")
    assert server.recorded() is None and server.running() is None


def test_stopping_never_ends_a_process_that_got_the_number_of_a_dead_server(home: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        _record(home, "http://127.0.0.1:9/api", other.pid, psutil.Process(other.pid).create_time() - 3600)
        assert server.stop() is None
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_server_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "file"))
    with pytest.raises(PrefectUnavailable, match="cannot be started"):
        server.start()


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
