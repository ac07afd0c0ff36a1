"""Statistics made ready for planning: their inputs found, checked and put in order, equal ones merged."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from analyzers.contract import IterativeStatistic, Statistic
from analyzers.errors import ContractError
from pipeline.units.keys import identity

_ALLOWED_INPUTS = {
    "matrix": ("matrix",),
    "pair": ("matrix", "pair"),
    "checkpoint": ("matrix", "pair", "checkpoint"),
    "run": ("matrix", "pair", "checkpoint", "run"),
    "runs": ("matrix", "pair", "checkpoint", "runs"),
}


@dataclass(frozen=True, eq=False)
class Prepared:
    """A statistic with the identity that its units' keys share. `extents` are the wanted extents of its inputs as it
    declared them; `level` is 0 without inputs, else one above its inputs' highest."""

    statistic: Statistic
    identity: str
    inputs: tuple[Prepared, ...]
    extents: tuple[int, ...]
    level: int

    @property
    def name(self) -> str:
        """The statistic's name, which is its table's."""
        return self.statistic.name


def prepare(statistics: Iterable[Statistic]) -> tuple[Prepared, ...]:
    """The statistics and all their inputs, inputs first; of equal ones that with the greatest extent.

    Raises `ContractError` for inputs that cannot be: a cycle, a scope that the unit does not have, an iterative
    statistic, two of one name, or two classes that share a name and version.
    """
    found: dict[str, Statistic] = {}
    for statistic in statistics:
        _collect(statistic, found, ())
    _check_names(found)
    ready: dict[str, Prepared] = {}
    for its_identity in found:
        _prepare(its_identity, found, ready)
    return tuple(sorted(ready.values(), key=lambda p: p.level))


def _collect(statistic: Statistic, found: dict[str, Statistic], above: tuple[str, ...]) -> None:
    _check(statistic)
    its_identity = identity(statistic)
    if its_identity in above:
        raise ContractError(f"statistic {statistic.name!r} is among its own inputs")
    known = found.get(its_identity)
    if known is not None and type(known) is not type(statistic):
        raise ContractError(
            f"two statistics are called {statistic.name!r} version {statistic.version}: "
            f"{_class(known)} and {_class(statistic)}; one needs another name"
        )
    if known is not None and known.extent >= statistic.extent:
        return
    for one in statistic.inputs():
        _check_input(statistic, one)
        _collect(one, found, (*above, its_identity))
    found.pop(its_identity, None)  # inputs stand before what needs them
    found[its_identity] = statistic


def _prepare(its_identity: str, found: dict[str, Statistic], ready: dict[str, Prepared]) -> Prepared:
    if its_identity not in ready:
        statistic = found[its_identity]
        declared = statistic.inputs()
        inputs = tuple(_prepare(identity(one), found, ready) for one in declared)
        level = 1 + max((one.level for one in inputs), default=-1)
        ready[its_identity] = Prepared(statistic, its_identity, inputs, tuple(one.extent for one in declared), level)
    return ready[its_identity]


def _check(statistic: Statistic) -> None:
    for attribute in ("name", "version", "scope"):
        if not hasattr(statistic, attribute):
            raise ContractError(f"statistic {_class(statistic)} has no `{attribute}`")
    if statistic.scope not in _ALLOWED_INPUTS:
        raise ContractError(
            f"statistic {statistic.name!r}: scope {statistic.scope!r} is none of {', '.join(_ALLOWED_INPUTS)}"
        )
    against = statistic.against
    if statistic.scope == "pair" and against is None:
        raise ContractError(f"statistic {statistic.name!r} is of scope 'pair' and does not say `against` what")
    if against is not None and against not in ("base", "previous", "previous:2") and not against.startswith("run:"):
        raise ContractError(
            f"statistic {statistic.name!r}: against {against!r} is none of 'base', 'previous', 'previous:2', 'run:<id>'"
        )


def _check_input(statistic: Statistic, one: Statistic) -> None:
    what = f"statistic {statistic.name!r} (scope {statistic.scope})"
    allowed = _ALLOWED_INPUTS[statistic.scope]
    if one.scope not in allowed:
        raise ContractError(f"{what} cannot have the input {one.name!r} of scope {one.scope!r}: only {allowed}")
    if isinstance(one, IterativeStatistic):
        raise ContractError(f"{what} cannot have the iterative statistic {one.name!r} as an input")
    if one.scope == statistic.scope and one.scope in ("run", "runs") and one.over == "matrix" != statistic.over:
        raise ContractError(f"{what} is over whole checkpoints, its input {one.name!r} over single matrices")
    if sum(other.name == one.name for other in statistic.inputs()) > 1:
        raise ContractError(f"{what} has two inputs called {one.name!r}: a unit could not tell them apart")


def _check_names(found: dict[str, Statistic]) -> None:
    classes: dict[str, type[Statistic]] = {}
    for statistic in found.values():
        other = classes.setdefault(statistic.name, type(statistic))
        if other is not type(statistic) and other.version == statistic.version:
            raise ContractError(
                f"two statistics are called {statistic.name!r}: {other.__module__}.{other.__qualname__} and "
                f"{_class(statistic)}; one needs another name"
            )


def _class(statistic: Statistic) -> str:
    return f"{type(statistic).__module__}.{type(statistic).__qualname__}"
