"""Where the time of a computation went, as tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flows.cli.words.console import table

_SHOWN = ("read", "decode", "copy", "factorize", "fit", "pipeline")


def lines(profile: Mapping[str, Any] | None) -> list[str]:
    """The phases, then every statistic, from `Profile.as_data`; nothing where nobody counted."""
    if not profile or not profile["statistics"]:
        return []
    phases: Mapping[str, list[float]] = profile["phases"]
    units = sum(spent["units"] for spent in profile["statistics"].values())
    cpu = sum(seconds[0] for seconds in phases.values())
    wall = sum(seconds[1] for seconds in phases.values())
    rows = [
        (phase, f"{seconds[0]:.2f}", f"{seconds[1]:.2f}", _share(seconds[1], wall)) for phase, seconds in phases.items()
    ]
    rows.append(("together", f"{cpu:.2f}", f"{wall:.2f}", ""))
    own = sum(phases[phase][0] for phase in ("read", "decode", "copy", "write", "pipeline"))
    said = ["", "Where the time went, in seconds, over the driver and all workers:"]
    said.append(table(("phase", "CPU", "wall", "of wall"), rows, right=(1, 2, 3)))
    said.append(
        f"{units} units in {profile['groups']} groups; all but the statistics themselves: "
        f"{1e3 * own / max(1, units):.2f} CPU ms a unit"
    )
    return [*said, "", _by_statistic(profile["statistics"])]


def _by_statistic(statistics: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for name, spent in statistics.items():
        seconds = {phase: spent.get(phase, [0.0, 0.0]) for phase in (*_SHOWN, "write", "idle")}
        total = sum(cpu for cpu, _ in seconds.values())
        cells = [f"{seconds[phase][0]:.2f}" if phase in spent else "" for phase in _SHOWN]
        each = f"{1e3 * total / spent['units']:.2f}" if spent["units"] else ""
        wall = sum(wall for phase, (_, wall) in seconds.items() if phase != "idle")
        rows.append((total, (name, spent["units"] or "", *cells, f"{total:.2f}", f"{wall:.2f}", each)))
    rows.sort(key=lambda row: -row[0])
    headers = ("CPU seconds of", "units", *_SHOWN, "together", "wall", "ms a unit")
    return table(headers, [row for _, row in rows], right=tuple(range(1, len(headers))))


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %" if whole else ""
