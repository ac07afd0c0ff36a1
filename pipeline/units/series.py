"""Units of scope run and runs: the checkpoints of a run in order, and several runs side by side.

The key of a series is a chain over its steps, so that the keys of all its prefixes are known: a statistic that grows
finds its stored result over the first steps by them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.archive.recipes import digest
from pipeline.units.addresses import Because, Member, Skip, UnitRef
from pipeline.units.found import Inputs
from pipeline.units.keys import chain, unit_key
from pipeline.units.members import NO_INPUT, Members, entering, parts
from pipeline.units.prepared import Prepared

Group = tuple[tuple[str, ...], UnitRef]
"""The runs that a unit of scope runs is made of, and the unit."""


@dataclass(frozen=True)
class StepSeries:
    """A run's members step by step, and the key of each prefix. `inputs` are the whole unit's own."""

    steps: tuple[int, ...]
    members: tuple[tuple[Member, ...], ...]
    chains: tuple[str, ...]
    keys: tuple[str, ...]
    inputs: Inputs


class SeriesUnits:
    """Units over the steps of runs, made of what `members` observes."""

    def __init__(self, members: Members) -> None:
        self.members = members
        self.sources = members.sources
        self._series: dict[tuple[str, str, str | None], StepSeries | Because] = {}
        self._groups: dict[tuple[str, str | None], list[Group]] = {}

    def runs(self) -> tuple[str, ...]:
        """The runs that have series: not those that were only ingested to be compared with."""
        return tuple(run.id for run in self.sources.runs if run.role != "base")

    def names(self, p: Prepared, runs: Sequence[str]) -> tuple[str | None, ...]:
        """What a statistic has units for: matrix names in order of first appearance, or None for whole checkpoints."""
        if p.statistic.over == "checkpoint":
            return (None,)
        kept = (self.sources.kept(run, step) for run in runs for step in self.sources.steps(run))
        return tuple(dict.fromkeys(name for matrices in kept for name in matrices))

    def unit(self, p: Prepared, run: str, name: str | None) -> str | Because:
        """The key of a run's statistic; `name` None where it is over whole checkpoints."""
        got = self.series(p, run, name)
        if isinstance(got, Because):
            return got
        units = self.members.found[p.identity].units
        its_key = got.keys[-1]
        if its_key not in units:
            members = tuple(m for step in got.members for m in step)
            prefixes = tuple(reversed(got.keys[:-1])) if p.statistic.grows else ()
            units.add(UnitRef(p.statistic, run, None, name, its_key, members, got.inputs, prefixes=prefixes))
        return its_key

    def series(self, p: Prepared, run: str, name: str | None) -> StepSeries | Because:
        """A run's members step by step with the keys of all prefixes. `name` None: of whole checkpoints."""
        at = (p.identity, run, name)
        if at not in self._series:
            self._series[at] = self._make(p, run, name)
        return self._series[at]

    def groups(self, p: Prepared, name: str | None) -> list[Group]:
        """The units over several runs of one matrix (or of whole checkpoints), each with the runs it is made of.

        Runs stand in one unit where their matrices have one shape and role and, compared with a base, one base.
        """
        at = (p.identity, name)
        if at not in self._groups:
            alike: dict[tuple[object, ...], list[tuple[str, StepSeries]]] = {}
            for run in self.runs():
                if name is not None and not any(name in self.sources.kept(run, s) for s in self.sources.steps(run)):
                    continue
                got = self.series(p, run, name)
                if isinstance(got, Because):
                    self.members.found[p.identity].skips.append(Skip.of(got, run, None, name, p.name))
                else:
                    alike.setdefault(self._likeness(p, run, name, got), []).append((run, got))
            fewest = 2 if p.statistic.reads_models else 1  # of one model's run it would be a statistic of scope run
            self._groups[at] = [self._group(p, name, group) for group in alike.values() if len(group) >= fewest]
        return self._groups[at]

    def _group(self, p: Prepared, name: str | None, group: list[tuple[str, StepSeries]]) -> Group:
        runs = tuple(run for run, _ in group)
        inputs: list[tuple[str, str]] = []
        for one in p.inputs:
            if one.statistic.scope == "runs":
                over = None if one.statistic.over == "checkpoint" else name
                same = next((unit for of, unit in self.groups(one, over) if of == runs), None)
                if same is not None:
                    inputs.append((one.name, same.key))
        members = tuple(m for _, series in group for step in series.members for m in step)
        its_key = unit_key(p.identity, tuple(series.chains[-1] for _, series in group), entering(p, inputs))
        parts_of = _parts_of([series for _, series in group]) if p.statistic.grows and not p.inputs else ()
        prefixes = tuple(unit_key(p.identity, chains) for chains in parts_of)
        unit = UnitRef(p.statistic, None, None, name, its_key, members, tuple(inputs), prefixes=prefixes)
        units = self.members.found[p.identity].units
        if its_key not in units:
            units.add(unit)
        return runs, units[its_key]

    def _likeness(self, p: Prepared, run: str, name: str | None, series: StepSeries) -> tuple[object, ...]:
        """Equal for runs that belong into one unit."""
        if name is None:
            if p.statistic.against != "base":
                return (self.sources.family(run),) if p.statistic.reads_models else ()
            base = self.sources.base_of(run)
            if isinstance(base, Because):
                return (run,)
            return (digest([[n, source.key] for n, source in self.sources.stored(*base).items()]),)
        first = next((m for step in series.members for m in step if m.matrix is not None), None)
        if first is None or first.matrix is None:
            return ()
        base_key = first.reference.key if p.statistic.against == "base" and first.reference else None
        return (first.matrix.info.shape, first.matrix.info.role, base_key)

    def _make(self, p: Prepared, run: str, name: str | None) -> StepSeries | Because:
        steps: list[int] = []
        members: list[tuple[Member, ...]] = []
        chains: list[str] = []
        shapes: dict[tuple[int, int], int] = {}
        skips: list[Skip] = []
        last = Because("the run has no checkpoints")
        comparable = self.sources.comparable_steps(run, name)
        only_last = p.statistic.last_step_only
        for step in reversed(comparable) if only_last else comparable:
            if only_last and steps:
                break
            got = self.members.of_step(p, run, step, name, skips)
            if isinstance(got, Because):
                last = got
                continue
            if name is not None and got[0].matrix is not None:
                shapes.setdefault(got[0].matrix.info.shape, step)
            steps.append(step)
            members.append(got)
            chains.append(chain(chains[-1] if chains else "", step, parts(p, got, named=name is None)))
        if not steps:
            return last
        if len(shapes) > 1:
            seen = ", ".join(f"{shape} from step {step}" for shape, step in shapes.items())
            return Because(f"its shape changes over the run: {seen}", wrong=True)
        inputs = self._inputs(p, run, name, steps)
        if isinstance(inputs, Because):
            return inputs
        keys = tuple(
            unit_key(p.identity, (chained,), entering(p, of_prefix))
            for chained, of_prefix in zip(chains, inputs, strict=True)
        )
        self.members.found[p.identity].skips.extend(skips)  # where nothing is left, the run is listed once instead
        return StepSeries(tuple(steps), tuple(members), tuple(chains), keys, inputs[-1])

    def _inputs(self, p: Prepared, run: str, name: str | None, steps: Sequence[int]) -> list[Inputs] | Because:
        """For each prefix of the series, its run inputs over the same steps; for the last, the whole inputs."""
        prefixes: list[list[tuple[str, str]]] = [[] for _ in steps]
        for one in p.inputs:
            if one.statistic.scope != "run":
                continue
            over = None if one.statistic.over == "checkpoint" else name
            got = self.series(one, run, over)
            if isinstance(got, Because):
                return got.after(f"needs {one.name}: ")
            self.unit(one, run, over)
            keys = dict(zip(got.steps, got.keys, strict=True))
            latest = NO_INPUT
            for prefix, step in zip(prefixes, steps, strict=True):
                latest = keys.get(step, latest)
                prefix.append((one.name, latest))
            prefixes[-1][-1] = (one.name, got.keys[-1])
        return [tuple(prefix) for prefix in prefixes]


def _parts_of(group: Sequence[StepSeries]) -> list[tuple[str, ...]]:
    """The chains of what may have been measured before, the largest first: every run up to a common step, the first
    runs alone, all runs but one, or one run with fewer steps."""
    every = [len(series.steps) for series in group]
    bounds = sorted({step for series in group for step in series.steps})
    counts = [[bisect_right(series.steps, bound) for series in group] for bound in bounds]
    counts += [[*every[:kept], *[0] * (len(group) - kept)] for kept in range(2, len(group))]
    for at, most in enumerate(every):
        counts += [[*every[:at], fewer, *every[at + 1 :]] for fewer in range(most)]
    smaller = sorted({tuple(each) for each in counts if each != every}, key=sum, reverse=True)
    return [
        tuple(series.chains[count - 1] for series, count in zip(group, each, strict=True) if count)
        for each in smaller
        if sum(map(bool, each)) > 1
    ]
