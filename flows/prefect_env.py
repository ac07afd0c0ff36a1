"""Prefect made ready: quiet, offline; no module of ours imports Prefect before this."""

from __future__ import annotations

import base64
import os
import re
import sys

from analyzers.errors import VarveError

ENVIRONMENT = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # The terminal shows our own lines; what Prefect logs still goes to its API.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
}
CLOUD = ".prefect.cloud/"
NO_FLOW_HINT = "Give --no-flow to run without Prefect."


class PrefectUnavailable(VarveError):  # noqa: N818 - a state of the surroundings
    """No Prefect API answers, and none can be started."""


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


def trouble_with(url: str, seconds: float = 5.0, auth: str | None = None) -> str | None:
    """None when a Prefect API answers at `url` in time and lets us in, else what is wrong.

    `auth` is a server's password (name:secret); without it the credentials of Prefect's settings are used, if any.
    What merely answers is not taken for Prefect: it must give Prefect's health and a version.
    """
    import httpx

    url = url.rstrip("/")
    headers = _authorization(auth) if auth else _configured_authorization()
    try:
        health = httpx.get(f"{url}/health", timeout=seconds, follow_redirects=True)
        if health.status_code >= 400 and health.status_code not in (401, 403):
            return f"HTTP {health.status_code}: not a Prefect API"
        if CLOUD in url:
            return None
        version = httpx.get(f"{url}/admin/version", timeout=seconds, headers=headers)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return str(error) or type(error).__name__
    if version.status_code in (401, 403):
        return "it rejects the credentials (PREFECT_API_AUTH_STRING or PREFECT_API_KEY)"
    if health.text.strip() != "true" or not re.fullmatch(r'"\d+\.\d+[\w.+-]*"', version.text.strip()):
        return "something other than Prefect answers there"
    return None


def _authorization(auth: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(auth.encode()).decode("ascii")}


def _configured_authorization() -> dict[str, str]:
    from prefect.settings import get_current_settings

    api = get_current_settings().api
    if api.auth_string is not None:
        return _authorization(api.auth_string.get_secret_value())
    return {"Authorization": f"Bearer {api.key.get_secret_value()}"} if api.key is not None else {}


def use(url: str, auth: str) -> None:
    """Points this process, and those it starts, at a Prefect API of ours."""
    os.environ["PREFECT_API_URL"] = url
    os.environ["PREFECT_API_AUTH_STRING"] = auth
    if "prefect" in sys.modules:
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()
