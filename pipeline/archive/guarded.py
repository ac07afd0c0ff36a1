"""Files of an archive may be hostile: each is opened, and parsed, within the limits that stand here.

    with boundary(path), open_regular(path) as file:
        parse(file)

`open_regular` opens regular files only. Inside of `boundary`, whatever a parser raises becomes an ArchiveError about
this file, and a parser that uses more than `SECONDS` of processor time is stopped. docs/security.md has the details.
"""

from __future__ import annotations

import ctypes
import os
import reprlib
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from analyzers.errors import ArchiveError

SECONDS = 5.0
"""Processor time that the headers of one file may take. Ordinary ones take milliseconds."""
MAX_MESSAGE = 2000
"""Characters of an error's text."""

_POLL_SECONDS = 0.1
_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def open_regular(path: Path, buffering: int = -1) -> IO[bytes]:
    """Opens a regular file for reading. ArchiveError for a pipe, a socket, a device, or a file that the kernel makes up
    (/proc, /sys), also behind a link; OSError as usual."""
    _require_regular(path, os.stat(path))  # noqa: PTH116 - before opening: to open a device can move it
    flags = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
    descriptor = os.open(path, flags)
    try:
        # What lay there a moment ago may have been replaced.
        _require_regular(path, os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return cast(IO[bytes], os.fdopen(descriptor, "rb", buffering))


def read_regular(path: Path, limit: int) -> bytes:
    """The bytes of a regular file, or ArchiveError when it gives more than `limit` of them, whatever its size says."""
    with open_regular(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ArchiveError(f"{path}: not read: it has more than {limit} bytes, the limit for such a file")
    return data


def _require_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise ArchiveError(f"{path}: not opened: it is {kind}, not a regular file")
    if status.st_dev in _kernel_devices():
        raise ArchiveError(f"{path}: not opened: it is a kernel file (/proc or /sys)")


def refuse_kernel_folder(folder: Path) -> None:
    """ArchiveError for a folder of files that the kernel makes up (/proc, /sys)."""
    if os.stat(folder).st_dev in _kernel_devices():  # noqa: PTH116 - as for files
        raise ArchiveError(f"{folder}: not searched: it is a kernel folder (/proc or /sys)")


def _kernel_devices() -> frozenset[int]:
    global _kernel
    if _kernel is None:
        _kernel = frozenset(os.stat(place).st_dev for place in ("/proc", "/sys") if os.path.ismount(place))  # noqa: PTH116
    return _kernel


_kernel: frozenset[int] | None = None


def leads_outside(path: Path, root: Path) -> bool:
    """Whether a file is a link to a file outside of the archive. The Hugging Face cache's own links, from a snapshot to
    the blobs beside it, do not count."""
    if not path.is_symlink():
        return False
    target, top = Path(os.path.realpath(path)), Path(os.path.realpath(root))
    here = Path(os.path.realpath(path.parent))
    if target.is_relative_to(top) or target.parent == here:
        return False
    blobs = target.parent
    return not (blobs.name == "blobs" and here.is_relative_to(blobs.parent / "snapshots"))


@contextmanager
def boundary(path: Path, seconds: float = SECONDS) -> Iterator[None]:
    """Whatever a file makes its parser raise is an ArchiveError about that file, and its text is short."""
    try:
        with _WATCHDOG.watching(seconds):
            yield
    except OSError:
        raise
    except ArchiveError as error:
        if len(str(error)) <= MAX_MESSAGE:
            raise
        raise type(error)(str(error)[:MAX_MESSAGE] + " …") from None
    except _OutOfTime:
        raise ArchiveError(f"{path}: refused: reading it takes more than {seconds:g} s of processor time") from None
    except MemoryError as error:
        raise ArchiveError(f"{path}: refused: reading it takes more memory than is available") from error
    except Exception as error:
        raise ArchiveError(
            f"{path}: damaged in an unexpected way: {type(error).__name__}: {str(error)[:500]}"
        ) from error


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = 6
        self.maxstring = self.maxother = 80

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if x.bit_length() <= 256 else f"<an integer of {x.bit_length()} bits>"


_SHORT = _Short()


def short(value: Any) -> str:
    """The repr of a value from a file, of bounded length and cost: shared tuples can have 2⁶⁰ leaves."""
    return _SHORT.repr(value)


class _OutOfTime(BaseException):
    pass


@dataclass
class _Watched:
    """What one thread is doing: since when, in its own processor time, and until when it may."""

    thread: int
    clock: int | None
    until: float
    fired: bool = False

    def now(self) -> float:
        return time.monotonic() if self.clock is None else time.clock_gettime(self.clock)


class _Watchdog:
    """One thread that stops, in whichever line they are, the threads that use up their time. The innermost `watching`
    of a thread counts; what it takes is not charged to those around it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._watched: dict[int, _Watched] = {}
        self._own = threading.local()
        self._thread: threading.Thread | None = None

    @contextmanager
    def watching(self, seconds: float) -> Iterator[None]:
        around: _Watched | None = getattr(self._own, "watched", None)
        clock = getattr(time, "pthread_getcpuclockid", lambda thread: None)(threading.get_ident())
        mine = _Watched(threading.get_ident(), clock, 0.0)
        started = mine.now()
        mine.until = started + seconds
        self._set(mine)
        try:
            yield
        finally:
            while True:
                try:
                    if around is not None:
                        around.until += mine.now() - started
                        started = mine.now()
                    self._set(around, mine)
                    break
                except _OutOfTime:  # arrived while we were leaving: it is done anyway
                    continue

    def _set(self, watched: _Watched | None, left: _Watched | None = None) -> None:
        with self._changed:
            if left is not None and left.fired:
                _raise_in(left.thread, None)
            if watched is None:
                self._watched.pop(threading.get_ident(), None)
            else:
                self._watched[watched.thread] = watched
            self._own.watched = watched
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="varve-watchdog", daemon=True)
                self._thread.start()
            elif len(self._watched) == 1 and left is None:
                self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._watched)
                for watched in self._watched.values():
                    if not watched.fired and watched.now() > watched.until:
                        watched.fired = True
                        _raise_in(watched.thread, _OutOfTime)
            time.sleep(_POLL_SECONDS)


def _raise_in(thread: int, exception: type[BaseException] | None) -> None:
    """Raises an exception in another thread at its next line; None takes back one that has not arrived yet."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread), None if exception is None else ctypes.py_object(exception)
    )


_WATCHDOG = _Watchdog()


def _after_fork() -> None:
    global _WATCHDOG
    _WATCHDOG = _Watchdog()


if hasattr(os, "register_at_fork"):
    # A child has none of its parent's threads, and may inherit a lock that nobody will release.
    os.register_at_fork(after_in_child=_after_fork)
