"""Keeps a schedule alive: the server, the process that carries runs out, and the record of runs that died.

`varve schedule` waits here until it is stopped. A server of ours that died is started again at its address; a serving
process that ended is started again; runs whose process is gone are ended in the server's books. Each is reported.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from flows import deployment, prefect_env, server
from flows.prefect_env import PrefectUnavailable
from flows.schedule import Schedule
from pipeline.analysis.request import AnalysisRequest

if TYPE_CHECKING:
    from types import FrameType
    from uuid import UUID

    from flows.server import LocalServer

LOOK_SECONDS = 5.0
SETTLE_SECONDS = 60.0
_GRACE_SECONDS = 20.0


class Stopped(Exception):  # noqa: N818 - a request, not an error
    """SIGINT or SIGTERM arrived."""


class Keeper:
    """Everything that one `varve schedule` watches."""

    def __init__(self, options: AnalysisRequest, schedule: Schedule, url: str, tell: Callable[[str], None]) -> None:
        self._options, self._schedule, self._tell = options, schedule, tell
        self._url = url
        recorded = server.recorded()
        self._server = recorded if recorded is not None and recorded.url == url else None
        self._child: subprocess.Popen[bytes] | None = None
        self._deployment: UUID | None = None
        self._unanswered = 0

    def serve(self, now: bool) -> None:
        """Makes the deployment and keeps it served until SIGINT or SIGTERM; `now` also asks for one run at once."""
        name = deployment.deployment_name(self._options)
        with _stop_on_signals(), _place(name) as is_last:
            try:
                self._deployment = deployment.apply(self._options, self._schedule)
                self._tell(f"Deployment {deployment.FLOW_NAME}/{name} is scheduled.")
                self._settle()
                if now:
                    from prefect.deployments import run_deployment

                    run_deployment(f"{deployment.FLOW_NAME}/{name}", timeout=0)
                    self._tell("One run is requested now.")
                settled = time.monotonic()
                while True:
                    self._look_at_server()
                    self._look_at_child()
                    if time.monotonic() - settled > SETTLE_SECONDS:
                        self._settle()
                        settled = time.monotonic()
                    self._rest()
            except Stopped:
                pass
            finally:
                self._end(is_last())

    def _rest(self) -> None:
        if self._server is None:
            time.sleep(LOOK_SECONDS)
        else:
            self._server.wait(LOOK_SECONDS)

    def _look_at_server(self) -> None:
        """A server of ours that died, or no longer answers, is started again at its address. What answers there after
        its death is not asked: it may be anybody's."""
        ours = self._server
        if ours is not None and not ours.alive:
            self._replace(ours, "has ended")
            return
        trouble = prefect_env.trouble_with(self._url, server.LOOK_TIMEOUT, ours.auth if ours else None)
        if trouble is None:
            if self._unanswered >= server.PATIENCE and ours is None:
                self._tell(f"The Prefect server at {self._url} answers again.")
            self._unanswered = 0
            return
        self._unanswered += 1
        if ours is None:
            if self._unanswered == server.PATIENCE:
                self._tell(f"The Prefect server at {self._url} does not answer ({trouble}); runs wait until it does.")
            return
        if self._unanswered >= server.PATIENCE:
            self._replace(ours, "is stuck")

    def _replace(self, ours: LocalServer, what: str) -> None:
        """Starts our server again, or finds the one that another command has started."""
        self._unanswered = max(1, self._unanswered)
        if not server.keeps(ours):  # the runs must not obey whoever takes the port
            self._stop_child()
        self._tell(f"The Prefect server at {self._url} {what}: starting it again.")
        try:
            self._server = server.ensure(self._tell, ours)
        except PrefectUnavailable as error:
            self._tell(f"{error}; trying again.")
            time.sleep(LOOK_SECONDS)
            return
        self._unanswered = 0
        if (self._server.url, self._server.auth) != (self._url, ours.auth):
            self._url = self._server.url
            prefect_env.use(self._url, self._server.auth)
            self._stop_child()
            self._deployment = deployment.apply(self._options, self._schedule)
        self._tell("The Prefect server answers again.")
        self._settle()

    def _look_at_child(self) -> None:
        if self._child is not None and self._child.poll() is not None:
            self._tell(
                f"The process that performs the runs has ended (exit code {self._child.returncode}): starting another."
            )
            self._stop_child()
        if self._child is None and self._unanswered == 0:
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", "flows.serving"],
                stdin=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for us: we end the run in good order
            )
            assert self._child.stdin is not None
            order = {"options": self._options.model_dump(mode="json"), "schedule": asdict(self._schedule)}
            self._child.stdin.write(json.dumps(order).encode() + b"\n")
            self._child.stdin.flush()

    def _settle(self) -> None:
        """Ends dead runs in the server's books. Only for a server of ours: its runs are all on this machine."""
        if self._server is None or self._deployment is None or self._unanswered:
            return
        import httpx

        try:
            for name in deployment.settle_dead(self._deployment):
                self._tell(f"Run {name} died with its process: recorded as crashed.")
            if missed := deployment.cancel_missed(self._deployment):
                self._tell(f"{missed} missed runs are cancelled; the newest one covers their work.")
        except httpx.HTTPError as error:
            self._tell(f"The recorded runs could not be checked ({error}); trying again in a minute.")

    def _stop_child(self) -> None:
        """Ends the serving process and the runs that it carries out."""
        if self._child is None:
            return
        family: list[psutil.Process] = []
        try:
            process = psutil.Process(self._child.pid)
            family = [*process.children(recursive=True), process]
        except psutil.NoSuchProcess:
            pass
        _end_all(family)
        self._child.wait(10)
        if self._child.stdin is not None:
            self._child.stdin.close()
        self._child = None

    def _end(self, is_last: bool) -> None:
        """Stops in good order: runs end as cancelled, and the schedule is paused unless another command serves it."""
        self._stop_child()
        if self._deployment is None or self._unanswered:
            return
        import httpx

        try:
            if self._server is not None and is_last:
                for name in deployment.settle_dead(self._deployment, own=True):
                    self._tell(f"Run {name} is cancelled; the next one continues where it stopped.")
            if is_last:
                deployment.pause(self._deployment)
                self._tell("\nStopped serving; the schedule is paused until you run the same command again.")
            else:
                self._tell("\nStopped serving; another `varve schedule` still serves this store.")
        except httpx.HTTPError as error:
            self._tell(f"The schedule could not be paused on the server: {error}")


def _end_all(family: list[psutil.Process]) -> None:
    for action in ("terminate", "kill"):
        for process in family:
            try:
                getattr(process, action)()
            except psutil.NoSuchProcess:
                continue
        _, family = psutil.wait_procs(family, timeout=_GRACE_SECONDS)


@contextmanager
def _stop_on_signals() -> Iterator[None]:
    """SIGINT and SIGTERM raise `Stopped` once; a second one is left to its default."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        raise Stopped

    before = {each: signal.signal(each, stop) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextmanager
def _place(name: str) -> Iterator[Callable[[], bool]]:
    """Marks this process as one that serves the deployment; yields what tells whether it is the last one."""
    path: Path = server.home() / f"varve-{name}.serving"
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def is_last() -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield is_last
    finally:
        os.close(descriptor)
