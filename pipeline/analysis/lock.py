"""One writer on a store at a time: a lock beside the store that the operating system frees when its holder ends."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from analyzers.errors import StoreError
from pipeline.store.scratch import open_lock, store_errors


class StoreBusy(StoreError):  # noqa: N818 - a state, not a fault
    """Another varve writes to this store."""


@contextlib.contextmanager
def writing(store: Path) -> Iterator[None]:
    """Holds STORE.lock while the block runs. Raises `StoreBusy` naming the process that has it. The lock stands beside
    the store itself, wherever a symbolic link to it is.

    A file system without locks (some network mounts) is used unlocked: then one writer at a time is the user's care.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    path = prepare(store)
    with os.fdopen(_opened(path), "r+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise StoreBusy(_busy(store, path)) from error
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL):
                raise
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}))
        file.flush()
        yield


def prepare(store: Path) -> Path:
    """Makes the folder that holds the store, and returns the place of the lock. Raises `StoreError` where there can be
    no store."""
    if os.path.isfile(store):  # noqa: PTH113 - False, and no error, for a path that is too long
        raise StoreError(f"{store} is a file, not a store: give a folder to --store")
    path = Path(f"{os.path.realpath(store)}.lock")
    with store_errors(path.parent, "use"):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path.parent))
        with contextlib.suppress(FileNotFoundError):
            path.lstat()  # a name that is too long is found now
    return path


def _opened(path: Path) -> int:
    with store_errors(path, "lock"):
        try:
            return open_lock(path)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise StoreError(f"{path} is a symbolic link, where the store has its lock: remove it") from error
            raise


def _busy(store: Path, lock: Path) -> str:
    try:
        holder = json.loads(lock.read_text(encoding="utf-8"))
        who = f"process {holder['pid']}, since {holder['since']}"
    except (OSError, ValueError, KeyError):
        who = "another process"
    return f"{store} is being written by another varve ({who}); wait for it, or give another --store"
