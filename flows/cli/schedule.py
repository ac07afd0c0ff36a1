"""`varve schedule`: analyse an archive every night, or whenever a cron expression says."""

from __future__ import annotations

from typing import Annotated

import typer

from analyzers.errors import ParameterError
from flows.cli.options import ALL, Words, request_of, with_options
from flows.cli.words.console import say


def _stop_server(value: bool) -> None:
    if not value:
        return
    from flows import server

    stopped = server.stop()
    say(f"Stopped the Prefect server at {stopped.url}." if stopped else "No server started by varve is running.")
    raise typer.Exit()


@with_options(*(name for name in ALL if name != "profile"))
def schedule(
    words: Words,
    cron: Annotated[
        str, typer.Option("--cron", help='When: minute hour day month weekday; "0 2 * * *" is every night at two.')
    ],
    timezone: Annotated[
        str | None, typer.Option("--timezone", metavar="ZONE", help="Such as Europe/Berlin.  [default: this machine's]")
    ] = None,
    now: Annotated[bool, typer.Option("--now", help="Also run once immediately.")] = False,
    stop_server: Annotated[
        bool,
        typer.Option(
            "--stop-server", is_eager=True, callback=_stop_server, help="Stop the server that varve started, and exit."
        ),
    ] = False,
) -> int:
    """Analyse new checkpoints on a schedule: a Prefect deployment, served until Ctrl-C.

    \b
      varve schedule RUNS/ --cron "0 2 * * *" --out out/
      varve schedule RUNS/ --cron "*/30 * * * *" --out out/ --timezone UTC --now
      varve schedule --stop-server

    Takes the options of `varve analyze`. Uses the Prefect server that PREFECT_API_URL names; otherwise starts one on
    this machine in the background and prints its address; later schedules use the same server. Each run analyses what
    is new and updates the report; a store never has two runs at once.

    Keep this command running (in tmux, or as a service), because it executes the runs. Ctrl-C pauses the schedule and
    leaves the server running; the same command resumes the schedule.
    """
    import data_catalog
    from flows import keeper
    from flows import schedule as schedules
    from pipeline.analysis.resolve import check_schedule

    runs = words["runs"]
    if not runs.is_dir() and data_catalog.find(str(runs)) is None:
        raise ParameterError(f"{runs} is neither a folder nor a catalog entry: there is nothing to schedule")
    when = schedules.checked(cron, timezone)
    request = request_of(words)
    if (reason := check_schedule(request)) is not None:
        say(f"For the moment there is nothing to analyse: {reason}")
    times = ", ".join(t.strftime("%a %Y-%m-%d %H:%M") for t in schedules.upcoming(when))
    say(f"{when.cron} in {when.timezone}: next {times}")
    url = schedules.ensure_server(say)
    say(f"Prefect server: {url.removesuffix('/api')}")
    keeper.Keeper(request, when, url, say).serve(now)
    _farewell(url)
    return 0


def _farewell(url: str) -> None:
    from flows import server

    ours = server.recorded()
    if ours is not None and ours.url == url:
        say(f"The Prefect server at {url.removesuffix('/api')} is still running (process {ours.pid}, log {ours.log}).")
        say("`varve schedule --stop-server` stops it.")
