"""Where the time of a computation went: phases and statistics, in CPU and wall seconds, summed by the driver.

    profile = Profile()
    compute(store, analyzers, cluster, profile=profile)
    print(profile.table())

Workers count only when asked to (`run_group(..., profile=True)`), and send a few numbers beside each result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from analyzers.contract import Statistic
from pipeline.compute.groups import Group
from pipeline.store.clock import PHASES, Ledger, Seconds, Spent

DRIVER = "(driver)"
_FITS = frozenset({"scan", "python"})


def numerics(statistic: Statistic, group: Group) -> str:
    """The phase of a statistic's own work: "factorize" when it reads matrices and does more than pass over their
    entries, by what it says of its cost; else "fit"."""
    infos = [m.matrix.info for unit in group.units[:1] for m in unit.members if m.matrix is not None]
    kinds = {work.kind for work in statistic.cost(infos).work} if infos else set()
    if kinds:
        return "fit" if kinds <= _FITS else "factorize"
    return "factorize" if statistic.reads_matrices and not statistic.reads_models else "fit"


@dataclass
class Profile:
    """The sums so far. `by_statistic`: statistic → phase → seconds, the driver's own under `DRIVER`."""

    by_statistic: dict[str, dict[str, Seconds]] = field(default_factory=dict)
    units: dict[str, int] = field(default_factory=dict)
    groups: int = 0

    def add(self, statistic: str, spent: Spent, units: int = 0) -> None:
        """What a group, or the driver, took."""
        sums = self.by_statistic.setdefault(statistic, {})
        for phase, seconds in spent.items():
            sums[phase] = sums.get(phase, Seconds()) + seconds
        self.units[statistic] = self.units.get(statistic, 0) + units
        self.groups += bool(units)

    @contextmanager
    def driving(self, phase: str) -> Iterator[None]:
        """What the driver does inside is `phase`'s."""
        ledger = Ledger()
        try:
            with ledger.running(phase):
                yield
        finally:
            self.add(DRIVER, ledger.spent)

    def idle(self, workers: int, wall: float, worked: float) -> None:
        """`wall` seconds of so many workers, of which `worked` were spent on groups: the rest they waited."""
        self.add(DRIVER, {"idle": Seconds(0.0, max(0.0, workers * wall - worked))})

    @property
    def worked(self) -> float:
        """Wall seconds that workers spent on groups so far."""
        return sum(s.wall for name, sums in self.by_statistic.items() if name != DRIVER for s in sums.values())

    def phases(self) -> dict[str, Seconds]:
        """Phase → seconds over all statistics, in the order of `PHASES`."""
        sums = dict.fromkeys(PHASES, Seconds())
        for spent in self.by_statistic.values():
            for phase, seconds in spent.items():
                sums[phase] = sums.get(phase, Seconds()) + seconds
        return sums

    def as_data(self) -> dict[str, Any]:
        """JSON: phases, and per statistic its units and phases, each [CPU seconds, wall seconds]."""
        return {
            "groups": self.groups,
            "phases": _plain(self.phases()),
            "statistics": {
                name: {"units": self.units.get(name, 0), **_plain(spent)} for name, spent in self.by_statistic.items()
            },
        }


def _plain(spent: Mapping[str, Seconds]) -> dict[str, list[float]]:
    return {phase: [round(s.cpu, 6), round(s.wall, 6)] for phase, s in spent.items()}
