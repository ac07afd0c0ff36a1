"""What a container allows is what is used: control groups of version 1 and 2, nested, partly readable, or absent."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from pipeline.compute.cluster import open_cluster
from pipeline.store import limits
from pipeline.store.limits import memory_per_worker

GIB = 2**30


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty control group file system, of which this process is in the root."""
    root, own = tmp_path / "cgroup", tmp_path / "own"
    root.mkdir()
    own.write_text("0::/\n")
    monkeypatch.setattr(limits, "CGROUPS", root)
    monkeypatch.setattr(limits, "OWN_GROUPS", own)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    return root


def put(folder: Path, **values: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        (folder / name.replace("__", ".")).write_text(f"{value}\n")


def test_without_limits_the_machine_is_what_there_is(groups: Path) -> None:
    assert limits.cores() == 8
    assert limits.memory_limit() == psutil.virtual_memory().total
    put(groups, cpu__max="max 100000", memory__max="max", memory__current=5 * GIB)
    put(groups / "memory", memory__limit_in_bytes=0x7FFFFFFFFFFFF000, memory__usage_in_bytes=0)
    put(groups / "cpu,cpuacct", cpu__cfs_quota_us=-1, cpu__cfs_period_us=100000)
    assert limits.cores() == 8
    assert limits.memory_limit() == psutil.virtual_memory().total


@pytest.mark.parametrize(("quota", "expected"), [(100_000, 1), (150_000, 2), (50_000, 1), (400_000, 4), (9_900_000, 8)])
def test_a_cpu_quota_bounds_the_cores(groups: Path, quota: int, expected: int) -> None:
    put(groups, cpu__max=f"{quota} 100000")
    assert limits.cores() == expected
    (groups / "cpu.max").unlink()
    put(groups / "cpu,cpuacct", cpu__cfs_quota_us=quota, cpu__cfs_period_us=100000)
    assert limits.cores() == expected


def test_a_memory_limit_bounds_what_workers_get_and_caches_do_not_count(groups: Path) -> None:
    put(groups, memory__max=GIB // 4, memory__current=GIB // 8, memory__stat=f"anon 5\ninactive_file {GIB // 16}")
    assert limits.memory_limit() == GIB // 4
    assert limits.available_memory() == GIB // 4 - GIB // 16
    assert memory_per_worker(1) == int(0.9 * 3 * GIB / 16)
    assert memory_per_worker(3) == int(0.9 * 3 * GIB / 16 / 3)


@pytest.mark.parametrize(
    ("cpus", "expected"), [("0-3", 4), ("5", 1), ("0-1,4,6-7", 5), ("0-15", 8), ("", 8), ("none", 8)]
)
def test_a_set_of_cores_bounds_them(groups: Path, cpus: str, expected: int) -> None:
    put(groups, cpuset__cpus__effective=cpus)
    assert limits.cores() == expected
    (groups / "cpuset.cpus.effective").unlink()
    put(groups / "cpuset", cpuset__effective_cpus=cpus)
    assert limits.cores() == expected


def test_the_point_where_a_group_is_slowed_down_is_a_limit_and_swap_is_no_memory(groups: Path) -> None:
    put(groups, memory__max=GIB // 4, memory__high=GIB // 8, memory__swap__max=GIB, memory__current=GIB // 16)
    assert limits.memory_limit() == GIB // 8
    assert limits.available_memory() == GIB // 16
    put(groups, memory__high="max")
    assert limits.memory_limit() == GIB // 4


def test_version_1_tells_a_container_what_its_ancestors_allow(groups: Path) -> None:
    stat = f"hierarchical_memory_limit {GIB // 8}\ntotal_inactive_file 0"
    put(groups / "memory", memory__limit_in_bytes=0x7FFFFFFFFFFFF000, memory__usage_in_bytes=0, memory__stat=stat)
    assert limits.memory_limit() == GIB // 8


def test_version_1_counts_its_children_in_total(groups: Path) -> None:
    stat = f"inactive_file 7\ntotal_inactive_file {GIB // 32}"
    put(groups / "memory", memory__limit_in_bytes=GIB // 4, memory__usage_in_bytes=GIB // 8, memory__stat=stat)
    assert limits.available_memory() == GIB // 4 - (GIB // 8 - GIB // 32)


def test_the_tightest_of_a_group_and_its_ancestors_holds(groups: Path) -> None:
    limits.OWN_GROUPS.write_text("0::/kubepods/pod7/c1\n")
    put(groups / "kubepods" / "pod7", cpu__max="200000 100000", memory__max=GIB // 8)
    put(groups / "kubepods" / "pod7" / "c1", cpu__max="max 100000", memory__max=GIB // 4)
    put(groups / "kubepods" / "pod8", cpu__max="100000 100000", memory__max=GIB // 64)  # somebody else's
    assert limits.cores() == 2
    assert limits.memory_limit() == GIB // 8


def test_a_path_of_the_host_falls_back_to_the_containers_root(groups: Path) -> None:
    limits.OWN_GROUPS.write_text("5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n0::/../../sibling\n")
    put(groups / "memory", memory__limit_in_bytes=GIB // 4)
    put(groups / "cpu,cpuacct", cpu__cfs_quota_us=300000, cpu__cfs_period_us=100000)
    assert limits.memory_limit() == GIB // 4
    assert limits.cores() == 3


def test_where_there_are_no_control_groups(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(limits, "CGROUPS", tmp_path / "absent")
    monkeypatch.setattr(limits, "OWN_GROUPS", tmp_path / "absent")
    assert limits.cores() >= 1 and limits.available_memory() > 0


def test_workers_are_as_many_as_the_container_has_cores(groups: Path) -> None:
    put(groups, cpu__max="300000 100000")
    with open_cluster(device="cpu") as cluster:
        assert cluster.workers == 3
