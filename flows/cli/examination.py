"""What `varve doctor` looks at: each check states what it found and, where something is wrong, how to fix it.

Nothing here starts Prefect or changes anything.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from flows import prefect_env, server
from flows.cli.words.console import plural
from flows.shadowing import OUR_PACKAGES, shadowed
from pipeline.store import limits

_TRAPS = {
    "fastapi": "with a newer fastapi, Prefect 3.8 fails every flow",
    "sqlalchemy": "with a newer SQLAlchemy, schedules of Prefect 3.8 silently never fire",
    "zarr": "the store is written for Zarr 3.1",
    "prefect": "the flows are written for Prefect 3.8",
}
_LITTLE_MEMORY, _LITTLE_DISK = 2 * 10**9, 2 * 10**9


@dataclass(frozen=True)
class Check:
    """One finding. `state` "bad" makes doctor's exit code 1; "note" is worth knowing."""

    name: str
    state: Literal["ok", "note", "bad"]
    found: str
    fix: str = ""


def versions() -> Iterator[Check]:
    """The installed stack against what this version of varve asks for."""
    from packaging.requirements import Requirement

    python = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= (3, 11)
    yield Check("python", "ok" if good else "bad", python, "" if good else "install Python 3.11 or newer")
    try:
        wanted = [Requirement(line) for line in metadata.requires("varve") or ()]
    except metadata.PackageNotFoundError:
        yield Check("varve", "bad", "no installed distribution", "pip install . in the folder of varve")
        return
    for requirement in wanted:
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield _version(requirement.name, str(requirement.specifier), requirement.specifier.contains)


def _version(name: str, wanted: str, accepts: Callable[..., bool]) -> Check:
    """One distribution; the specifier decides, the trap explains."""
    fix = f'pip install "{name}{wanted}"'
    try:
        installed = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Check(name, "bad", "not installed", fix)
    if accepts(installed, prereleases=True):
        return Check(name, "ok", installed)
    why = _TRAPS.get(name.lower())
    return Check(name, "bad", f"{installed}, but {wanted} is needed" + (f": {why}" if why else ""), fix)


def shadows() -> Iterator[Check]:
    """Whether something stands before one of our packages, or before one that we need."""
    root = Path(__file__).resolve().parents[2]
    owners = metadata.packages_distributions()
    for name in OUR_PACKAGES:
        spec = importlib.util.find_spec(name)
        places = [Path(p).resolve() for p in (spec.submodule_search_locations or ())] if spec else []
        places = [shadowed()[name]] if name in shadowed() else places
        others = sorted(set(owners.get(name, ())) - {"varve"})
        if not places:
            yield Check(f"package {name}", "bad", "cannot be imported", "pip install --force-reinstall --no-deps varve")
        elif places[0] != root / name:
            fix = f"uninstall {' or '.join(others)}" if others else f"rename or move {places[0]}"
            yield Check(f"package {name}", "bad", f"{places[0]} shadows varve's own, {root / name}", fix)
        elif others:
            found = f"also installed by {', '.join(others)}: one overwrites the other"
            yield Check(f"package {name}", "bad", found, f"uninstall {' or '.join(others)}, then reinstall varve")
    for name, place in shadowed().items():
        if name not in OUR_PACKAGES:
            found = f"{place} shadows the package that varve needs"
            yield Check(f"package {name}", "bad", found, f"rename or move {place}, or work in another folder")
    yield Check("package folder", "ok", str(root))


def devices() -> Iterator[Check]:
    """torch, CUDA devices, threads."""
    try:
        import torch
    except ImportError as error:
        yield Check("torch", "bad", f"cannot be imported: {error}", 'pip install "torch>=2.6"')
        return
    threads = plural(torch.get_num_threads(), "thread")
    yield Check("threads", "ok", f"{plural(limits.cores(), 'core')} usable, torch uses {threads}")
    if not torch.backends.mkl.is_available() and not torch._C.has_lapack:
        yield Check(
            "LAPACK", "bad", "this torch lacks LAPACK, so no spectra can be computed", "install a standard torch wheel"
        )
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            memory = f"{properties.total_memory / 1e9:.1f} GB"
            yield Check(f"cuda:{index}", "ok", f"{properties.name}, {memory}, CUDA {torch.version.cuda}")
    elif shutil.which("nvidia-smi"):
        built = "without CUDA" if torch.version.cuda is None else f"for CUDA {torch.version.cuda}"
        fix = "install a CUDA build of torch (pytorch.org), or update the driver"
        yield Check("cuda", "note", f"nvidia-smi is installed, but torch (built {built}) finds no device", fix)
    else:
        yield Check("cuda", "ok", "no GPU; everything runs on the CPU")


