"""Whether anything that an analysis depends on has changed since it wrote its report, from names, sizes and times.

`varve analyze` asks before it imports what computes: on an unchanged archive the answer takes a fraction of a second.
The record stands beside the report. It covers the request, the archive, the bases outside it, the store, the report
and varve itself with its plugins; whatever it cannot cover is not recorded, and the next analysis runs in full.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.analysis.lock import writing
from pipeline.analysis.outcome import Done
from pipeline.analysis.request import AnalysisRequest

if TYPE_CHECKING:
    from pipeline.store import Store

RECORD = ".report-inputs.json"
"""The record's name in OUT."""
FORM = 1
_OWN = ("analyzers", "pipeline", "flows", "data_catalog")


@dataclass(frozen=True)
class Unchanged:
    """An earlier analysis to which there is nothing to add."""

    html: Path
    zarr: Path
    done: Done


def unchanged(request: AnalysisRequest) -> Unchanged | None:
    """The report of this request, if nothing has changed since it was written that could change it.

    Raises `StoreBusy` where another varve writes to the store.
    """
    out = request.out_path
    try:
        record = json.loads((out / RECORD).read_text(encoding="utf-8"))
        outside = [Path(path) for path in record["outside"]]
        told = record["done"]
        sentences = (tuple(told[which]) for which in ("warnings", "notes", "problems"))
        done = Done(told["checkpoints"], told["units"], *sentences)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if not _covers(request):
        return None
    with writing(request.store_path):
        if record != _record(request, _inputs(request, outside), outside, done):
            return None
    return Unchanged(out / "report.html", out / "report.zarr", done)


def inputs_of(request: AnalysisRequest) -> str:
    """A digest of what the analysis will read, to be taken before it reads; empty where it cannot be covered."""
    return _inputs(request, ()) if _covers(request) else ""


def remember(request: AnalysisRequest, before: str, done: Done | None, store: Store) -> None:
    """Records what the report was made from. `before`: `inputs_of` from before the analysis; `done`: None where
    another try may find more. Then, or where the inputs changed meanwhile, no record stays."""
    path = request.out_path / RECORD
    if done is None or not before or before != _inputs(request, ()):
        path.unlink(missing_ok=True)
        return
    outside = _outside(store)
    record = _record(request, _inputs(request, outside), outside, done)
    fresh = path.with_name(f"{RECORD}.{os.getpid()}.tmp")
    fresh.write_text(json.dumps(record), encoding="utf-8")
    fresh.replace(path)


def _covers(request: AnalysisRequest) -> bool:
    """Tasks, probe sets and models read files that only they know; --rehash and --profile ask for the work itself."""
    return not (request.rehash or request.profile or request.tasks or request.probes or request.model)


def _record(request: AnalysisRequest, inputs: str, outside: Iterable[Path], done: Done) -> dict[str, object]:
    out = request.out_path
    written = _digest(line for path in (out / "report.html", out / "report.zarr" / "zarr.json") for line in _tree(path))
    return {
        "form": FORM,
        "options": request.model_dump(mode="json"),
        "inputs": inputs,
        "outside": [str(path) for path in outside],
        "store": _digest(_tree(request.store_path, but={request.store_path / "tmp"})),
        "report": written,
        "done": {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(done).items()},
    }


def _inputs(request: AnalysisRequest, outside: Iterable[Path]) -> str:
    """Digest of varve's code, the catalog's entry, and the names, sizes and times of all files that are read."""
    import data_catalog
    from analyzers import registry

    entry = data_catalog.find(request.runs)
    root = Path(request.runs) if entry is None else entry.folder
    own = {
        *(request.out_path / name for name in ("report.html", "report.zarr", RECORD)),  # OUT may hold the archive
        request.store_path,
        Path(f"{request.store_path}.cache"),
        Path(f"{request.store_path}.lock"),
    }

    def lines() -> Iterator[str]:
        yield f"{sys.version} {Path.cwd()} {sorted(registry.targets().items())}"
        yield entry.model_dump_json() if entry else ""
        plugins = (target.partition(":")[0].partition(".")[0] for _, target in registry.targets().values())
        for package in dict.fromkeys((*_OWN, *plugins)):
            yield from _code(package)
        logs = [root / Path(path).expanduser() for path in entry.metrics.values()] if entry else []
        for path in (root, root.parent / "base", *_named(request), *logs, *outside):
            # OUT itself may lie in the archive: it is no input, what else lies in it is.
            yield from (line for line in _tree(path, but=own) if not line.startswith(f"{request.out_path} "))

    return _digest(lines())


def _named(request: AnalysisRequest) -> Iterator[Path]:
    """The paths among the request's values, such as bases."""
    for value in request.model_dump(exclude={"runs", "out", "store", "settings"}).values():
        for text in value if isinstance(value, tuple | list) else (value,):
            if isinstance(text, str) and text:
                for candidate in dict.fromkeys((text, text.partition("=")[2], text.rpartition("=")[2])):
                    path = Path(candidate).expanduser()
                    if candidate and _stat(path) is not None:
                        yield path


def _outside(store: Store) -> tuple[Path, ...]:
    """Where the bases came from; of a Hugging Face cache the model's whole folder, since its references can move."""
    from pipeline.archive.text import real_path

    bases = (run for run in store.runs() if run.role == "base")
    sources = {real_path(checkpoint.source) for run in bases for checkpoint in store.checkpoints(run.id)}
    return tuple(sorted(_of_model(source) for source in sources))


def _of_model(source: Path) -> Path:
    return source.parents[source.parts[::-1].index("snapshots")] if "snapshots" in source.parts else source


def _code(package: str) -> Iterator[str]:
    """Names, sizes and times of a package's modules; nothing is imported."""
    spec = find_spec(package)
    if spec is not None:
        for place in spec.submodule_search_locations or ([spec.origin] if spec.origin else []):
            yield from (line for line in _tree(Path(place)) if "__pycache__" not in line)


def _tree(root: Path, but: Iterable[Path] = ()) -> Iterator[str]:
    """A line for every file below a path, sorted within its folder; links are followed, each folder is read once."""
    left_out = set(but)
    seen: set[tuple[int, int]] = set()
    waiting = [root]
    while waiting:
        path = waiting.pop()
        if path in left_out:
            continue
        known = _stat(path)
        if known is None:
            yield f"{path} -"
        elif not stat.S_ISDIR(known.st_mode):
            yield f"{path} {known.st_size} {known.st_mtime_ns} {known.st_mode}"
        elif (known.st_dev, known.st_ino) not in seen:
            seen.add((known.st_dev, known.st_ino))
            yield f"{path} {known.st_mode}"
            with contextlib.suppress(OSError):  # a folder that cannot be listed holds nothing that can be read
                waiting += sorted(path.iterdir(), reverse=True)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (OSError, ValueError):
        return None


def _digest(lines: Iterable[str]) -> str:
    hashed = blake2b(digest_size=16)
    for line in lines:
        hashed.update(line.encode(errors="surrogateescape") + b"\n")
    return hashed.hexdigest()
