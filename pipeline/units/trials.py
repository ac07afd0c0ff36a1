"""The trials of an iterative statistic's unit, replayed from what is stored: nothing else remembers a search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from analyzers.contract import IterativeStatistic, Result, Trial
from analyzers.errors import ContractError, Unmeasurable
from pipeline.store.statistics import StatisticTable
from pipeline.units.addresses import UnitRef

MAX_TRIALS = 100_000
"""A search that asks for more is taken for one that never ends."""


@dataclass(frozen=True)
class Search:
    """The finished trials of a unit in the order they were proposed, those to be computed next (none: done), and about
    how many will come after them."""

    finished: tuple[tuple[Trial, Result | Unmeasurable], ...]
    missing: tuple[UnitRef, ...]
    further: int = 0


def replay(table: StatisticTable, unit: UnitRef) -> Search:
    """Asks `propose` again with the stored results, round by round, until one is missing or nothing is proposed.

    Raises `ContractError` when the search does not end; whatever `propose` raises passes through.
    """
    statistic = unit.statistic
    assert isinstance(statistic, IterativeStatistic)
    finished: list[tuple[Trial, Result | Unmeasurable]] = []
    seen: set[str] = set()
    while True:
        proposed: dict[str, UnitRef] = {}
        for trial in statistic.propose(tuple(finished)):
            address = unit.with_trial(trial)
            proposed.setdefault(address.key, address)
        new = {key: address for key, address in proposed.items() if key not in seen}
        if not new:
            return Search(tuple(finished), ())
        if len(seen) + len(new) > MAX_TRIALS:
            raise ContractError(f"{unit}: the search asks for more than {MAX_TRIALS} trials")
        stored = table.read([key for key in new if is_stored(table, key, statistic.extent)])
        for key, address in new.items():  # in the order proposed, whatever the order of reading
            if key in stored and address.trial is not None:
                value = stored[key]
                finished.append((address.trial, Unmeasurable(value) if isinstance(value, str) else value))
        missing = tuple(address for key, address in new.items() if key not in stored)
        if missing:
            return Search(tuple(finished), missing, max(0, statistic.further(tuple(finished), len(new))))
        seen.update(new)


def reasons_of_trials(table: StatisticTable, units: Mapping[str, UnitRef]) -> dict[str, str]:
    """Of each unit with a trial that the data have no answer to: the first reason, by the unit's key."""
    reasons: dict[str, str] = {}
    for key, unit in units.items():
        finished = replay(table, unit).finished
        reason = next((str(value) for _, value in finished if isinstance(value, Unmeasurable)), None)
        if reason is not None:
            reasons[key] = reason
    return reasons


def is_stored(table: StatisticTable, key: str, extent: int) -> bool:
    """Whether there is a result (or a reason for none) of at least this extent."""
    stored = table.extent(key)
    return stored is not None and stored >= extent
