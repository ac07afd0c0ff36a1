"""How this process keeps the memory that it frees: page faults, not arithmetic, were most of a small matrix's time.

glibc gives freed blocks back to the system at once, and the next temporary of the same size is zeroed by the kernel
anew: on a virtual machine more than half of the CPU seconds of an adapter series (131 s against 56).
"""

from __future__ import annotations

import ctypes
import functools
import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""glibc's malloc.h."""
KEPT_BYTES = 64 << 20
"""At most so much stays with the process when it is free."""
_LARGE_BYTES = 32 << 20
"""From here on a block is its own mapping (the most that glibc takes): large matrices go back when they are freed."""


@functools.cache
def keep_freed_memory() -> bool:
    """Sets it, once per process; False where the C library has no such settings. One arena for all threads: the others
    are cut into pieces of 64 MB, which are given back just the same."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return False
    settings = {_ARENA_MAX: 1, _MMAP_THRESHOLD: _LARGE_BYTES, _TRIM_THRESHOLD: KEPT_BYTES}
    return all(mallopt(name, value) == 1 for name, value in settings.items())


def release_freed_memory() -> None:
    """Gives back to the system what has been freed, holes among what is in use included: for a process that goes from
    one large task to the next. Takes milliseconds."""
    gc.collect()
    with suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def collector_spared() -> Iterator[None]:
    """Within it, Python's search for cyclic garbage leaves out what was there before.

    A plan makes hundreds of thousands of objects, and each time their number has grown by a quarter the collector goes
    through everything that torch and the others have imported: .2 s, as long as the plan of 12 000 units takes.
    """
    theirs = gc.get_freeze_count() > 0  # a caller who has frozen what it has goes on so
    gc.freeze()
    try:
        yield
    finally:
        if not theirs:
            gc.unfreeze()
