"""The Prefect deployment of one store: its name, how it is made and paused, and the runs that nobody finishes any more.

A store has one deployment, named after the folder and the store's path. Runs of it never overlap in the store, because
the store has a lock of its own; Prefect's concurrency limits are not used, since a slot that a killed process held
stays taken and then every later run is cancelled.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from pipeline.analysis.request import AnalysisRequest

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun
    from prefect.deployments.runner import RunnerDeployment

    from flows.schedule import Schedule

FLOW_NAME = "nightly"
MISSED_AFTER = timedelta(minutes=2)
"""A run that should have started so long ago was missed."""
_ENDED_BY_US = "the command `varve schedule` was stopped"


def deployment_name(options: AnalysisRequest) -> str:
    """Readable and one per store: the folder's name and eight digits of the store's path. What Prefect or a file's name
    cannot hold becomes a dash."""
    store = os.fsencode(os.path.realpath(options.store_path))
    label = re.sub(r"[/%&<>\x00-\x1f\x7f]+", "-", options.name or Path(options.runs).name or "runs")
    label = label.encode()[:200].decode(errors="ignore")
    return f"{label}-{hashlib.sha256(store).hexdigest()[:8]}"


def describe(options: AnalysisRequest, schedule: Schedule) -> RunnerDeployment:
    """The deployment as Prefect's runner takes it."""
    from prefect.deployments.runner import EntrypointType, RunnerDeployment
    from prefect.schedules import Cron

    from flows.nightly import nightly

    deployment = nightly.to_deployment(
        name=deployment_name(options),
        schedule=Cron(schedule.cron, timezone=schedule.timezone),
        parameters={"options": options.model_dump(mode="json")},
        description=f"varve analyze {options.runs} --out {options.out}",
        tags=["varve"],
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    assert isinstance(deployment, RunnerDeployment)  # a coroutine only where an event loop runs
    return deployment


def apply(options: AnalysisRequest, schedule: Schedule) -> UUID:
    """Makes or changes the deployment on the server, unpaused, and lifts a limit that an older version had set."""
    deployment_id: UUID = describe(options, schedule).apply()  # type: ignore[assignment]  # async in name only
    with _client() as client:
        if client.read_deployment(deployment_id).concurrency_limit is not None:
            client.update_deployment(deployment_id, _no_limit())
        client.resume_deployment(deployment_id)
    return deployment_id


def _no_limit() -> Any:
    from prefect.client.schemas.actions import DeploymentUpdate

    return DeploymentUpdate(concurrency_limit=None)


def pause(deployment_id: UUID) -> None:
    """No further runs are due until the deployment is applied again."""
    with _client() as client:
        client.pause_deployment(deployment_id)


def cancel_missed(deployment_id: UUID) -> int:
    """Cancels the runs that were due while nobody served, but for the newest, which does the work of all. How many."""
    now = datetime.now(UTC)
    with _client() as client:
        due = [
            run
            for run in _runs(client, deployment_id, "SCHEDULED")
            if run.expected_start_time is not None and run.expected_start_time < now - MISSED_AFTER
        ]
        due.sort(key=lambda run: run.expected_start_time or now)
        for run in due[:-1]:
            _settle(client, run, "CANCELLED", "missed: nothing was serving the schedule; a later run covers its work")
    return max(0, len(due) - 1)


def settle_dead(deployment_id: UUID, own: bool = False) -> list[str]:
    """Ends the runs that the server takes for running and that no process of this machine carries out: a killed
    process or a reboot leaves them so. They become crashed, or cancelled where we stopped them ourselves (`own`).
    Returns their names."""
    settled = []
    with _client() as client:
        started = list(_runs(client, deployment_id, "RUNNING", "PENDING", "CANCELLING"))
        alive = runs_alive()
        for run in started:
            if str(run.id) not in alive:
                if own:
                    _settle(client, run, "CANCELLED", _ENDED_BY_US)
                else:
                    _settle(client, run, "CRASHED", "its process is gone; what it stored remains")
                settled.append(run.name)
    return settled


def runs_alive() -> set[str]:
    """Ids of the flow runs that processes of this user on this machine carry out."""
    alive = set()
    for process in psutil.process_iter():
        try:
            if (run := process.environ().get("PREFECT__FLOW_RUN_ID")) and process.status() != psutil.STATUS_ZOMBIE:
                alive.add(run)
        except (psutil.Error, OSError):
            continue  # another account's process, or one that has just ended
    return alive


def _client() -> SyncPrefectClient:
    from prefect.client.orchestration import get_client

    return get_client(sync_client=True)


def _runs(client: SyncPrefectClient, deployment_id: UUID, *states: str) -> Iterator[FlowRun]:
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterId,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType

    yield from client.read_flow_runs(
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment_id])),
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType(state) for state in states]))
        ),
    )


def _settle(client: SyncPrefectClient, run: FlowRun, state: str, message: str) -> None:
    from prefect.client.schemas.objects import State, StateType

    client.set_flow_run_state(run.id, State(type=StateType(state), message=message), force=True)
