"""What this process may use of the machine: its CPU affinity and the limits of its control groups, versions 1 and 2.

A container (docker --cpus 1 --memory 1g, Kubernetes, a SLURM job) sees the whole machine in `psutil` and in
`os.cpu_count`, and is throttled or killed at what its control group allows. Limits hold for a group and its ancestors.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import psutil

CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


def cores() -> int:
    """CPU cores that this process may use, at least 1; a quota of one and a half counts as two."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [math.ceil(quota) for quota in _cpu_quotas() if quota > 0]
    return max(1, min([own, *quotas, *_cpu_sets()]))


def memory_limit() -> int:
    """Bytes of memory that this process may use at most: the machine's, or its control group's."""
    return min(psutil.virtual_memory().total, *(limit for limit, _ in _memory_groups()), 2**63)


def available_memory() -> int:
    """Bytes that can be had now without swapping, and without being killed by the control group."""
    left = [max(0, limit - used) for limit, used in _memory_groups()]
    return min(psutil.virtual_memory().available, *left, 2**63)


def _cpu_quotas() -> Iterator[float]:
    """Cores that each control group allows."""
    for folder in _groups("", "cpu"):
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        if quota.isdigit() and period.isdigit() and int(period):
            yield int(quota) / int(period)
    for controller in ("cpu", "cpu,cpuacct", "cpuacct,cpu", "cpuacct"):
        for folder in _groups(controller, "cpu"):
            quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
            if quota.isdigit() and period.isdigit() and int(period):  # -1 is no quota
                yield int(quota) / int(period)


def _cpu_sets() -> Iterator[int]:
    """Cores of each control group's set, where it names one ("0-3,7")."""
    for controller, name in (("", "cpuset.cpus.effective"), ("cpuset", "cpuset.effective_cpus")):
        for folder in _groups(controller, "cpuset"):
            ranges = [part.partition("-") for part in _read(folder / name).split(",")]
            if all(low.isdigit() and (not dash or high.isdigit()) for low, dash, high in ranges):
                yield sum(int(high or low) - int(low) + 1 for low, _, high in ranges)


def _memory_groups() -> list[tuple[int, int]]:
    """(limit, bytes used and not reclaimable) of each control group with a limit below the machine's memory.

    Above `memory.high` the kernel slows a group down until it stands still, which is no better than to be killed.
    Swap is never counted as memory. Version 1 states in `memory.stat` what ancestors allow that a container cannot see.
    """
    total = psutil.virtual_memory().total
    limits: list[tuple[int, int]] = []
    for controller, names, used_name, cache_name in (
        ("", ("memory.max", "memory.high"), "memory.current", "inactive_file"),
        ("memory", ("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file"),
    ):
        for folder in _groups(controller, "memory"):
            stat = dict(line.split(" ", 1) for line in _read(folder / "memory.stat").splitlines() if " " in line)
            texts = [*(_read(folder / name) for name in names), stat.get("hierarchical_memory_limit", "")]
            limit = min((int(text) for text in texts if text.isdigit()), default=total)
            if limit < total:
                used, reclaimable = _read(folder / used_name), stat.get(cache_name, "0")
                limits.append((limit, max(0, int(used or 0) - int(reclaimable))))
    return limits


def _groups(hierarchy: str, controller: str) -> Iterator[Path]:
    """The folders of the process's group and of its ancestors up to the root: version 2's where `hierarchy` is "", else
    version 1's of that name. A container's own root may stand for a group whose path is the host's."""
    root = CGROUPS / hierarchy
    if not root.is_dir():
        return
    path = PurePosixPath("/")
    for line in _read(OWN_GROUPS).splitlines():
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if (number == "0" and not controllers) if not hierarchy else controller in controllers.split(","):
            path = PurePosixPath(group or "/")
    if ".." in path.parts:
        path = PurePosixPath("/")
    for part in (path, *path.parents):
        yield root / part.relative_to("/") if part.is_absolute() else root


def _read(file: Path) -> str:
    """The file's text; "" where it is not there, as on other systems than Linux."""
    try:
        return file.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def memory_per_worker(workers: int) -> int:
    """Bytes that each of so many workers may use of what the machine, or the container, has free now."""
    return int(0.9 * available_memory() / workers)
