"""Tasks and probe sets by path: described for the plan (name and digest), and opened on a worker."""

from __future__ import annotations

from typing import Any, Literal

from analyzers.models import Material


def read_material(kind: Literal["task", "probe"], source: str) -> Material:
    """The task or probe set at `source` (a YAML file, or "package.module:factory") as statistics carry it.

    Its data are read and checked, so that what is wrong with them is said before any work. Raises `ParameterError`.
    """
    name, digest, _ = _read(kind, source)
    return Material(kind, name, digest, source)


def open_material(material: Material) -> tuple[Any, str]:
    """The task or probe set, and the digest it has now."""
    _, digest, opened = _read(material.kind, material.source)
    return opened, digest


def _read(kind: Literal["task", "probe"], source: str) -> tuple[str, str, Any]:
    if kind == "task":
        from pipeline.models.tasks import read_task

        return read_task(source)
    from pipeline.models.probes import read_probe

    return read_probe(source)
