"""An archive under the run ids that its catalog entry gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from analyzers.errors import ArchiveError
from pipeline.archive import open_archive
from pipeline.archive.types import Archive


def scan(
    folder: str | Path,
    name: str | None = None,
    step_pattern: str | None = None,
    step_scale: float | None = None,
    run_ids: Mapping[str, str] | None = None,
) -> Archive:
    """The runs and checkpoints of a folder, from headers alone. `run_ids`: folder relative to the root → run id.

    Raises `ArchiveError` for a folder that is not there, or when two runs are given one id.
    """
    archive = open_archive(folder, name, step_pattern, step_scale or 1)
    return _renamed(archive, run_ids) if run_ids else archive


def _renamed(archive: Archive, run_ids: Mapping[str, str]) -> Archive:
    """The archive with the ids that the catalog gives."""
    renamed, places = [], dict[str, Path]()
    for run in archive.runs:
        relative = run.path.relative_to(archive.root).as_posix()
        run_id = run_ids.get(relative, run.id)
        if run_id in places:
            raise ArchiveError(
                f"two runs are called {run_id!r}: {places[run_id]} and {run.path}; change the catalog entry's run_ids"
            )
        places[run_id] = run.path
        checkpoints = tuple(replace(c, run=run_id) for c in run.checkpoints)
        renamed.append(replace(run, id=run_id, checkpoints=checkpoints))
    return replace(archive, runs=tuple(sorted(renamed, key=lambda run: run.id)))
