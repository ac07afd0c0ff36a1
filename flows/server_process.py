"""A Prefect server in a process of its own: `python -m flows.server_process SOCKET [temporary]`, run by `flows.server`.

SOCKET is the number of an inherited listening socket, bound to loopback by the parent: nobody else can take the port
in between. A temporary server has no page and no scheduler, and ends when its standard input closes, which happens
when the process that started it ends, however it ends.
"""

from __future__ import annotations

import os
import socket
import sys

from flows.lifeline import end_with_parent


def main(arguments: list[str]) -> None:
    """Serves until it is told to stop."""
    listening = socket.socket(fileno=int(arguments[0]))
    temporary = "temporary" in arguments[1:]
    os.umask(0o077)  # database, logs and results are the owner's
    if temporary:
        end_with_parent()

    import uvicorn
    from prefect.server.api.server import create_app

    config = uvicorn.Config(
        lambda: create_app(ephemeral=temporary, final=True),
        factory=True,
        lifespan="on",
        log_level="error",
        timeout_graceful_shutdown=5,
    )
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main(sys.argv[1:])
