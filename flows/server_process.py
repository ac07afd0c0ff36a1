"""A Prefect server in a process of its own: `python -m flows.server_process SOCKET`, run by `flows.server`.

SOCKET is the number of an inherited listening socket, bound to loopback by the parent: nobody else can take the port
in between.
"""

from __future__ import annotations

import os
import socket
import sys


def main(arguments: list[str]) -> None:
    """Serves until it is told to stop."""
    listening = socket.socket(fileno=int(arguments[0]))
    os.umask(0o077)  # database, logs and results are the owner's

    import uvicorn
    from prefect.server.api.server import create_app

    config = uvicorn.Config(
        lambda: create_app(final=True),
        factory=True,
        lifespan="on",
        log_level="error",
        timeout_graceful_shutdown=5,
    )
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main(sys.argv[1:])
