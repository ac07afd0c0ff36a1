"""The probe behind `varve plan --calibrate`: about 20 CPU seconds that measure what the plan's model needs.

Everything is CPU time of one thread, and the best of several repeats, so that a busy machine does not look slow.
"""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - registers bfloat16 and float8 with numpy
import numpy as np
import psutil
import torch
from threadpoolctl import threadpool_limits

from analyzers import costs
from pipeline.compute.calibration import Calibration, Handling
from pipeline.compute.provenance import software

SIDES = (64, 128, 256, 512, 1024)
_REPEATS = 3
_KIND_SECONDS = 0.35
_DTYPES = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")


def probe(say: Callable[[str], None] = lambda _: None) -> Calibration:
    """Measures this machine. `say` hears what is being measured."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1, user_api="blas"):
            say("dense linear algebra")
            rates = {**_linear_algebra(), "scan": {0: _scan()}, "python": {0: _python()}}
            say("the store: tensors in, compressed")
            handling, ratios = _storing()
            say("start of a process")
            handling = replace(handling, start=_start())
    finally:
        torch.set_num_threads(before)
    slower = costs.rate(rates, "python", 0)
    scaled = {name: getattr(handling, name) / slower for name in ("unit", "group", "worker", "report_unit", "report")}
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return Calibration(rates, replace(handling, **scaled), ratios, machine(), software(), now)


def machine() -> dict[str, Any]:
    """What was measured: processor, cores, memory, system."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "memory_bytes": psutil.virtual_memory().total,
        "system": platform.platform(terse=True),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _best(work: Callable[[], object], seconds: float = _KIND_SECONDS) -> float:
    """CPU seconds of the fastest of some calls."""
    work()
    best, repeats, end = float("inf"), 0, time.process_time() + seconds
    while repeats < _REPEATS or time.process_time() < end:
        started = time.process_time()
        work()
        best = min(best, time.process_time() - started)
        repeats += 1
    return max(best, 1e-7)


def _linear_algebra() -> dict[str, Mapping[int, float]]:
    generator = torch.Generator().manual_seed(0)
    rates: dict[str, dict[int, float]] = {kind: {} for kind in ("gemm", "eigvalsh", "eigh", "svd", "qr")}
    for side in SIDES:
        square = torch.randn(side, side, dtype=torch.float64, generator=generator)
        tall = torch.randn(2 * side, side, dtype=torch.float64, generator=generator)
        symmetric = square @ square.T
        tried: dict[str, tuple[costs.Work, Callable[[], object]]] = {
            "gemm": (costs.gemm(side, side, side), partial(torch.matmul, square, square)),
            "eigvalsh": (costs.eigvalsh(side), partial(torch.linalg.eigvalsh, symmetric)),
            "eigh": (costs.eigh(side), partial(torch.linalg.eigh, symmetric)),
            "svd": (costs.svd(side, side), partial(torch.linalg.svd, square)),
            "qr": (costs.qr(2 * side, side), partial(torch.linalg.qr, tall)),
        }
        for kind, (work, run) in tried.items():
            rates[kind][side] = work.operations / _best(run)
    return dict(rates)


def _scan() -> float:
    values = torch.randn(600_000, generator=torch.Generator().manual_seed(0))
    seconds = _best(lambda: (values.double() ** 2).sum())
    return costs.rate(costs.REFERENCE, "scan", 0) * _SCAN_SECONDS / seconds


_SCAN_SECONDS = 1.95e-4
"""What this pass takes on the reference machine, where the statistics' own were measured."""


_PYTHON_SECONDS = 7.15e-4
"""What `_interpret` takes on the reference machine."""


def _interpret() -> float:
    """The interpreter with short arrays, as a power-law fit's scan or a unit's bookkeeping is."""
    total, values = 0.0, np.arange(1.0, 200.0)
    for index in range(1, 400):
        part = np.log(values[index % 50 :])
        total += float(part.sum()) + len(f"{index}:{total:.3f}")
    return total


def _python() -> float:
    return _PYTHON_SECONDS / _best(_interpret)


def _storing() -> tuple[Handling, dict[str, float]]:
    """Ingest of synthetic checkpoints through our own code, and what the codec makes of Gaussian weights by dtype."""
    wide = 0.02 * np.random.default_rng(0).standard_normal(2**21)
    values = wide.astype(np.float32)
    with tempfile.TemporaryDirectory(prefix="varve-probe-") as folder:
        root = Path(folder)
        ratios = {name: _ratio(root / name, wide.astype(np.dtype(name)).reshape(1024, -1)) for name in _DTYPES}
        tiny = {"layer.weight": values[:1024].reshape(32, 32)}
        checkpoint = _ingest(root / "many", [{k: v + step for k, v in tiny.items()} for step in range(20)]) / 20
        small = {f"layers.{i}.weight": values[1024 * i : 1024 * (i + 1)].reshape(32, 32) for i in range(500)}
        tensor = max(1e-6, (_ingest(root / "small", [small]) - checkpoint) / len(small))
        large = {f"layers.{i}.weight": (values + i).reshape(2048, 1024) for i in range(4)}
        rest = _ingest(root / "large", [large]) - checkpoint - tensor * len(large)
    nbytes = sum(v.nbytes for v in large.values())
    return Handling(ingest_bytes=nbytes / max(rest, 1e-3), ingest_tensor=tensor, ingest_checkpoint=checkpoint), ratios


def _ratio(path: Path, values: np.ndarray) -> float:
    from pipeline.store.tensors import write_tensor

    write_tensor(path, values.dtype, values.shape, [values], {})
    return sum(file.stat().st_size for file in (path / "c").rglob("*") if file.is_file()) / values.nbytes


def _ingest(root: Path, checkpoints: Sequence[Mapping[str, np.ndarray]]) -> float:
    """CPU seconds of ingesting these checkpoints, the listing of their folder apart."""
    from safetensors.numpy import save_file

    from pipeline.archive import describe, open_archive
    from pipeline.store import Store, ingest_checkpoint

    for step, tensors in enumerate(checkpoints):
        folder = root / "runs" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        save_file(dict(tensors), folder / "model.safetensors")
    found = open_archive(root / "runs")
    store = Store.open(root / "store.zarr", mode="a")
    started = time.process_time()
    for run in found.runs:
        for checkpoint in run.checkpoints:
            ingest_checkpoint(store, checkpoint, describe(checkpoint))
    return time.process_time() - started


def _start() -> float:
    """CPU seconds of a process that imports what an analysis imports."""
    code = "import torch, zarr, xarray, scipy.linalg, matplotlib.pyplot, pipeline.report, pipeline.compute.run"
    before = os.times()
    subprocess.run([sys.executable, "-c", code], check=True)
    after = os.times()
    return (after.children_user - before.children_user) + (after.children_system - before.children_system)
