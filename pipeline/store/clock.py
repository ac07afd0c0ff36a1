"""Where a worker's time goes, phase by phase: `spend("decode")` around a piece of work, exclusive of what is inside it.

Off unless a `Ledger` is running in the thread: then `spend` costs a look at a thread's attribute and nothing else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import TracebackType

PHASES = ("read", "decode", "copy", "factorize", "fit", "write", "pipeline", "idle")
"""read: bytes from files (inputs and the cache of vectors included). decode: codec and checksum. copy: to torch and to
the device. factorize, fit: the statistics themselves. write: results into the store. pipeline: all else of ours."""


@dataclass(frozen=True)
class Seconds:
    """CPU seconds of the calling thread, and wall seconds."""

    cpu: float = 0.0
    wall: float = 0.0

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(self.cpu + other.cpu, self.wall + other.wall)

    def __mul__(self, share: float) -> Seconds:
        return Seconds(self.cpu * share, self.wall * share)


Spent = Mapping[str, Seconds]
"""Phase → what it took."""

_local = threading.local()
_OFF: AbstractContextManager[None] = nullcontext()


class Ledger:
    """The phases of one thread since `running` began. Time is given to the innermost phase that is open."""

    def __init__(self) -> None:
        self.spent: dict[str, Seconds] = {}
        self._open: list[str] = []
        self._cpu = self._wall = 0.0

    @contextmanager
    def running(self, phase: str = "pipeline") -> Iterator[Ledger]:
        """This ledger is the thread's until the end; what no inner phase takes is `phase`'s."""
        before = getattr(_local, "ledger", None)
        _local.ledger = self
        self._cpu, self._wall = time.thread_time(), time.perf_counter()
        self.enter(phase)
        try:
            yield self
        finally:
            self.leave()
            _local.ledger = before

    def enter(self, phase: str) -> None:
        """Opens a phase inside the one that is open."""
        self._settle()
        self._open.append(phase)

    def leave(self) -> None:
        """Closes the innermost phase."""
        self._settle()
        self._open.pop()

    def _settle(self) -> None:
        cpu, wall = time.thread_time(), time.perf_counter()
        if self._open:
            phase = self._open[-1]
            self.spent[phase] = self.spent.get(phase, Seconds()) + Seconds(cpu - self._cpu, wall - self._wall)
        self._cpu, self._wall = cpu, wall


class _Phase:
    def __init__(self, ledger: Ledger, phase: str) -> None:
        self._ledger = ledger
        self._phase = phase

    def __enter__(self) -> None:
        self._ledger.enter(self._phase)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ledger.leave()


def spend(phase: str) -> AbstractContextManager[None]:
    """Inside it, the thread's time is that phase's; nothing when no ledger runs."""
    ledger: Ledger | None = getattr(_local, "ledger", None)
    return _OFF if ledger is None else _Phase(ledger, phase)


def is_running() -> bool:
    """Whether somebody counts in this thread."""
    return getattr(_local, "ledger", None) is not None
