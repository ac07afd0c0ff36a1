"""Names of tasks and probe sets: those of the archive's catalog entry, and those that ship."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import data_catalog
from analyzers.errors import ParameterError
from pipeline.analysis.request import AnalysisRequest, is_factory, is_name

if TYPE_CHECKING:
    from analyzers.models import Material


def named(request: AnalysisRequest, kind: Literal["task", "probe"]) -> tuple[str, ...]:
    """What --task or --probe gave, where names of the archive's catalog entry stand for its files. Raises
    `ParameterError` for a name that neither the entry nor varve knows."""
    given = request.tasks if kind == "task" else request.probes
    if not any(is_name(one) for one in given):
        return given
    entry = data_catalog.find(request.runs)
    known: dict[str, str] = {} if entry is None else dict(entry.tasks if kind == "task" else entry.probes)
    found = []
    for one in given:
        if one in known and entry is not None:
            told = known[one]
            found.append(told if is_factory(told) else str((entry.folder / Path(told).expanduser()).absolute()))
        elif is_name(one) and one not in _shipped(kind):
            there = [*known, *_shipped(kind)]
            file = f"; the file of this name is --{kind} ./{one}" if Path(one).exists() else ""
            raise ParameterError(
                f"--{kind} {one!r}: no {kind} has this name (known: {', '.join(there) or 'none'}); a file's path "
                f"needs a separator or a suffix{file}"
            )
        else:
            found.append(one)
    return tuple(found)


def _shipped(kind: Literal["task", "probe"]) -> tuple[str, ...]:
    from pipeline.models.tasks import built_in_tasks

    return built_in_tasks() if kind == "task" else ()


def told_apart(materials: Sequence[Material]) -> list[Material]:
    """Recorded ones of a name but of other data get a piece of their digest into the name."""
    count = Counter((one.kind, one.name) for one in materials)
    return [
        replace(one, name=f"{one.name} {one.digest[:6]}") if count[one.kind, one.name] > 1 else one for one in materials
    ]
