"""Units coalesced into groups: one message to one worker and back, of a second or two."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from analyzers import costs
from analyzers.contract import Cost, IterativeStatistic, MatrixInfo, Statistic
from analyzers.costs import Kind, Work
from pipeline.archive.recipes import Merged
from pipeline.compute.calibration import Calibration, current
from pipeline.store.addresses import Source, UnitAddress
from pipeline.store.keys import identity

GROUP_SECONDS = 1.5
GROUP_UNITS = 512
_SHARES = 6
"""Groups for each worker, at least: with fewer, one worker waits for the other's last."""
_LEAST_SECONDS = 0.1
"""Below it, sending a group and its results is no longer small beside its work."""
GROUP_BYTES = 64 * 2**20
"""A statistic that stacks a whole group stays within this, unless one matrix alone is larger."""


@dataclass(frozen=True)
class Group:
    """Units of one statistic, alike in shape. `seconds` and `memory_bytes` (of the largest unit) are estimates; `work`
    and `result_bytes` are what its units say of theirs, the work summed by kind and side."""

    statistic: Statistic
    units: tuple[UnitAddress, ...]
    seconds: float
    memory_bytes: int
    device: Literal["cpu", "any"]
    work: tuple[Work, ...] = ()
    result_bytes: int = 0

    @property
    def keys(self) -> tuple[str, ...]:
        """The units' keys."""
        return tuple(unit.key for unit in self.units)

    def alone(self) -> tuple[Group, ...]:
        """Each unit as a group of its own, to be tried again."""
        return self.parts(len(self.units))

    def parts(self, count: int) -> tuple[Group, ...]:
        """Its units in `count` groups of about one length, `count` ≤ their number."""
        cuts = [len(self.units) * i // count for i in range(count + 1)]
        return tuple(self._part(self.units[a:b]) for a, b in pairwise(cuts))

    def _part(self, units: tuple[UnitAddress, ...]) -> Group:
        share = len(units) / len(self.units)
        work = tuple(replace(one, operations=share * one.operations) for one in self.work)
        nbytes = int(share * self.result_bytes)
        return replace(self, units=units, seconds=share * self.seconds, work=work, result_bytes=nbytes)


def group_units(
    units: Iterable[UnitAddress], seconds: float = GROUP_SECONDS, calibration: Calibration | None = None
) -> tuple[Group, ...]:
    """Groups of at most `seconds` (a single unit may take longer), the longest first, by what was measured of this
    machine unless another `calibration` is given."""
    rates = calibration or current()
    alike: dict[tuple[object, ...], list[_Priced]] = {}
    prices: dict[tuple[object, ...], tuple[float, Cost, int]] = {}
    identities: dict[int, tuple[Statistic, str]] = {}
    for unit in units:
        statistic = unit.statistic
        known = identities.setdefault(id(statistic), (statistic, ""))
        if not known[1]:
            known = identities[id(statistic)] = (statistic, identity(statistic))
        like = (known[1], *_shapes(unit))
        if len(unit.members) > 1 or like not in prices:  # matrices of one shape, dtype and role cost the same
            prices[like] = _cost(unit, rates)
            first = _with_shared(prices[like], rates)
        else:
            first = prices[like]
        alike.setdefault(like if len(unit.members) == 1 else (known[1],), []).append((unit, *first))
    groups = [group for members in alike.values() for group in _split(members, seconds)]
    return tuple(sorted(groups, key=lambda group: -group.seconds))


def shared_out(groups: Sequence[Group], workers: int) -> tuple[Group, ...]:
    """The same units in groups that keep so many workers busy to the end, the longest first.

    Trials that can be trained as one ensemble stay together, which saves more than a second worker does.
    """
    if workers < 2:
        return tuple(groups)
    fair = max(_LEAST_SECONDS, sum(group.seconds for group in groups) / (_SHARES * workers))
    parts: list[Group] = []
    for group in groups:
        whole = isinstance(group.statistic, IterativeStatistic)
        parts.extend(group.parts(1 if whole else max(1, min(len(group.units), math.ceil(group.seconds / fair)))))
    return tuple(sorted(parts, key=lambda group: -group.seconds))


def _with_shared(priced: tuple[float, Cost, int], rates: Calibration) -> tuple[float, Cost, int]:
    """The cost of the first unit of its like, which makes what the others find in the cache."""
    seconds, cost, nbytes = priced
    if not cost.once:
        return priced
    return seconds + costs.seconds(cost.once, rates.rates), replace(cost, work=(*cost.work, *cost.once)), nbytes


_Priced = tuple[UnitAddress, float, Cost, int]
"""A unit, its seconds, its cost, and the bytes of its matrices."""


def _split(members: Sequence[_Priced], seconds: float) -> Iterable[Group]:
    taken: list[_Priced] = []
    time, size = 0.0, 0
    for one in members:
        _, its_seconds, cost, nbytes = one
        full = time + its_seconds > seconds or size + nbytes > GROUP_BYTES or len(taken) >= GROUP_UNITS
        if taken and (full or cost.device != taken[-1][2].device):
            yield _group(taken)
            taken, time, size = [], 0.0, 0
        taken.append(one)
        time, size = time + its_seconds, size + nbytes
    if taken:
        yield _group(taken)


def _group(taken: Sequence[_Priced]) -> Group:
    sums: dict[tuple[Kind, int], float] = {}
    for cost in (cost for _, _, cost, _ in taken):
        for one in cost.work:
            sums[one.kind, one.side] = sums.get((one.kind, one.side), 0.0) + one.operations
    return Group(
        taken[0][0].statistic,
        tuple(unit for unit, _, _, _ in taken),
        sum(seconds for _, seconds, _, _ in taken),
        max(cost.memory_bytes for _, _, cost, _ in taken),
        taken[0][2].device,
        tuple(Work(kind, operations, side) for (kind, side), operations in sums.items()),
        sum(cost.result_bytes for _, _, cost, _ in taken),
    )


def _shapes(unit: UnitAddress) -> tuple[object, ...]:
    if unit.trial is not None and unit.matrix is None:  # trials of one checkpoint may be trained together
        return (unit.run, unit.step, unit.members)
    if len(unit.members) != 1 or unit.members[0].matrix is None:
        return (unit.key,)
    member = unit.members[0]
    assert member.matrix is not None
    info = member.matrix.info
    return (info.shape, info.dtype, info.role, info.rank, type(member.matrix.recipe))


def _cost(unit: UnitAddress, rates: Calibration) -> tuple[float, Cost, int]:
    """The unit's seconds and cost, and the bytes of its matrices in float64 (0 where it reads none)."""
    infos = [_info(member.matrix) for member in unit.members if member.matrix is not None]
    nbytes = sum(8 * info.shape[0] * info.shape[1] for info in infos) if unit.statistic.reads_matrices else 0
    entries = [member.checkpoint.entries for member in unit.members if member.checkpoint is not None]
    infos = infos or [MatrixInfo("checkpoint", (count, 1)) for count in entries]
    cost = unit.statistic.cost(infos)
    return rates.seconds(cost), cost, nbytes


def _info(matrix: Source) -> MatrixInfo:
    """An adapter on its base costs what its Δ does: where one is measured against the other, W is not expanded."""
    beside_delta = isinstance(matrix.recipe, Merged) and matrix.info.role != "merged"
    return replace(matrix.info, role="delta") if beside_delta else matrix.info
