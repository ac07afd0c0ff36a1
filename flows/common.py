"""What our flows have in common: prepared Prefect, a thread pool, nothing persisted but JSON, a summary artifact."""

from __future__ import annotations

from typing import Any

from flows import prefect_env
from pipeline.archive.text import utf8

prefect_env.prepare()

from prefect.artifacts import create_markdown_artifact  # noqa: E402 - the environment is set first
from prefect.task_runners import ThreadPoolTaskRunner  # noqa: E402

INGEST_THREADS = 2
"""Reading and compressing share the disk: more threads only contend."""


def settings(name: str) -> dict[str, Any]:
    """Keyword arguments of every flow decorator. Results are paths and counts; nothing is pickled."""
    return {
        "name": name,
        "task_runner": ThreadPoolTaskRunner(max_workers=INGEST_THREADS),
        "persist_result": False,
        "result_serializer": "json",
        "validate_parameters": True,
        "log_prints": False,
    }


def leave_artifact(key: str, text: str) -> None:
    """A markdown page on the flow run."""
    create_markdown_artifact(utf8(text), key=key, description="what varve found")
