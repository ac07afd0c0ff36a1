"""When a schedule fires, in which time zone, and the server that it needs."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from analyzers.errors import ParameterError
from flows import prefect_env, server
from flows.prefect_api import choose_api


@dataclass(frozen=True)
class Schedule:
    """When to run: a cron expression of five fields in an IANA time zone."""

    cron: str
    timezone: str


def local_timezone() -> str:
    """The machine's IANA time zone, "UTC" where it has none that can be named."""
    candidates = [os.environ.get("TZ", "").removeprefix(":")]
    localtime = Path("/etc/localtime")
    if localtime.is_symlink():
        candidates.append(str(localtime.readlink()).partition("zoneinfo/")[2])
    for name in candidates:
        if name and not name.startswith("/"):
            try:
                return ZoneInfo(name).key
            except (ValueError, OSError, KeyError):
                continue
    return "UTC"


def checked(cron: str, timezone: str | None) -> Schedule:
    """The schedule, if Prefect understands it. Raises `ParameterError` with an example."""
    prefect_env.prepare()
    from prefect.client.schemas.schedules import CronSchedule

    zone = timezone or local_timezone()
    if len(cron.split()) != 5:
        raise ParameterError(
            f"--cron {cron!r}: expected five fields (minute hour day month weekday), "
            'for example "0 2 * * *" for every night at two'
        )
    try:
        CronSchedule(cron=cron)
    except ValueError as error:
        raise ParameterError(
            f'--cron {cron!r} is not a cron expression; an example: "0 2 * * *" for every night at two'
        ) from error
    try:
        CronSchedule(cron=cron, timezone=zone)
    except ValueError as error:
        raise ParameterError(f"--timezone {zone!r} is not known; write for example Europe/Berlin or UTC") from error
    return Schedule(cron, zone)


def upcoming(schedule: Schedule, count: int = 3, start: datetime | None = None) -> list[datetime]:
    """The next times it fires after `start` (default: now), in its time zone. The server computes them in the same
    way, so they hold on the days when clocks change as well."""
    import anyio
    from prefect.server.schemas.schedules import CronSchedule

    zone = ZoneInfo(schedule.timezone)
    times = anyio.run(CronSchedule(cron=schedule.cron, timezone=schedule.timezone).get_dates, count, start)
    return [time.astimezone(zone) for time in times]


def ensure_server(tell: Callable[[str], None]) -> str:
    """The URL of a persistent API: the configured one, the local one, or a local one started now."""
    api = choose_api()
    if api is not None and api.kind == "configured":
        return api.url
    local = server.ensure(tell)
    prefect_env.use(local.url, local.auth)
    return local.url
