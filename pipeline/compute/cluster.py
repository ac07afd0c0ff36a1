"""Where units run: threads in this process, processes on this machine (one per GPU), or the user's scheduler.

    with open_cluster(workers=4, plan=planned) as cluster:
        compute(store, analyzers, cluster)

Every cluster answers the same few questions, so the code that drives the work does not know which it has. Processes
import `__main__` anew: a script that opens a cluster guards itself with ``if __name__ == "__main__"``.
"""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Protocol

from threadpoolctl import threadpool_limits

from analyzers.errors import ComputeError
from pipeline.compute.allocator import keep_freed_memory
from pipeline.store.limits import available_memory, cores, memory_per_worker

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.compute.plan import Plan

SMALL_SECONDS = 30.0
"""Below this much work the start of processes costs more than it gains, and threads do."""
WORKER_BYTES = 700 * 2**20
"""What a worker takes beside its matrices."""

Device = Literal["auto", "cpu", "cuda"]


class Cluster(Protocol):
    """`workers` run calls at a time; `device` is passed to `run_group`; `name` says what it is, for people."""

    workers: int
    device: str
    name: str

    def submit(self, function: Callable[..., Any], *arguments: Any, device: str = "cpu") -> Any:
        """Starts a call and returns a handle. `device` "any" runs where there is a GPU, if there is one."""
        ...

    def wait(self) -> list[Any]:
        """Handles that have finished since the last call, at least one; waits for it. ComputeError when no worker is
        left to wait for."""
        ...

    def result(self, handle: Any) -> Any:
        """What a finished call returned; raises what it raised, or what became of its worker."""
        ...

    def check_store(self, path: Path) -> None:
        """ComputeError when a worker cannot read the store at `path`."""
        ...


@contextmanager
def open_cluster(
    workers: int | None = None,
    scheduler: str | None = None,
    device: Device = "auto",
    plan: Plan | None = None,
) -> Iterator[Cluster]:
    """The cluster that suits the work, closed at the end whatever happens.

    workers: how many; by default as many as cores, memory and work allow. scheduler: the address of a running Dask
    scheduler, which is used as it is. device: "auto" takes CUDA where there is one. Raises `ComputeError` when the
    scheduler cannot be reached or has no fitting workers, or CUDA is asked for and absent.
    """
    if workers is not None and workers < 1:
        raise ComputeError(f"at least one worker is needed, not {workers}")
    if scheduler is not None:
        from pipeline.compute.dask_cluster import connect

        with connect(scheduler, device) as connected:
            yield connected
        return
    gpus = _gpus(device)
    count = workers or _workers(plan)
    if count == 1 or gpus == 1 or plan is None or plan.seconds < SMALL_SECONDS:
        # Where memory or the number of matrices leaves cores over, BLAS may have them.
        spare = 1 if workers is not None or os.environ.get("OMP_NUM_THREADS") else max(1, cores() // count)
        threads = ThreadCluster(1 if gpus and workers is None else count, "cuda" if gpus else "cpu", spare)
        with threads:
            yield threads
        return
    from pipeline.compute.dask_cluster import local_cpu, local_gpu

    opened = local_gpu(gpus, count, plan) if gpus else local_cpu(count, memory_per_worker(count))
    with opened as local:
        yield local


class ThreadCluster:
    """Threads of this process, for small archives, notebooks and tests, each with `blas_threads` BLAS threads."""

    def __init__(self, workers: int = 1, device: str = "cpu", blas_threads: int = 1) -> None:
        self.workers = workers
        self.blas_threads = blas_threads
        self.device = device
        self.name = f"{workers} thread{'s' if workers > 1 else ''} of this process" + (" on CUDA" * (device != "cpu"))
        self._pool: concurrent.futures.ThreadPoolExecutor | None = None
        self._pending: set[concurrent.futures.Future[Any]] = set()

    def __enter__(self) -> ThreadCluster:
        # numpy's and scipy's BLAS threads, which torch's setting does not reach: left alone they took five times the
        # CPU seconds on the small matrices that this cluster is for.
        keep_freed_memory()
        self._blas = threadpool_limits(self.blas_threads, user_api="blas")
        self._pool = concurrent.futures.ThreadPoolExecutor(
            self.workers, "varve", initializer=_set_torch_threads, initargs=(self.blas_threads,)
        )
        return self

    def __exit__(self, *exception: object) -> None:
        assert self._pool is not None
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = None
        self._pending.clear()
        self._blas.restore_original_limits()

    def submit(self, function: Callable[..., Any], *arguments: Any, device: str = "cpu") -> Any:
        """Starts a call in a thread."""
        if self._pool is None:
            raise ComputeError("the cluster is closed: use it inside its `with`")
        future = self._pool.submit(function, *arguments)
        self._pending.add(future)
        return future

    def wait(self) -> list[Any]:
        """The calls that have finished."""
        done, self._pending = concurrent.futures.wait(self._pending, return_when=concurrent.futures.FIRST_COMPLETED)
        return list(done)

    def result(self, handle: Any) -> Any:
        """What the call returned."""
        return handle.result()

    def check_store(self, path: Path) -> None:
        """This process opened the store: nothing to check."""


def _set_torch_threads(count: int) -> None:
    import torch

    torch.set_num_threads(count)  # holds for the calling thread


def _workers(plan: Plan | None) -> int:
    """As many as cores, groups and free memory allow."""
    if plan is None:
        return cores()
    fit = int(0.9 * available_memory()) // (plan.memory_bytes + WORKER_BYTES)
    return max(1, min(cores(), len(plan.groups), fit))


def _gpus(device: Device) -> int:
    if device == "cpu":
        return 0
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "cuda" and count == 0:
        raise ComputeError("--device cuda: torch finds no CUDA device on this machine; use --device cpu or auto")
    return count
