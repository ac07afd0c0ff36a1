"""Units coalesced into groups: one message to one worker and back, of a second or two."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from analyzers import costs
from analyzers.contract import Cost, IterativeStatistic, MatrixInfo, Statistic
from analyzers.costs import Kind, Work
from pipeline.archive.recipes import Merged
from pipeline.compute.calibration import Calibration, current
from pipeline.units.addresses import MatrixRef, UnitRef
from pipeline.units.found import AddressList
from pipeline.units.keys import identity

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
    units: Sequence[UnitRef]
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

    def _part(self, units: Sequence[UnitRef]) -> Group:
        share = len(units) / len(self.units)
        work = tuple(replace(one, operations=share * one.operations) for one in self.work)
        nbytes = int(share * self.result_bytes)
        return replace(self, units=units, seconds=share * self.seconds, work=work, result_bytes=nbytes)


def group_units(
    units: Iterable[UnitRef], seconds: float = GROUP_SECONDS, calibration: Calibration | None = None
) -> tuple[Group, ...]:
    """Groups of at most `seconds` (a single unit may take longer), the longest first, by what was measured of this
    machine unless another `calibration` is given."""
    rates = calibration or current()
    every = units if isinstance(units, Sequence) else tuple(units)
    alike: dict[tuple[object, ...], _Alike] = {}
    prices: dict[tuple[object, ...], _Price] = {}
    identities: dict[int, tuple[Statistic, str]] = {}
    for number, unit in enumerate(every):
        statistic = unit.statistic
        if id(statistic) not in identities:
            identities[id(statistic)] = (statistic, identity(statistic))
        its_identity = identities[id(statistic)][1]
        like = (its_identity, *_shapes(unit))
        single = len(unit.members) == 1
        first = len(unit.members) > 1 or like not in prices  # matrices of one shape, dtype and role cost the same
        if first:
            prices[like] = _cost(unit, rates)
        price = _with_shared(prices[like], rates) if first else prices[like]
        alike.setdefault(like if single else (its_identity,), _Alike()).add(number, price)
    groups = [group for some in alike.values() for group in _split(every, some, seconds)]
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


def _with_shared(priced: _Price, rates: Calibration) -> _Price:
    """The cost of the first unit of its like, which makes what the others find in the cache."""
    seconds, cost, nbytes = priced
    if not cost.once:
        return priced
    return seconds + costs.seconds(cost.once, rates.rates), replace(cost, work=(*cost.work, *cost.once)), nbytes


_Price = tuple[float, Cost, int]
"""A unit's seconds, its cost, and the bytes of its matrices."""


class _Alike:
    """The numbers of units that can stand in one group, and their prices: one for each as long as they differ, and the
    last for all others."""

    def __init__(self) -> None:
        self.numbers = array("i")
        self._prices: list[_Price] = []

    def add(self, number: int, price: _Price) -> None:
        """One unit more."""
        missing = len(self.numbers) - len(self._prices)
        if not self._prices or price is not self._prices[-1]:
            self._prices.extend(self._prices[-1:] * missing)
            self._prices.append(price)
        self.numbers.append(number)

    def price(self, at: int) -> _Price:
        """The price of a unit by its position."""
        return self._prices[min(at, len(self._prices) - 1)]


def _split(units: Sequence[UnitRef], alike: _Alike, seconds: float) -> Iterable[Group]:
    start = 0
    time, size = 0.0, 0
    for at in range(len(alike.numbers)):
        its_seconds, cost, nbytes = alike.price(at)
        full = time + its_seconds > seconds or size + nbytes > GROUP_BYTES or at - start >= GROUP_UNITS
        if at > start and (full or cost.device != alike.price(at - 1)[1].device):
            yield _group(units, alike, range(start, at))
            start, time, size = at, 0.0, 0
        time, size = time + its_seconds, size + nbytes
    yield _group(units, alike, range(start, len(alike.numbers)))


def _group(units: Sequence[UnitRef], alike: _Alike, taken: range) -> Group:
    sums: dict[tuple[Kind, int], float] = {}
    prices = [alike.price(at) for at in taken]
    for _, cost, _ in prices:
        for one in cost.work:
            sums[one.kind, one.side] = sums.get((one.kind, one.side), 0.0) + one.operations
    numbers = alike.numbers[taken.start : taken.stop]
    return Group(
        units[numbers[0]].statistic,
        AddressList(units.__getitem__, numbers),
        sum(seconds for seconds, _, _ in prices),
        max(cost.memory_bytes for _, cost, _ in prices),
        prices[0][1].device,
        tuple(Work(kind, operations, side) for (kind, side), operations in sums.items()),
        sum(cost.result_bytes for _, cost, _ in prices),
    )


def _shapes(unit: UnitRef) -> tuple[object, ...]:
    if unit.trial is not None and unit.matrix is None:  # trials of one checkpoint may be trained together
        return (unit.run, unit.step, unit.members)
    if len(unit.members) != 1 or unit.members[0].matrix is None:
        return (unit.key,)
    member = unit.members[0]
    assert member.matrix is not None
    info = member.matrix.info
    return (info.shape, info.dtype, info.role, info.rank, type(member.matrix.recipe))


def _cost(unit: UnitRef, rates: Calibration) -> _Price:
    """The unit's seconds and cost, and the bytes of its matrices in float64 (0 where it reads none)."""
    infos = [_info(member.matrix) for member in unit.members if member.matrix is not None]
    nbytes = sum(8 * info.shape[0] * info.shape[1] for info in infos) if unit.statistic.reads_matrices else 0
    entries = [member.checkpoint.entries for member in unit.members if member.checkpoint is not None]
    infos = infos or [MatrixInfo("checkpoint", (count, 1)) for count in entries]
    cost = unit.statistic.cost(infos)
    return rates.seconds(cost), cost, nbytes


def _info(matrix: MatrixRef) -> MatrixInfo:
    """An adapter on its base costs what its Δ does: where one is measured against the other, W is not expanded."""
    beside_delta = isinstance(matrix.recipe, Merged) and matrix.info.role != "merged"
    return replace(matrix.info, role="delta") if beside_delta else matrix.info
