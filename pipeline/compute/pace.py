"""How long a computation still takes, by what its finished groups took.

The plan prices every group; machines and statistics differ from the plan by factors. `Pace` learns one factor per
statistic from the groups that have finished, and how many groups ran at once. The first groups on the workers also pay
for start-up (imports, opened files, warm caches): they count only as long as nothing else is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.compute.groups import Group

UNMEASURED_FACTOR = 3.0
"""How wrong the plan may be about a statistic of which no group has finished."""
SEEN_GROUPS = 4.0
"""After so many groups' time on each worker, how many are seen to run at once counts as much as how many there are."""


@dataclass(frozen=True)
class Range:
    """Seconds of wall time still to go: the estimate, and the bounds that it probably lies in."""

    low: float
    middle: float
    high: float


@dataclass
class _Measured:
    """Of one statistic: planned and actual seconds of its finished groups, and how many they were."""

    planned: float = 0.0
    actual: float = 0.0
    groups: int = 0

    def add(self, planned: float, actual: float, groups: int = 1) -> None:
        self.planned += planned
        self.actual += actual
        self.groups += groups

    @property
    def ratio(self) -> float:
        return self.actual / self.planned


@dataclass
class Pace:
    """`remaining` seconds by statistic as planned; `workers` groups run at once. Times are of any steady clock."""

    remaining: dict[str, float]
    workers: int
    started: float
    _warm: dict[str, _Measured] = field(default_factory=dict)
    _cold: int = 0
    _warm_since: float = 0.0

    def expect(self, planned: Mapping[str, float]) -> None:
        """A round begins: of these statistics at least so much is still to do (searches go on)."""
        for name, seconds in planned.items():
            self.remaining[name] = max(self.remaining.get(name, 0.0), seconds)

    def finished(self, statistic: str, planned: float, actual: float, now: float) -> None:
        """A group of a statistic has finished. Groups that failed or took no time teach nothing."""
        self.remaining[statistic] = max(0.0, self.remaining.get(statistic, 0.0) - planned)
        if planned <= 0 or actual <= 0:
            return
        if self._cold < max(1, self.workers):
            self._cold += 1
            self._warm_since = now
            return
        self._warm.setdefault(statistic, _Measured()).add(planned, actual)

    def to_go(self, now: float) -> Range | None:
        """The estimate; None until a group has finished that paid for no start-up."""
        if not self._warm:
            return None
        together = _Measured()
        for measured in self._warm.values():
            together.add(measured.planned, measured.actual, measured.groups)
        low = middle = high = 0.0
        for name, planned in self.remaining.items():
            known = self._warm.get(name)
            seconds = planned * (known or together).ratio
            doubt = 1 + 1 / known.groups**0.5 if known else UNMEASURED_FACTOR
            low, middle, high = low + seconds / doubt, middle + seconds, high + seconds * doubt
        # On the other workers a group is half done, on average.
        half_done = min((self.workers - 1) * together.actual / together.groups / 2, middle / 2)
        scale = (1 - half_done / middle if middle else 1.0) / self._at_once(together, now)
        return Range(low * scale, middle * scale, high * scale)

    def _at_once(self, together: _Measured, now: float) -> float:
        """Seconds of work per second of wall time: at first one per worker, then what is seen since they are warm,
        reading and writing included."""
        workers = max(1, self.workers)
        trusted = SEEN_GROUPS * together.actual / together.groups
        return min(workers, (together.actual + workers * trusted) / (max(0.0, now - self._warm_since) + trusted))


def seconds_by_statistic(groups: Iterable[Group]) -> dict[str, float]:
    """Planned seconds of the groups of each statistic."""
    seconds: dict[str, float] = {}
    for group in groups:
        seconds[group.statistic.name] = seconds.get(group.statistic.name, 0.0) + group.seconds
    return seconds


def samples_first(groups: Sequence[Group], workers: int) -> tuple[Group, ...]:
    """The same groups in an order that soon shows what each statistic takes: after one group for each worker, a group
    of middle length of every statistic, then the rest as they were."""
    head, rest = list(groups[:workers]), list(groups[workers:])
    members: dict[str, list[Group]] = {}
    for group in rest:
        members.setdefault(group.statistic.name, []).append(group)
    samples = [same[len(same) // 2] for same in members.values()] if len(members) > 1 else []
    chosen = set(map(id, samples))
    return (*head, *samples, *(group for group in rest if id(group) not in chosen))
