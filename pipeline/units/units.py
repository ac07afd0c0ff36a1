"""Which units a statistic has for the chosen runs: every one with its content key, and a reason for what has none.

The plan computes those that are not stored yet and the view reads them; both go through here, so they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from analyzers.contract import IterativeStatistic, MatrixInfo, Statistic
from pipeline.store.failures import Failure
from pipeline.units.addresses import Because, MatrixRef, Skip
from pipeline.units.found import FoundUnits, Place
from pipeline.units.keys import identity
from pipeline.units.members import Members
from pipeline.units.prepared import Prepared, prepare
from pipeline.units.series import SeriesUnits
from pipeline.units.sources import Sources


class Units:
    """The units of some statistics, and of their inputs, over `sources`. Found when asked for, then remembered.

    `prepared` are all of them, inputs first; `asked` the identities of those that were given. `addresses`: see
    `Members`.
    """

    def __init__(self, sources: Sources, statistics: Iterable[Statistic], addresses: bool = True) -> None:
        self.sources = sources
        given = tuple(statistics)
        self.prepared = prepare(given)
        self.asked = frozenset(identity(statistic) for statistic in given)
        self._by_identity = {p.identity: p for p in self.prepared}
        self.members = Members(sources, self.prepared, addresses)
        self.series = SeriesUnits(self.members)
        self._merged: dict[int, tuple[MatrixInfo, MatrixInfo]] = {}

    def known(self, statistic: Statistic) -> Prepared | None:
        """The prepared form of one of the statistics or of an input of one, else None."""
        return self._by_identity.get(identity(statistic))

    def of(self, p: Prepared) -> FoundUnits:
        """All units of a statistic over the chosen runs."""
        found = self.members.found[p.identity]
        if not found.complete:
            found.complete = True
            {
                "matrix": self._matrices,
                "pair": self._pairs,
                "checkpoint": self._checkpoints,
                "run": self._runs,
                "runs": self._all_runs,
            }[p.statistic.scope](p, found)
        return found

    def forget(self, p: Prepared) -> None:
        """Drops the places of a statistic, which `of` finds again."""
        self.members.found[p.identity].forget()

    def found(self, p: Prepared) -> FoundUnits:
        """What was found so far: of a mere input, only the units that other statistics need."""
        return self.members.found[p.identity]

    def standing(self, failures: Iterable[Failure]) -> tuple[Failure, ...]:
        """Those failures that are of these units: one under other settings, or of other runs, says nothing here. Of an
        iterative statistic all, because its trials are not known without a search."""
        named = {p.name for p in self.prepared}
        listed = tuple(failure for failure in failures if failure.statistic in named)
        if not listed:
            return ()
        for p in self.prepared:
            if p.identity in self.asked:
                self.of(p)
        units = [self.found(p).units for p in self.prepared]
        iterative = {p.name for p in self.prepared if isinstance(p.statistic, IterativeStatistic)}
        return tuple(f for f in listed if f.statistic in iterative or any(f.key in of for of in units))

    def _matrices(self, p: Prepared, found: FoundUnits) -> None:
        for run, step in self._places(with_bases=not p.statistic.on_base):
            for name, stored in self.sources.kept(run, step).items():
                if p.statistic.on_base and stored.info.role != "delta":
                    continue
                source = self._on_base(run, step, name) if p.statistic.on_base else stored
                got = source if isinstance(source, Because) else self.members.matrix(p, run, step, source)
                _note(found, p, (run, step, name), got)

    def _on_base(self, run: str, step: int, name: str) -> MatrixRef | Because:
        """W0 + Δ of an adapter's matrix."""
        source = self.sources.tuned(run, step)[name]
        if isinstance(source, Because):
            return source
        known = self._merged.get(id(source.info))
        if known is None:  # holding the info keeps its id from being used again
            known = self._merged[id(source.info)] = (source.info, replace(source.info, role="merged"))
        return replace(source, info=known[1])

    def _pairs(self, p: Prepared, found: FoundUnits) -> None:
        against = p.statistic.against
        assert against is not None
        for run, step in self._places():
            if self._is_base(run):
                continue
            reference = self.sources.reference(run, step, against, p.statistic.as_stored)
            if isinstance(reference, Because):
                found.skips.append(Skip.of(reference, run, step, None, p.name))
                continue
            stored = self.sources.stored(run, step)
            for name in self.sources.kept(run, step):
                _note(found, p, (run, step, name), self.members.pair(p, run, step, name))
            if any(source.info.role == "delta" for source in stored.values()):
                continue  # an adapter leaves the rest of its base as it is
            twins = self.sources.twins(run, step)
            missing = [name for name in reference.matrices if name not in stored and name not in twins]
            if missing:
                why = self.sources.absent(run, step, reference)
                found.skips.extend(Skip.of(why, run, step, name, p.name) for name in missing)

    def _checkpoints(self, p: Prepared, found: FoundUnits) -> None:
        for run, step in self._places():
            _note(found, p, (run, step, None), self.members.checkpoint(p, run, step))

    def _runs(self, p: Prepared, found: FoundUnits) -> None:
        for run in self.series.runs():
            for name in self.series.names(p, (run,)):
                _note(found, p, (run, None, name), self.series.unit(p, run, name))

    def _all_runs(self, p: Prepared, found: FoundUnits) -> None:
        for name in self.series.names(p, self.series.runs()):
            for runs, unit in self.series.groups(p, name):
                for run in runs:
                    found.places.add((run, None, name), unit.key)

    def _places(self, with_bases: bool = False) -> Iterator[tuple[str, int]]:
        for run in self.sources.runs:
            for step in self.sources.steps(run.id):
                yield run.id, step
        if with_bases:
            yield from self.sources.base_targets()

    def _is_base(self, run: str) -> bool:
        record = self.sources.run(run)
        return record is not None and record.role == "base"


def _note(found: FoundUnits, p: Prepared, place: Place, got: str | Because) -> None:
    if isinstance(got, Because):
        run, step, name = place
        assert run is not None
        found.skips.append(Skip.of(got, run, step, name, p.name))
    else:
        found.places.add(place, got)
