"""Prefect made ready: quiet, offline, and with an API that answers; no module of ours imports Prefect before this.

Which API: the one that the user configured; else the local server that `varve schedule` keeps; else an ephemeral one.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Literal

from analyzers.errors import VarveError

ENVIRONMENT = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # With the default of 20 s, concurrent starts of ephemeral servers fail.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    # The terminal shows our own lines; what Prefect logs still goes to its API.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
}
NO_FLOW_HINT = "Give --no-flow to run without Prefect."


class PrefectUnavailable(VarveError):  # noqa: N818 - a state of the surroundings
    """No Prefect API answers, and none can be started."""


@dataclass(frozen=True)
class Api:
    """The Prefect API in use. `kind`: "configured" by the user, "local" kept by varve, or "ephemeral"."""

    url: str | None
    kind: Literal["configured", "local", "ephemeral"]


def prepare() -> None:
    """Sets Prefect's environment where the user has not; must come before the first import of prefect."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def configured_url() -> str | None:
    """The API that the user configured (environment, profile or prefect.toml), None where there is none."""
    prepare()
    from prefect.settings import get_current_settings

    url = get_current_settings().api.url
    return str(url) if url else None


def answers(url: str, seconds: float = 5.0) -> str | None:
    """None when a Prefect API answers at `url` in time, else what went wrong."""
    import httpx

    try:
        response = httpx.get(f"{url.rstrip('/')}/health", timeout=seconds, follow_redirects=True)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return str(error) or type(error).__name__
    if response.status_code >= 400 and response.status_code not in (401, 403):
        return f"HTTP {response.status_code}: not a Prefect API"
    return None


def choose_api() -> Api:
    """The API to use; checks that a configured one answers. Raises `PrefectUnavailable`."""
    url = configured_url()
    if url is not None:
        if (trouble := answers(url)) is not None:
            raise PrefectUnavailable(
                f"PREFECT_API_URL is {url}, but no Prefect server answers there: {trouble}. "
                f"Start it, or unset PREFECT_API_URL for a temporary server. {NO_FLOW_HINT}"
            )
        return Api(url, "configured")
    from flows import server

    if (local := server.running()) is not None:
        use(local.url)
        return Api(local.url, "local")
    return Api(None, "ephemeral")


def use(url: str) -> None:
    """Points this process, and those it starts, at a Prefect API."""
    os.environ["PREFECT_API_URL"] = url
    if "prefect" in sys.modules:
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()


def open_api(api: Api) -> Api:
    """The chosen API, ready: an ephemeral server is started, so that its failure is told here and not in a flow.

    Raises `PrefectUnavailable` with what to do when it does not start.
    """
    if api.kind != "ephemeral":
        return api
    os.environ.setdefault("PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", "true")
    from prefect.context import refresh_global_settings_context

    refresh_global_settings_context()
    try:
        from prefect.server.api.server import SubprocessASGIServer

        ephemeral = SubprocessASGIServer()
        ephemeral.start()
    except Exception as error:  # whatever keeps Prefect's own server from starting: import, port, database, time
        home = os.environ.get("PREFECT_HOME", "~/.prefect")
        raise PrefectUnavailable(
            f"Prefect's temporary server did not start ({type(error).__name__}: {str(error)[:500]}). "
            f"Its folder is {home} (PREFECT_HOME); `varve doctor` checks versions. {NO_FLOW_HINT}"
        ) from error
    return Api(ephemeral.api_url, "ephemeral")
