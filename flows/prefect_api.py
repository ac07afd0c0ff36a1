"""Which Prefect API: the one that the user configured; else the local server that `varve schedule` keeps; else none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flows import server
from flows.prefect_env import NO_FLOW_HINT, PrefectUnavailable, configured_url, trouble_with, use


@dataclass(frozen=True)
class Api:
    """The Prefect API in use: "configured" by the user, or "local", kept by varve."""

    url: str
    kind: Literal["configured", "local"]


def choose_api() -> Api | None:
    """The API to use, None where there is none; checks that a configured one answers. Raises `PrefectUnavailable`."""
    url = configured_url()
    if url is not None:
        if (trouble := trouble_with(url)) is not None:
            raise PrefectUnavailable(
                f"PREFECT_API_URL is {url}, but that Prefect server cannot be used: {trouble}. "
                f"Start it, or unset PREFECT_API_URL. {NO_FLOW_HINT}"
            )
        return Api(url, "configured")
    if (local := server.running()) is not None:
        use(local.url, local.auth)
        return Api(local.url, "local")
    return None
