"""A schedule: a Prefect deployment of the nightly flow, served by this process against a server that outlives it.

The deployment's name derives from the store, and it runs at most one at a time: the same store never has two writers,
and a second `varve schedule` on it replaces the first one's times and options.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from analyzers.errors import ParameterError
from flows import prefect_env, server
from flows.options import AnalyzeOptions

FLOW_NAME = "nightly"


@dataclass(frozen=True)
class Schedule:
    """When to run: a cron expression of five fields in an IANA time zone."""

    cron: str
    timezone: str


def local_timezone() -> str:
    """The machine's IANA time zone, "UTC" where it has none that can be named."""
    from zoneinfo import ZoneInfo

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
            f"--cron {cron!r}: five fields are wanted (minute hour day month weekday), "
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


def upcoming(schedule: Schedule, count: int = 3) -> list[datetime]:
    """The next times it fires, in its time zone."""
    from zoneinfo import ZoneInfo

    from prefect._vendor.croniter import croniter

    times = croniter(schedule.cron, datetime.now(UTC).astimezone(ZoneInfo(schedule.timezone)))
    return [times.get_next(datetime) for _ in range(count)]


def deployment_name(options: AnalyzeOptions) -> str:
    """Readable and one per store: the folder's name and eight digits of the store's path."""
    store = str(options.store_path.resolve())
    label = options.name or Path(options.runs).name or "runs"
    return f"{label}-{hashlib.sha256(store.encode()).hexdigest()[:8]}"


def ensure_server(tell: Callable[[str], None]) -> str:
    """The URL of a persistent API: the configured one, the local one, or a local one started now."""
    api = prefect_env.choose_api()
    if api.kind == "configured" and api.url is not None:
        return api.url
    local = server.running() or server.start(tell)
    prefect_env.use(local.url)
    return local.url


def serve(options: AnalyzeOptions, schedule: Schedule, now: bool, tell: Callable[[str], None]) -> None:
    """Makes the deployment and serves it until interrupted; `now` also asks for one run at once."""
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.deployments import run_deployment
    from prefect.deployments.runner import EntrypointType, RunnerDeployment
    from prefect.flows import serve as serve_deployments
    from prefect.schedules import Cron

    from flows.nightly import nightly

    name = deployment_name(options)
    deployment = nightly.to_deployment(
        name=name,
        schedule=Cron(schedule.cron, timezone=schedule.timezone),
        parameters={"options": options.model_dump(mode="json")},
        concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW),
        description=f"varve analyze {options.runs} --out {options.out}",
        tags=["varve"],
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    assert isinstance(deployment, RunnerDeployment)  # a coroutine only where an event loop runs
    deployment.apply()
    tell(f"Deployment {FLOW_NAME}/{name} is scheduled.")
    if now:
        run_deployment(f"{FLOW_NAME}/{name}", timeout=0)
        tell("One run is asked for at once.")
    serve_deployments(deployment, print_starting_message=False, limit=1)
