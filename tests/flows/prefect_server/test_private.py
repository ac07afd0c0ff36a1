"""The Prefect server that varve starts answers its owner only: no other account, no page of another origin."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from flows import prefect_env

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

_STRANGER = """
import os, sys, httpx, pathlib
url, record = sys.argv[1:]
client = httpx.Client(timeout=20)
client.get(url + "/health")  # whatever is imported lazily is there before the account changes
os.setgroups([]), os.setgid(65534), os.setuid(65534)
for method, path, body in (
    ("POST", "/deployments/filter", {}), ("POST", "/flow_runs/filter", {}), ("GET", "/admin/settings", None),
    ("GET", "/csrf-token?client=me", None), ("POST", "/variables/", {"name": "a", "value": 1}),
):
    for auth in (None, ("varve", "guess"), ("admin", "pass")):
        print(client.request(method, url + path, json=body, auth=auth).status_code)
try:
    pathlib.Path(record).read_text()
except OSError as error:
    print(type(error).__name__)
"""


def _record(home: Path) -> dict[str, str]:
    return dict(json.loads((home / "varve-server.json").read_text()))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can act as another account")
def test_another_account_gets_nothing_from_the_server_nor_its_password(prefect_home: Path) -> None:
    prefect_home.chmod(0o755)
    for folder in (prefect_home.parent, prefect_home.parent.parent):
        folder.chmod(0o755)
    words = [sys.executable, "-c", _STRANGER, _record(prefect_home)["url"], str(prefect_home / "varve-server.json")]
    answer = subprocess.run(words, capture_output=True, text=True, timeout=120)
    refused = ["403"] * 6 + ["401"] * 6 + ["403"] * 3  # writes lack a token, and that is asked for first
    assert answer.stdout.split() == [*refused, "PermissionError"], answer.stdout + answer.stderr


def test_record_and_database_are_the_owners(prefect_home: Path) -> None:
    for name in ("varve-server.json", "prefect.db"):
        assert stat.S_IMODE((prefect_home / name).stat().st_mode) == 0o600, name


def test_a_write_without_a_token_and_a_page_of_another_origin_are_refused(prefect_home: Path) -> None:
    record = _record(prefect_home)
    headers = prefect_env._authorization(record["auth"])
    write = httpx.post(f"{record['url']}/variables/", json={"name": "a", "value": 1}, headers=headers, timeout=20)
    assert write.status_code == 403 and "CSRF" in write.text
    for origin in ("http://evil.example", "http://127.0.0.1:1", "null"):
        asked = httpx.options(
            f"{record['url']}/variables/",
            headers={"Origin": origin, "Access-Control-Request-Method": "POST"},
            timeout=20,
        )
        assert asked.headers.get("access-control-allow-origin") is None, origin


def test_the_password_is_on_no_command_line_and_the_port_on_loopback_only(prefect_home: Path) -> None:
    record = _record(prefect_home)
    process = psutil.Process(int(record["pid"]))
    secret = record["auth"].partition(":")[2]
    for each in (process, *process.children(recursive=True)):
        assert not any(secret in word for word in each.cmdline())
        for connection in each.net_connections(kind="inet"):
            if connection.status == psutil.CONN_LISTEN:
                assert connection.laddr.ip == "127.0.0.1"
