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
    if store.exists() and not store.is_dir():
        raise StoreError(f"{store} is a file, not a store: give a folder to --store")
    real = store.resolve()
    path = real.with_name(real.name + ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
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


def _busy(store: Path, lock: Path) -> str:
    try:
        holder = json.loads(lock.read_text(encoding="utf-8"))
        who = f"process {holder['pid']}, since {holder['since']}"
    except (OSError, ValueError, KeyError):
        who = "another process"
    return f"{store} is being written by another varve ({who}); wait for it, or give another --store"
