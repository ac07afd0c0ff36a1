"""Where the numbers come from: versions, machine, store, analyzers with their parameters."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.archive.text import path_text, visible

if TYPE_CHECKING:
    from analyzers.contract import Analyzer, Statistic
    from pipeline.store.store import Store

CONVENTIONS = "varve-1"
PACKAGES = ("torch", "numpy", "scipy", "xarray", "zarr", "numcodecs", "dask", "prefect", "safetensors", "matplotlib")


def installed(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Version of each distribution that is installed, read from its metadata (nothing is imported)."""
    found: dict[str, str] = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def own_version() -> str:
    """The version of the varve distribution, or "unknown" when it runs from a bare checkout."""
    return installed(("varve",)).get("varve", "unknown")


def machine() -> dict[str, Any]:
    """Where the report was made: system, processor, cores, Python. No host or user name."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count() or 0,
        "python": platform.python_version(),
    }


def described(analyzers: Sequence[Analyzer]) -> list[dict[str, Any]]:
    """Name, version, parameters and statistics (with their versions and parameters) of each analyzer."""
    return [
        {
            "name": analyzer.name,
            "version": analyzer.version,
            "parameters": analyzer.parameters.model_dump(mode="json"),
            "statistics": [
                {
                    "name": s.name,
                    "version": s.version,
                    "scope": s.scope,
                    "parameters": s.parameters(),
                    "extent": s.extent,
                }
                for s in analyzer.statistics()
            ],
        }
        for analyzer in analyzers
    ]


def computed_by(store: Store, analyzers: Sequence[Analyzer]) -> dict[str, Any]:
    """Statistic → the devices and software that computed what the store holds of it, and from when to when."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(s.name for analyzer in analyzers for s in _with_inputs(analyzer.statistics())):
        table = store.statistic(name)
        devices: set[str] = set()
        software: set[str] = set()
        written: set[str] = set()
        for key in table.keys():  # noqa: SIM118 - a table is not a mapping
            made = table.provenance(key)
            devices.add(str(made.get("device", "unknown")))
            software.update(f"{k} {v}" for k, v in dict(made.get("software", {})).items())
            written.add(str(made.get("written", "")))
        if written:
            found[name] = {
                "devices": sorted(devices),
                "software": sorted(software),
                "first": min(written),
                "last": max(written),
            }
    return found


def _with_inputs(statistics: Iterable[Statistic]) -> Iterator[Statistic]:
    for statistic in statistics:
        yield statistic
        yield from _with_inputs(statistic.inputs())


def root_attributes(
    store: Path | str,
    store_schema: int | None,
    archives: Sequence[str],
    analyzers: Sequence[Analyzer],
    computed: Mapping[str, Any],
) -> dict[str, Any]:
    """The attributes of the tree's root: plain strings, structured ones as JSON text."""
    return {
        "title": f"varve report: {', '.join(archives) or visible(Path(store).name)}",
        "Conventions": CONVENTIONS,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "varve_version": own_version(),
        "archive": ", ".join(archives),
        "store": path_text(store),
        "store_schema": "" if store_schema is None else str(store_schema),
        "device": ", ".join(sorted({d for made in computed.values() for d in made["devices"]})),
        "computed": json.dumps(computed, sort_keys=True),
        "software": json.dumps(installed(), sort_keys=True),
        "machine": json.dumps(machine(), sort_keys=True),
        "analyzers": json.dumps(described(analyzers), sort_keys=True, default=str),
    }


def parsed(attributes: Mapping[Any, Any], name: str, default: Any) -> Any:
    """A JSON attribute of a report, or `default` where it is absent or was written by hand."""
    try:
        return json.loads(attributes[name])
    except (KeyError, TypeError, ValueError):
        return default
