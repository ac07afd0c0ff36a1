"""The Prefect server of this machine that schedules need; it outlives the command that starts it.

It listens on loopback only, asks for a password that is made for it, and accepts no page of another origin. Its
address, process, password and log stand in PREFECT_HOME/varve-server.json, which only its owner can
read; `varve schedule` and later commands find it there. An answer on a port is not enough to be taken for it: the
process of the record must still live, and be the user's own.

Another account could take the port of a server that has died, and would then be sent its password. So the process that
started a server also keeps the port, and where the port was free for a moment the next server gets another password.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from flows.prefect_env import PrefectUnavailable, prepare, trouble_with

DEFAULT_PORT = 4200
START_SECONDS = 180.0
LOOK_TIMEOUT = 10.0
PATIENCE = 3
"""So many times in a row a living server may fail to answer in LOOK_TIMEOUT seconds before it is taken for stuck."""
RETENTION_DAYS = 30
"""How long the server keeps runs, logs and events."""


_KEPT: dict[int, socket.socket] = {}
"""The sockets of lasting servers that this process started, by port: no other account gets the port while we live."""


@dataclass(frozen=True)
class LocalServer:
    """A Prefect server that we started: its API, its process and when that began (seconds since 1970), its password
    (name:secret, as Prefect's auth_string) and its log."""

    url: str
    pid: int
    began: float
    auth: str = field(repr=False)
    log: str

    def wait(self, seconds: float) -> None:
        """Waits so long, or until the server's process ends."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except (AttributeError, OSError):  # not Linux, or it has ended
            time.sleep(seconds if self.alive else 0.0)
            return
        try:
            select.select([descriptor], [], [], seconds)
        finally:
            os.close(descriptor)

    @property
    def port(self) -> int:
        """On 127.0.0.1."""
        return int(self.url.removesuffix("/api").rpartition(":")[2])

    @property
    def alive(self) -> bool:
        """Whether its process still lives; a process number that was given out anew does not count."""
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.began) < 2.0 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


def home() -> Path:
    """PREFECT_HOME, without importing Prefect."""
    return Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()


def _record() -> Path:
    return home() / "varve-server.json"


def recorded() -> LocalServer | None:
    """The server that we started last, whether or not it still runs. A record of another account is ignored."""
    try:
        if hasattr(os, "geteuid") and _record().stat().st_uid != os.geteuid():
            return None
        data = json.loads(_record().read_text(encoding="utf-8"))
        return LocalServer(
            str(data["url"]), int(data["pid"]), float(data["began"]), str(data["auth"]), str(data["log"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def running(seconds: float = 3.0) -> LocalServer | None:
    """The server that we started, if it lives and answers in time as Prefect does."""
    server = recorded()
    if server is not None and server.alive and trouble_with(server.url, seconds, server.auth) is None:
        return server
    return None


def start(tell: Callable[[str], None] = lambda line: None, like: LocalServer | None = None) -> LocalServer:
    """Starts a server that outlives this process and waits until it answers. `like` one that died: its address is kept
    where the port is free, and its password where nobody else can have had the port, so that its clients find the new
    one. Raises `PrefectUnavailable`."""
    port = like.port if like else DEFAULT_PORT
    log = home() / "varve-server.log"
    server, process = _launch(port, like.auth if like and port in _KEPT else None, log)
    tell(f"Starting a Prefect server at {server.url.removesuffix('/api')} (half a minute the first time); log: {log}")
    _wait(server, process, f"see {log}")
    scratch = _record().with_suffix(".tmp")
    scratch.unlink(missing_ok=True)
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        json.dump(asdict(server), file)
    scratch.replace(_record())
    return server


def ensure(tell: Callable[[str], None], like: LocalServer | None = None) -> LocalServer:
    """The lasting server: the one that runs, or one that is started in place of the last, which died or is stuck
    (`like`, where no record of it is left). Two commands that call this at the same time get the same one. Raises
    `PrefectUnavailable`."""
    import fcntl

    home().mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(home() / "varve-server.lock", os.O_RDWR | os.O_CREAT, 0o600)) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        last = recorded() or like
        for _ in range(PATIENCE if last is not None and last.alive else 0):
            if (current := running(LOOK_TIMEOUT)) is not None:
                return current
        if last is not None:
            end(last)
        return start(tell, like=last)


def _launch(port: int, auth: str | None, log: Path) -> tuple[LocalServer, subprocess.Popen[bytes]]:
    """The server's process; it may not answer yet. Raises `PrefectUnavailable` where none can be started."""
    prepare()
    auth = auth or f"varve:{secrets.token_urlsafe(32)}"
    command = [sys.executable, "-P", "-m", "flows.server_process"]
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        listening = _KEPT.get(port) or _listening(port)
        number = listening.getsockname()[1]
        _KEPT[number] = listening
        origin = f"http://127.0.0.1:{number}"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*command, str(listening.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **_settings(origin, auth)},
                pass_fds=(listening.fileno(),),
                start_new_session=True,  # Ctrl-C in our terminal must not reach it
            )
    except OSError as error:
        raise PrefectUnavailable(f"a Prefect server cannot be started, its log is {log}: {error}") from error
    began = psutil.Process(process.pid).create_time()
    return LocalServer(f"{origin}/api", process.pid, began, auth, str(log)), process


def _settings(origin: str, auth: str) -> dict[str, str]:
    """What a server of ours is started with; the password is in its environment, which only its owner can read."""
    return {
        "PREFECT_API_URL": f"{origin}/api",
        "PREFECT_UI_API_URL": f"{origin}/api",
        "PREFECT_API_AUTH_STRING": auth,
        "PREFECT_SERVER_API_AUTH_STRING": auth,
        "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": origin,
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(RETENTION_DAYS * 86400),
        "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": f"P{RETENTION_DAYS}D",
        # Another process may hold the database for a minute (a backup, a slow disk): wait rather than fail.
        "PREFECT_SERVER_DATABASE_TIMEOUT": "120",
        "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "120",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO",
    }


def _listening(port: int) -> socket.socket:
    """A listening socket on loopback, at `port` where it is free and else at any."""
    for wanted in (port, 0):
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", wanted))
            listening.listen(2048)
        except OSError:
            listening.close()
            continue
        return listening
    raise PrefectUnavailable("no free port on 127.0.0.1 for a Prefect server")


def _wait(server: LocalServer, process: subprocess.Popen[bytes], where: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while (trouble := trouble_with(server.url, 5.0, server.auth)) is not None:
        if process.poll() is not None:
            raise PrefectUnavailable(f"the Prefect server ended with exit code {process.returncode}; {where}")
        if time.monotonic() > deadline:
            _kill(process.pid)
            raise PrefectUnavailable(
                f"the Prefect server did not answer within {START_SECONDS:.0f} s ({trouble}); {where}"
            )
        time.sleep(0.3)


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


def keeps(server: LocalServer) -> bool:
    """Whether this process has kept the server's port, so that nobody else can have had it."""
    return server.port in _KEPT


def end(server: LocalServer) -> None:
    """Ends a server's process, if it is still that one."""
    if server.alive:
        _kill(server.pid)


def stop() -> LocalServer | None:
    """Stops the server that we started, if it runs; returns it, or None when there was none of ours."""
    server = recorded()
    if server is None:
        return None
    alive = server.alive
    if alive:
        _kill(server.pid)
    _record().unlink(missing_ok=True)
    if (kept := _KEPT.pop(server.port, None)) is not None:
        kept.close()
    return server if alive else None
