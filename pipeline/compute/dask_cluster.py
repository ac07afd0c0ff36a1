"""Dask as a cluster: processes of this machine, one process per GPU, or a scheduler that somebody else runs.

Whoever can talk to a Dask process can run code as its owner. So the processes that we start listen on loopback only,
and speak only to holders of a certificate that is made for this one cluster and never leaves memory: neither the
network nor another account of the machine gets in. A scheduler of the user's is protected as the user set it up.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
from distributed import Client, LocalCluster, Nanny, Scheduler, SpecCluster
from distributed.client import as_completed
from distributed.comm.addressing import parse_address, parse_host_port
from distributed.security import Security

from analyzers.errors import ComputeError
from pipeline.compute.provenance import software
from pipeline.store.limits import memory_per_worker

if TYPE_CHECKING:
    from pipeline.compute.plan import Plan

CONNECT_SECONDS = 10
_POLL_SECONDS = 0.02
_ASK_SECONDS = 5.0
_ALONE_SECONDS = 60.0
_MUST_AGREE = ("varve", "python", "torch", "numpy")
_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
}
_LOOPBACK = "127.0.0.1"
_HTTP = f"{_LOOPBACK}:0"
"""Any free port: with None, Dask's scheduler takes 8787 all the same, and warns when another one has it."""
_SETTINGS = {
    "distributed.scheduler.allowed-failures": 1,
    "distributed.worker.memory.spill": False,  # results are small; what fills memory is the unit itself
    "distributed.worker.memory.target": False,
    "distributed.comm.timeouts.connect": f"{CONNECT_SECONDS}s",
    # Dask's own sampling of every worker's stack, 100 times a second, took 4 % of a worker's CPU seconds.
    "distributed.worker.profile.enabled": False,
    # HTTP pages know no certificate: other accounts would read the names of runs and matrices there.
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}


class DaskCluster:
    """A Dask client as a `Cluster`. `gpu` says whether workers have a resource GPU that calls must ask for."""

    def __init__(self, client: Client, workers: int, device: str, name: str, gpu: bool = False) -> None:
        self.workers = workers
        self.device = device
        self.name = name
        self._client = client
        self._gpu = gpu
        self._results: dict[Any, Any] = {}
        # The default loop would be the default client's, which need not be ours.
        self._finished = as_completed(loop=client.loop, with_results=True, raise_errors=False)

    def submit(self, function: Callable[..., Any], *arguments: Any, device: str = "cpu") -> Any:
        """Starts a call on a worker."""
        resources = {"GPU": 1} if self._gpu and device == "any" else None
        future = self._client.submit(function, *arguments, pure=False, resources=resources)
        self._finished.add(future)
        return future

    def wait(self) -> list[Any]:
        """The calls that have finished. Calls of a worker that died are not among them: the scheduler gives them to
        others, until they have taken two workers with them."""
        asked = time.monotonic()
        alone = 0
        while not self._finished.has_ready():
            time.sleep(_POLL_SECONDS)
            if self._client.status != "running":
                raise ComputeError(f"lost the connection to the scheduler ({self.name}); finished results are stored")
            if time.monotonic() - asked > _ASK_SECONDS:
                asked = time.monotonic()
                alone = 0 if self._client.scheduler_info()["workers"] else alone + 1
                if alone * _ASK_SECONDS >= _ALONE_SECONDS:
                    raise ComputeError(f"all workers have gone ({self.name}); finished results are stored")
        batch = self._finished.next_batch(block=False)
        self._results.update(batch)
        return [handle for handle, _ in batch]

    def result(self, handle: Any) -> Any:
        """What the call returned."""
        result = self._results.pop(handle)
        if handle.status == "error":
            raise result[1]
        if handle.status == "cancelled" or isinstance(result, BaseException):
            raise ComputeError(f"a call was cancelled ({self.name}): {result!r}")
        return result

    def check_store(self, path: Path) -> None:
        """ComputeError when a worker does not see the store."""
        for worker, sees in self._client.run(_sees, str(path)).items():
            if not sees:
                raise ComputeError(
                    f"worker {worker} cannot see the store {path}: workers read tensors themselves, so put the "
                    "store on a file system that all machines share, under the same path"
                )


@contextmanager
def _private_settings() -> Iterator[None]:
    """Dask as we need it, with a scratch folder of its own. By default it takes `dask-scratch-space` in the folder for
    temporary files, whoever made that: another account could put links there in place of its locks, or hold them."""
    with (
        tempfile.TemporaryDirectory(prefix="varve-dask-", ignore_cleanup_errors=True) as folder,
        dask.config.set({**_SETTINGS, "temporary-directory": folder}),
    ):
        yield


