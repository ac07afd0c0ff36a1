"""Carries out a deployment's runs in a process of its own: `python -m flows.serving`, watched over by `flows.keeper`.

The deployment's options and schedule come as one line of JSON on standard input. The process ends when that closes.
"""

from __future__ import annotations

import json
import warnings

from flows import prefect_env
from flows.lifeline import end_with_parent
from pipeline.analysis.request import AnalysisRequest

AT_ONCE = 2
"""Runs carried out at the same time. A run that is due while another works finds the store locked and steps aside."""


def main() -> None:
    """Serves until the parent ends or says so."""
    prefect_env.prepare()
    with open(0, "rb", buffering=0, closefd=False) as orders:  # unbuffered: the rest is for the lifeline
        order = json.loads(orders.readline())
    end_with_parent()

    # The runner's own handler of SIGTERM calls a coroutine that it does not await; it stops all the same.
    warnings.filterwarnings("ignore", message="coroutine 'Runner.astop'", category=RuntimeWarning)
    from prefect.flows import serve

    from flows.deployment import describe
    from flows.schedule import Schedule

    deployment = describe(AnalysisRequest(**order["options"]), Schedule(**order["schedule"]))
    serve(deployment, pause_on_shutdown=False, print_starting_message=False, limit=AT_ONCE)


if __name__ == "__main__":
    main()
