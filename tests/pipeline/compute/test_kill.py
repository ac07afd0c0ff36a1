"""A driver that is killed with signal 9 leaves a store that the same call completes, value for value."""

from __future__ import annotations

import itertools
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.compute.cluster import ThreadCluster
from pipeline.compute.run import compute
from pipeline.store import Store
from tests.pipeline.compute.plugins import Bisect, Everything, Norm, Relative, Slow, Trace
from tests.pipeline.compute.stores import small_store

STEPS = (10, 20, 30, 40)
DRIVER = """
import sys
from pipeline.compute.cluster import ThreadCluster
from pipeline.compute.run import compute
from pipeline.store import Store
from tests.pipeline.compute.test_kill import asked

store = Store.open(sys.argv[1], "a")
with ThreadCluster(2) as cluster:
    print("started", flush=True)
    summary = compute(store, [asked()], cluster)
print(summary.measured, flush=True)
"""


def asked() -> Everything:
    """Statistics of several levels and rounds that take about two seconds together."""
    return Everything(Slow(0.04), Slow(0.041), Norm(), Relative(), Trace(), Bisect())


def contents(store: Store) -> dict[str, dict[str, np.ndarray]]:
    found: dict[str, dict[str, np.ndarray]] = {}
    for name in store.statistics():
        table = store.statistic(name)
        for key, result in table.read(table.keys()).items():
            assert not isinstance(result, str)
            found[key] = dict(result)
    return found


def kill_and_complete(tmp_path: Path, kills: int, seed: int) -> None:
    undisturbed = small_store(tmp_path / "calm", STEPS)
    with ThreadCluster(2) as cluster:
        compute(undisturbed, [asked()], cluster)
    store = small_store(tmp_path / "killed", STEPS)
    draw = random.Random(seed)
    root = Path(__file__).parents[3]
    interrupted = 0
    kept: list[set[str]] = [set()]
    for _ in range(kills):
        driver = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(store.path)], cwd=root, stdout=subprocess.PIPE, text=True
        )
        assert driver.stdout is not None and driver.stdout.readline() == "started\n"
        time.sleep(draw.uniform(0.05, 0.9))
        driver.send_signal(signal.SIGKILL)
        interrupted += driver.stdout.read() == ""
        driver.wait()
        # Keys, not `Plan.present`: that counts a mere input (`Change`) only while a unit that needs it is missing.
        kept.append(set(contents(Store.open(store.path))))
    assert interrupted, "no kill came in time: the test shows nothing"
    assert all(before <= after for before, after in itertools.pairwise(kept)), "what was stored is never lost"
    again = Store.open(store.path, "a")
    with ThreadCluster(2) as cluster:
        assert compute(again, [asked()], cluster).complete
        assert compute(again, [asked()], cluster).measured == 0
    expected, found = contents(undisturbed), contents(again)
    assert expected.keys() == found.keys()
    for key, fields in expected.items():
        assert fields.keys() == found[key].keys()
        for field, values in fields.items():
            np.testing.assert_array_equal(values, found[key][field])


def test_a_killed_computation_is_completed_by_the_same_call(tmp_path: Path) -> None:
    (tmp_path / "calm").mkdir()
    (tmp_path / "killed").mkdir()
    kill_and_complete(tmp_path, kills=2, seed=1)


@pytest.mark.slow
def test_ten_kills_at_random_moments_change_no_value(tmp_path: Path) -> None:
    (tmp_path / "calm").mkdir()
    (tmp_path / "killed").mkdir()
    kill_and_complete(tmp_path, kills=10, seed=int(time.time()))
