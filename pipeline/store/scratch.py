"""Atomic writing: everything is made under `<store>/tmp/` and renamed into place, so what has its final name is whole.

A killed writer leaves a folder in tmp/ whose name tells its owner; the next writer removes it when the owner is gone.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import blake3
import psutil

from analyzers.errors import StoreError
from pipeline.store import journal

ABANDONED_AFTER_S = 24 * 3600.0
"""A leftover of another machine (whose processes cannot be seen from here) is removed after this long."""

_WAYS_OUT = {
    errno.ENOSPC: "the disk is full: free some space or choose another --store, then run the same command again",
    errno.EDQUOT: "the quota is used up: free some space or choose another --store, then run the same command again",
    errno.EROFS: "the file system is read-only: choose another --store",
    errno.EACCES: "no permission to write there: choose another --store or change its permissions",
    errno.EPERM: "no permission to write there: choose another --store or change its permissions",
    errno.ENOENT: "the folder is gone",
    errno.EMFILE: "too many open files: raise `ulimit -n`",
    errno.ENAMETOOLONG: "the path is too long: choose a shorter --out or --store",
    errno.ELOOP: "a symbolic link leads to itself: choose another --out or --store",
    errno.EEXIST: "a file, or a link that leads nowhere, is where a folder must be: choose another --out or --store",
    errno.ENOTDIR: "a file, or a link that leads nowhere, is where a folder must be: choose another --out or --store",
    errno.EFBIG: "the file size limit is reached: raise `ulimit -f`",
}


@contextlib.contextmanager
def store_errors(path: Path, action: str) -> Iterator[None]:
    """Turns an OSError into a StoreError that names the path and the way out."""
    try:
        yield
    except OSError as error:
        way_out = _WAYS_OUT.get(error.errno or 0, error.strerror or str(error))
        raise StoreError(f"cannot {action} {error.filename or path}: {way_out} [{error!r}]") from error


@contextlib.contextmanager
def scratch(root: Path, action: str = "write") -> Iterator[Path]:
    """A new empty folder under root/tmp, removed at the end unless `publish` moved it. OSErrors become StoreErrors."""
    folder = root / "tmp" / f"{owner()}-{secrets.token_hex(6)}"
    with store_errors(root, action):
        try:
            folder.mkdir()
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def publish(folder: Path, target: Path) -> bool:
    """Moves a finished folder to its final name, in one rename, after its bytes reached the disk.

    False when `target` is already there: an equal content was published by somebody else, and `folder` is not needed.
    """
    for parent, _, names in os.walk(folder):
        for name in names:
            sync(Path(parent) / name)
        sync(Path(parent))
    try:
        folder.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    sync(target.parent)
    return True


def withdraw(root: Path, target: Path) -> None:
    """Removes a published folder: it vanishes from its name at once, and its files after."""
    journal.removed(root, target)
    with scratch(root, "remove") as folder, contextlib.suppress(FileNotFoundError):
        target.rename(folder / target.name)


def sync(path: Path) -> None:
    """fsync of a file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_lock(path: Path) -> int:
    """A descriptor of the file that is locked, made where there is none. It is no link (ELOOP), which could lead to any
    file of the user's, and accounts outside of the user's group cannot open it: whoever can open a file can lock it for
    ever."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o660)
    status = os.fstat(descriptor)
    if status.st_uid == os.geteuid() and status.st_mode & 0o007:  # as earlier versions made it
        os.fchmod(descriptor, status.st_mode & 0o770)
    return descriptor


def clean(root: Path) -> list[Path]:
    """Removes what killed writers left in root/tmp; what a living process is writing stays. Returns what went."""
    removed = []
    for folder in (root / "tmp").iterdir():
        if folder.name != "zarr.json" and is_abandoned(folder, folder.name):
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder)
    return removed


def cache_path(store: str | Path) -> Path:
    """Where the cache of a store is: beside it, so that it can be deleted at any time."""
    path = Path(store)
    return path.with_name(f"{path.name}.cache")


@functools.cache
def _machine() -> str:
    """This host, boot and process namespace: inside it a process id can be looked up."""
    parts = [os.uname().nodename]
    with contextlib.suppress(OSError):  # neither file exists outside Linux; the host name then has to do
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text(), str(Path("/proc/self/ns/pid").readlink())]
    return blake3.blake3("|".join(parts).encode()).hexdigest(length=4)


@functools.cache
def _identity(pid: int) -> str:
    return f"{_machine()}-{pid}-{int(psutil.Process(pid).create_time())}"


def owner() -> str:
    """This process, for the name of what it is writing."""
    return _identity(os.getpid())  # by id, because a fork is another owner


def is_abandoned(path: Path, name: str) -> bool:
    """Whether the process that `name` (`owner()` and a random part) tells of has left `path` behind."""
    try:
        machine, pid, born, _ = name.split("-")
        process_id, started = int(pid), int(born)
        age = time.time() - path.lstat().st_mtime
    except FileNotFoundError:  # its owner has just finished
        return False
    except ValueError:  # not a name of ours: leave it
        return False
    if machine != _machine():
        return age > ABANDONED_AFTER_S
    try:
        # A process id is given again after a while; the start time (of 1-2 s precision) tells the two apart.
        return abs(psutil.Process(process_id).create_time() - started) > 5
    except psutil.NoSuchProcess:
        return True
