"""Where time goes is counted once, exclusively, and only when asked for."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.analysis.library import configured, ingest
from pipeline.compute.cluster import ThreadCluster
from pipeline.compute.profile import DRIVER, Profile
from pipeline.compute.run import compute
from pipeline.store import clock
from tests.end_to_end.archives import write_adapter, write_run


def work(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_time_belongs_to_the_innermost_phase() -> None:
    """Catches a phase that is counted twice, as a cache's reading around the making of what it keeps would be."""
    ledger = clock.Ledger()
    started = time.thread_time()
    with ledger.running("pipeline"):
        with clock.spend("read"):
            work(0.02)
            with clock.spend("factorize"):
                work(0.04)
            work(0.01)
        with clock.spend("read"):
            work(0.01)
    total = time.thread_time() - started
    assert ledger.spent["read"].cpu == pytest.approx(0.04, abs=0.01)
    assert ledger.spent["factorize"].cpu == pytest.approx(0.04, abs=0.01)
    assert sum(s.cpu for s in ledger.spent.values()) == pytest.approx(total, abs=0.005)


def test_a_phase_that_fails_is_closed() -> None:
    ledger = clock.Ledger()
    with pytest.raises(ValueError, match="torn"), ledger.running(), clock.spend("decode"):
        raise ValueError("torn")
    assert set(ledger.spent) == {"pipeline", "decode"} and not clock.is_running()


def test_without_a_ledger_nothing_is_counted_and_a_look_costs_little() -> None:
    """A microsecond each: a unit opens fewer than a hundred."""
    started = time.thread_time()
    for _ in range(10_000):
        with clock.spend("read"):
            pass
    assert (time.thread_time() - started) / 10_000 < 5e-6


def test_a_profile_names_every_statistic_and_leaves_the_results_as_they_are(tmp_path: Path) -> None:
    write_run(tmp_path / "runs/full", 2)
    write_adapter(tmp_path / "runs/lora", 10, base="../../full/checkpoint-0")
    analyzers = configured(None, None)
    profile = Profile()
    results = []
    for name, counted in (("plain", None), ("counted", profile)):
        store = ingest(tmp_path / "runs", tmp_path / f"{name}.zarr")
        with ThreadCluster(1) as cluster:
            done = compute(store, analyzers, cluster, profile=counted)
        assert done.complete and done.measured
        results.append((store, done.measured + done.unmeasurable))
    (plain, units), (counted_store, same) = results
    assert units == same == sum(profile.units.values())
    assert set(plain.statistics()) == set(profile.units) - {DRIVER}
    phases = profile.phases()
    assert all(phases[name].cpu > 0 for name in ("read", "decode", "copy", "factorize", "fit", "write", "pipeline"))
    assert phases["idle"].cpu == 0 <= phases["idle"].wall
    assert "factorize" in profile.by_statistic["sigma"] and "fit" in profile.by_statistic["power_law"]
    data = profile.as_data()
    assert data["groups"] == profile.groups > 0 and data["statistics"]["sigma"]["units"] == profile.units["sigma"]
    for store in (plain, counted_store):
        assert store.statistics() == plain.statistics()
    key = next(iter(plain.matrices(plain.checkpoints(plain.runs()[0].id)[0]))).key
    assert key and np.isfinite(phases["read"].wall)
