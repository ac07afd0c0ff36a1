"""Units coalesced into groups: one message to one worker and back, of a second or two."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from analyzers.contract import Cost, Statistic
from pipeline.store.addresses import UnitAddress
from pipeline.store.keys import identity

GROUP_SECONDS = 1.5
GROUP_UNITS = 512
GROUP_BYTES = 64 * 2**20
"""A statistic that stacks a whole group stays within this, unless one matrix alone is larger."""


@dataclass(frozen=True)
class Group:
    """Units of one statistic, alike in shape. `seconds` and `memory_bytes` (of the largest unit) are estimates."""

    statistic: Statistic
    units: tuple[UnitAddress, ...]
    seconds: float
    memory_bytes: int
    device: Literal["cpu", "any"]

    @property
    def keys(self) -> tuple[str, ...]:
        """The units' keys."""
        return tuple(unit.key for unit in self.units)

    def alone(self) -> tuple[Group, ...]:
        """Each unit as a group of its own, to be tried again."""
        share = self.seconds / max(1, len(self.units))
        return tuple(Group(self.statistic, (unit,), share, self.memory_bytes, self.device) for unit in self.units)


def group_units(units: Iterable[UnitAddress], seconds: float = GROUP_SECONDS) -> tuple[Group, ...]:
    """Groups of at most `seconds` (a single unit may take longer), the longest first."""
    alike: dict[tuple[object, ...], list[tuple[UnitAddress, Cost, int]]] = {}
    costs: dict[tuple[object, ...], tuple[Cost, int]] = {}
    identities: dict[int, tuple[Statistic, str]] = {}
    for unit in units:
        statistic = unit.statistic
        known = identities.setdefault(id(statistic), (statistic, ""))
        if not known[1]:
            known = identities[id(statistic)] = (statistic, identity(statistic))
        like = (known[1], *_shapes(unit))
        if len(unit.members) > 1 or like not in costs:  # matrices of one shape, dtype and role cost the same
            costs[like] = _cost(unit)
        alike.setdefault(like if len(unit.members) == 1 else (known[1],), []).append((unit, *costs[like]))
    groups = [group for members in alike.values() for group in _split(members, seconds)]
    return tuple(sorted(groups, key=lambda group: -group.seconds))


def _split(members: Sequence[tuple[UnitAddress, Cost, int]], seconds: float) -> Iterable[Group]:
    taken: list[UnitAddress] = []
    time, memory, size = 0.0, 0, 0
    device: Literal["cpu", "any"] = "any"
    for unit, cost, nbytes in members:
        full = time + cost.seconds > seconds or size + nbytes > GROUP_BYTES or len(taken) >= GROUP_UNITS
        if taken and (full or cost.device != device):
            yield Group(taken[0].statistic, tuple(taken), time, memory, device)
            taken, time, memory, size = [], 0.0, 0, 0
        taken.append(unit)
        time, memory, size = time + cost.seconds, max(memory, cost.memory_bytes), size + nbytes
        device = cost.device
    if taken:
        yield Group(taken[0].statistic, tuple(taken), time, memory, device)


def _shapes(unit: UnitAddress) -> tuple[object, ...]:
    if len(unit.members) != 1 or unit.members[0].matrix is None:
        return (unit.key,)
    member = unit.members[0]
    assert member.matrix is not None
    return (member.matrix.info.shape, member.matrix.info.dtype, member.matrix.info.role, type(member.matrix.recipe))


def _cost(unit: UnitAddress) -> tuple[Cost, int]:
    """The unit's cost, and the bytes of its matrices in float64 (0 where it reads none)."""
    infos = [member.matrix.info for member in unit.members if member.matrix is not None]
    nbytes = sum(8 * info.shape[0] * info.shape[1] for info in infos) if unit.statistic.reads_matrices else 0
    return unit.statistic.cost(infos), nbytes