@contextmanager
def local_cpu(workers: int, memory: int) -> Iterator[DaskCluster]:
    """Processes of this machine, each with one thread and so much memory."""
    security = Security.temporary()
    with _private_settings():
        try:
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                memory_limit=memory,
                host=_LOOPBACK,
                security=security,
                dashboard_address=_HTTP,
                scheduler_kwargs={"dashboard": False},
                env=_ONE_THREAD,
                silence_logs="ERROR",
            )
        except RuntimeError as error:
            raise ComputeError(
                f"{workers} worker processes did not start ({error}). Each imports the calling script: put its "
                'lines under `if __name__ == "__main__":`, or compute with workers=1 (threads of this process)'
            ) from error
        with cluster, Client(cluster, security=security, set_as_default=False) as client:
            yield DaskCluster(client, workers, "cpu", f"{workers} processes")


@contextmanager
def local_gpu(gpus: int, workers: int, plan: Plan) -> Iterator[DaskCluster]:
    """One process per CUDA device, and processes without one for what runs on the CPU only."""
    for_cpu = max(0, workers - gpus) if any(group.device == "cpu" for group in plan.groups) else 0
    security = Security.temporary()
    common = {
        "nthreads": 1,
        "memory_limit": memory_per_worker(gpus + for_cpu),
        "host": _LOOPBACK,
        "protocol": "tls://",
        "security": security,
        "silence_logs": logging.ERROR,
    }
    spec: dict[Any, Any] = {}
    for index, device in enumerate(_visible(gpus)):
        environment = {**_ONE_THREAD, "CUDA_VISIBLE_DEVICES": device}
        spec[f"gpu-{index}"] = {"cls": Nanny, "options": {**common, "resources": {"GPU": 1}, "env": environment}}
    for index in range(for_cpu):
        environment = {**_ONE_THREAD, "CUDA_VISIBLE_DEVICES": ""}
        spec[f"cpu-{index}"] = {"cls": Nanny, "options": {**common, "env": environment}}
    scheduler = {
        "cls": Scheduler,
        "options": {
            "dashboard": False,
            "dashboard_address": _HTTP,
            "host": _LOOPBACK,
            "protocol": "tls://",
            "security": security,
        },
    }
    with _private_settings():
        name = f"{gpus} GPU processes" + (f" and {for_cpu} on the CPU" if for_cpu else "")
        cluster = SpecCluster(workers=spec, scheduler=scheduler, security=security, silence_logs="ERROR")
        with cluster, Client(cluster, security=security, set_as_default=False) as client:
            yield DaskCluster(client, gpus + for_cpu, "cuda", name, gpu=True)


@contextmanager
def connect(address: str, device: str) -> Iterator[DaskCluster]:
    """A scheduler that somebody else runs; its workers must have the same varve and torch. `ComputeError` in seconds
    when it cannot be reached, has no workers, or other versions."""
    with dask.config.set({"distributed.comm.timeouts.connect": f"{CONNECT_SECONDS}s"}):
        try:
            # A client that fails on a malformed address half-way prints a traceback when it is collected.
            parse_host_port(parse_address(address)[1])
            client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise ComputeError(
                f"no Dask scheduler answers at {address!r} within {CONNECT_SECONDS} s: {error}; "
                "start one with `dask scheduler`, or omit --scheduler"
            ) from error
        with client:
            threads = _wait_for_workers(client, address)
            on = _check_workers(client, device)
            workers = sum(threads.values())
            yield DaskCluster(client, workers, on, f"{len(threads)} workers of the scheduler {address}")


def _wait_for_workers(client: Client, address: str) -> dict[str, int]:
    try:
        client.wait_for_workers(1, timeout=CONNECT_SECONDS)
    except TimeoutError as error:
        raise ComputeError(
            f"the scheduler {address} has no workers; start some with `dask worker {address} --nthreads 1`"
        ) from error
    return dict(client.nthreads())


def _check_workers(client: Client, device: str) -> str:
    """The device that all workers can use, when they can compute what this process would."""
    try:
        found = client.run(software)
    except Exception as error:  # whatever a foreign worker raises when it cannot import us
        raise ComputeError(
            f"the workers cannot run varve: {type(error).__name__}: {error}; install varve there"
        ) from error
    here = software()
    for worker, there in found.items():
        different = [f"{name} {there[name]} (here {here[name]})" for name in _MUST_AGREE if there[name] != here[name]]
        if different:
            raise ComputeError(
                f"worker {worker} has other versions: {', '.join(different)}; results would get wrong keys. "
                "Install the same versions everywhere"
            )
    cuda = client.run(_has_cuda)
    if device == "cuda" and not all(cuda.values()):
        without = next(worker for worker, has in cuda.items() if not has)
        raise ComputeError(f"--device cuda: worker {without} finds no CUDA device")
    return "cuda" if device != "cpu" and all(cuda.values()) else "cpu"


def _visible(gpus: int) -> list[str]:
    """The devices as CUDA_VISIBLE_DEVICES names them, ids of MIG slices included."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return [name.strip() for name in visible.split(",") if name.strip()][:gpus] or [str(i) for i in range(gpus)]


def _sees(path: str) -> bool:
    return (Path(path) / "zarr.json").exists()


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()
