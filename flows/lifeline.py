"""A child process that ends with its parent, however that one ends: the parent holds the other end of its stdin."""

from __future__ import annotations

import os
import signal
import threading

STOP_SECONDS = 15.0
"""A child that has not ended so long after its parent is ended hard."""


def end_with_parent() -> None:
    """Watches standard input from a thread: when it closes, this process gets SIGTERM, and if need be ends hard."""
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(STOP_SECONDS)
    os._exit(1)