def room(where: Path) -> Iterator[Check]:
    """Memory, and disk at `where` or its nearest existing parent."""
    available = limits.available_memory()
    found = f"{available / 1e9:.1f} GB available of {limits.memory_limit() / 1e9:.1f} GB"
    little = available < _LITTLE_MEMORY
    fix = "close other programs, or give fewer --workers" if little else ""
    yield Check("memory", "note" if little else "ok", found, fix)
    folder = next(p for p in (where.absolute(), *where.absolute().parents) if p.exists())
    free = shutil.disk_usage(folder).free
    short = free < _LITTLE_DISK
    fix = "free some space: a store takes about 3/4 of the checkpoints' bytes" if short else ""
    yield Check("disk", "note" if short else "ok", f"{free / 1e9:.1f} GB free at {folder}", fix)


def prefect() -> Iterator[Check]:
    """Which Prefect API a flow would use, and whether it answers; starts nothing."""
    try:
        url = prefect_env.configured_url()
    except Exception as error:  # a broken installation fails on import in ways of its own; that is the finding
        fix = "pip install with constraints.txt, or use --no-flow"
        yield Check("Prefect", "bad", f"cannot be imported: {type(error).__name__}: {error}", fix)
        return
    local = server.running()
    if url is not None:
        trouble = prefect_env.trouble_with(url)
        fix = "start that server, or unset PREFECT_API_URL; --no-flow needs none" if trouble else ""
        found = f"{url} cannot be used: {trouble}" if trouble else f"{url} answers{_server_version(url)}"
        yield Check("Prefect API", "bad" if trouble else "ok", found, fix)
    elif local is not None:
        yield Check("Prefect API", "ok", f"none configured; the local one at {local.url} answers and is used")
    else:
        yield Check("Prefect API", "ok", "none configured; each command starts a temporary one (10 to 20 s)")
    if (stale := server.recorded()) is not None and local is None:
        fix = "`varve schedule` starts a new one; schedules do not fire until then"
        yield Check("Prefect server", "note", f"the one varve started at {stale.url} no longer answers", fix)
    if not os.access(next(p for p in (server.home(), *server.home().parents) if p.exists()), os.W_OK):
        fix = "set PREFECT_HOME to a writable folder, or use --no-flow"
        yield Check("PREFECT_HOME", "bad", f"{server.home()} is not writable", fix)


def _server_version(url: str) -> str:
    import httpx

    try:
        answer = httpx.get(f"{url.rstrip('/')}/admin/version", timeout=5)
    except httpx.HTTPError:
        return ""
    theirs, ours = answer.text.strip().strip('"'), metadata.version("prefect")
    if answer.status_code != 200:
        return ""
    return f", version {theirs}" + ("" if theirs == ours else f" (here: {ours})")


def dask(scheduler: str) -> Iterator[Check]:
    """Whether a given Dask scheduler answers, with how many workers, of the same versions."""
    from distributed import Client

    try:
        with Client(scheduler, timeout=5, set_as_default=False) as client:
            workers = client.scheduler_info(n_workers=-1)["workers"]
            threads = sum(w["nthreads"] for w in workers.values())
            state: Literal["ok", "bad"] = "ok" if workers else "bad"
            fix = "" if workers else f"start workers: dask worker {scheduler}"
            yield Check("Dask scheduler", state, f"{scheduler}: {len(workers)} workers, {threads} threads", fix)
            try:
                client.get_versions(check=True)
            except ValueError as error:
                fix = "install the same versions on all machines"
                yield Check("Dask versions", "note", " ".join(str(error).split()), fix)
    except (OSError, TimeoutError, ValueError) as error:
        fix = "check the address (tcp://HOST:8786), the network and the scheduler's log"
        yield Check("Dask scheduler", "bad", f"{scheduler} does not answer: {error}", fix)


def plugins() -> Iterator[Check]:
    """Whether every registered analyzer can be loaded, and whether two want one name."""
    from analyzers import registry

    for info in registry.available().values():
        if info.problem:
            fix = "reinstall varve" if info.origin == "built-in" else f"update or uninstall {info.origin}"
            yield Check(f"analyzer {info.name}", "bad", info.problem, fix)
        else:
            yield Check(f"analyzer {info.name}", "ok", f"{info.origin}, version {info.version}")
    for clash in registry.clashes():
        yield Check("analyzer names", "note", clash, "uninstall the one you do not want")


def store(path: Path) -> Iterator[Check]:
    """Whether this version can read a store."""
    from analyzers.errors import StoreError
    from pipeline.store import Store

    try:
        runs = Store.open(path, mode="r").runs()
    except StoreError as error:
        yield Check("store", "bad", str(error), "see the message")
    else:
        yield Check("store", "ok", f"{path}: {len(runs)} runs")


def examine(scheduler: str | None = None, store_path: Path | None = None) -> list[Check]:
    """All checks in the order of the report."""
    checks = [*versions(), *shadows(), *devices(), *room(store_path or Path.cwd()), *prefect(), *plugins()]
    if scheduler:
        checks += dask(scheduler)
    if store_path is not None:
        checks += store(store_path)
    return checks
