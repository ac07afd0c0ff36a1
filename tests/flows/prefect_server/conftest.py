"""One persistent Prefect server for all slow tests, with a home of its own, stopped at the end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from flows import server


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """PREFECT_HOME with a running server, as `varve schedule` starts it."""
    home = tmp_path_factory.mktemp("prefect_home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(home))
        patch.delenv("PREFECT_API_URL", raising=False)
        patch.setattr(server, "DEFAULT_PORT", 0)  # any free port: 4200 may be somebody's
        started = server.start()
    family = [psutil.Process(started.pid), *psutil.Process(started.pid).children(recursive=True)]
    yield home
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(home))
        assert server.stop() == started
    _, alive = psutil.wait_procs(family, timeout=20)
    assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []


@pytest.fixture
def environment(prefect_home: Path) -> dict[str, str]:
    """What a user's shell has who never configured Prefect."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return {**env, "PREFECT_HOME": str(prefect_home), "COLUMNS": "200", "NO_COLOR": "1"}
