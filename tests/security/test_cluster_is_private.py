"""Nobody but varve itself can talk to the Dask processes that it starts: not the network, not another account."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from distributed.comm import connect
from distributed.security import Security

from pipeline.compute.dask_cluster import DaskCluster, local_cpu, local_gpu

_STRANGER = """
import json, os, sys
from distributed import Client
from distributed.security import Security
own = Security.temporary()
stolen = Security(require_encryption=True, **json.load(sys.stdin))
os.setgroups([]), os.setgid(65534), os.setuid(65534)
address = sys.argv[1]
for key, where in ((None, address.replace("tls://", "tcp://")), (own, address), (stolen, address)):
    try:
        with Client(where, security=key, timeout=5, set_as_default=False) as client:
            client.run_on_scheduler(os.getuid)
    except OSError:  # TimeoutError is one
        print("refused")
    else:
        print("let in")
"""
"""Another account tries without a certificate, with one of its own, and with the cluster's: only that one may work."""


@pytest.fixture(scope="module", params=["cpu", "gpu"])
def cluster(request: pytest.FixtureRequest) -> Iterator[DaskCluster]:
    if request.param == "cpu":
        opened = local_cpu(1, 2 * 2**30)
    else:  # The processes are the same without a device: CUDA_VISIBLE_DEVICES names one that is not there.
        plan: Any = SimpleNamespace(groups=(SimpleNamespace(device="cpu"),))
        opened = local_gpu(1, 2, plan)
    with opened as running:
        yield running


def _listening() -> set[tuple[str, int]]:
    """Addresses on which this process and its children accept connections."""
    me = psutil.Process()
    return {
        (connection.laddr.ip, connection.laddr.port)
        for process in (me, *me.children(recursive=True))
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }


def test_every_port_is_on_loopback_and_only_there(cluster: DaskCluster) -> None:
    addresses = _listening()
    assert len(addresses) >= 4, "scheduler and nanny here, a worker there"
    assert {ip for ip, _ in addresses} == {"127.0.0.1"}
    for _, port in addresses:  # a socket that is bound to all addresses answers on 127.0.0.2 as well
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.2", port), timeout=3):
            pass


def test_no_page_of_the_cluster_tells_what_runs(cluster: DaskCluster) -> None:
    import httpx

    answered = 0
    for ip, port in _listening():
        for page in ("info/main/workers.html", "json/identity.json", "metrics", "info/logs"):
            try:
                response = httpx.get(f"http://{ip}:{port}/{page}", timeout=3)
            except httpx.HTTPError:
                continue  # a port of Dask's own protocol
            answered += 1
            assert response.status_code == 404, (port, page)
    assert answered, "the HTTP ports were asked"


def _as_another_account(address: str, cluster: DaskCluster) -> list[str]:
    tls = cluster._client.security.get_tls_config_for_role("client")
    key = {"tls_ca_file": tls["ca_file"], "tls_client_cert": tls["cert"], "tls_client_key": tls["key"]}
    answer = subprocess.run(
        [sys.executable, "-c", _STRANGER, address], input=json.dumps(key), capture_output=True, text=True, timeout=120
    )
    assert answer.returncode == 0, answer.stderr[-2000:]
    return answer.stdout.split("\n")[:3]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can act as another account")
def test_another_account_needs_the_certificate_of_this_cluster(cluster: DaskCluster) -> None:
    assert _as_another_account(cluster._client.scheduler.address, cluster) == ["refused", "refused", "let in"]


async def _name_of(address: str, key: Security | None) -> str:
    comm = await connect(address, timeout=5, **(key.get_connection_args("client") if key else {}))
    try:
        await comm.write({"op": "identity", "reply": True})
        return str((await comm.read())["type"])
    finally:
        comm.abort()


def test_workers_and_nannies_ask_for_the_certificate_too(cluster: DaskCluster) -> None:
    info = next(iter(cluster._client.scheduler_info()["workers"].items()))
    for address, kind in ((info[0], "Worker"), (info[1]["nanny"], "Nanny")):
        assert cluster._client.sync(_name_of, address, cluster._client.security) == kind
        for key, where in ((None, address.replace("tls://", "tcp://")), (Security.temporary(), address)):
            with pytest.raises(OSError):
                cluster._client.sync(_name_of, where, key)


def test_a_folder_for_temporary_files_that_another_account_prepared_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, mine = tmp_path / "dask-scratch-space", tmp_path / "letters"
    shared.mkdir()
    shared.chmod(0o777)
    mine.write_text("dear diary")
    for name in ("global.lock", "purge.lock"):
        (shared / name).symlink_to(mine)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with local_cpu(1, 2 * 2**30):
        (own,) = tmp_path.glob("varve-dask-*")
        assert own.stat().st_mode & 0o077 == 0 and any(own.rglob("worker-*"))
    assert mine.read_text() == "dear diary"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dask-scratch-space", "letters"]
