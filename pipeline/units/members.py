"""What one unit of scope matrix, pair or checkpoint is made of: its members by reference, and its key.

Where there can be no unit the answer is `Because`. Units found here, inputs of other statistics included, are kept
by key in `found`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from analyzers.contract import IterativeStatistic, MatrixInfo
from pipeline.units.addresses import Because, CheckpointRef, MatrixRef, Member, Skip, UnitRef
from pipeline.units.found import FoundUnits
from pipeline.units.keys import chain, input_key, unit_key
from pipeline.units.prepared import Prepared
from pipeline.units.sources import BaseReference, Sources

NO_INPUT = "-"
"""Stands in a key where a series has no value of an input: the first step has no pair with the previous one."""

KEPT_KEYS = 50_000
"""Keys of matrix statistics that are remembered: those of a few checkpoints, which one step after the other needs."""


class Members:
    """Observes matrices, pairs and checkpoints of `sources` for prepared statistics.

    Without `addresses`, units of one matrix or pair are known by their keys alone, which is all that a report needs.
    """

    def __init__(self, sources: Sources, prepared: Iterable[Prepared], addresses: bool = True) -> None:
        self.sources = sources
        self.found = {p.identity: FoundUnits(p.statistic, addresses) for p in prepared}
        self._refusals: dict[tuple[str, int, int], str | None] = {}
        self._keys: dict[tuple[str, str, int], str | Because] = {}

    def matrix(self, p: Prepared, run: str, step: int, source: MatrixRef) -> str | Because:
        """The key of a matrix statistic of one matrix."""
        at = (p.identity, source.key, id(source.info))  # as in `_refusal`
        if at not in self._keys:
            its_key = self._matrix(p, run, step, source)
            if len(self._keys) >= KEPT_KEYS:
                self._keys.clear()
            self._keys[at] = its_key
        return self._keys[at]

    def _matrix(self, p: Prepared, run: str, step: int, source: MatrixRef) -> str | Because:
        refused = self._refusal(p, source.info, None)
        if refused is not None:
            return Because(refused)
        not_finite = self.sources.not_finite(run, step, source.info.name)
        if not_finite is not None:
            return not_finite
        inputs: list[tuple[str, str]] = []
        for one in p.inputs:
            got = self.matrix(one, run, step, source)
            if isinstance(got, Because):
                return got.after(f"needs {one.name}: ")
            inputs.append((one.name, got))
        content = ((source.key,), entering(p, inputs))
        its_key = unit_key(p.identity, *content)
        self._record(p, its_key, Member(run, step, source, None, tuple(inputs)), source.info.name, content)
        return its_key

    def pair(self, p: Prepared, run: str, step: int, name: str) -> str | Because:
        """The key of a pair statistic of the matrix `name`, compared with what the statistic says."""
        member = self._observe(p, run, step, name, p.statistic.against, strict=True)
        if isinstance(member, Because):
            return member
        assert member.matrix is not None and member.reference is not None
        of_inputs = (*entering(p, member.inputs), *entering(p, member.reference_inputs))
        content = ((member.matrix.key, member.reference.key), of_inputs)
        its_key = unit_key(p.identity, *content)
        self._record(p, its_key, member, name, content)
        return its_key

    def _record(
        self, p: Prepared, its_key: str, member: Member, name: str, content: tuple[tuple[str, ...], tuple[str, ...]]
    ) -> None:
        """Keeps the address of a unit of one matrix or pair, where addresses are wanted."""
        units = self.found[p.identity].units
        if its_key in units:
            return
        if isinstance(p.statistic, IterativeStatistic):
            units.add(UnitRef(p.statistic, member.run, member.step, name, its_key, (member,), content=content))
        elif units.every:
            units.add_member(its_key, member, name)

    def checkpoint(self, p: Prepared, run: str, step: int) -> str | Because:
        """The key of a checkpoint statistic."""
        found = self.found[p.identity]
        members = self.of_step(p, run, step, None, found.skips)
        own: list[tuple[str, str]] = []
        for one in p.inputs:
            if one.statistic.scope == "checkpoint":
                got = self.checkpoint(one, run, step)
                if isinstance(got, Because):
                    return got.after(f"needs {one.name}: ")
                own.append((one.name, got))
        if isinstance(members, Because) and not own:
            return members
        members = () if isinstance(members, Because) else members
        content = ((chain("", parts(p, members, named=True)),), entering(p, own))
        its_key = unit_key(p.identity, *content)
        if its_key not in found.units:
            kept = content if isinstance(p.statistic, IterativeStatistic) else None  # its trials need it again
            found.units.add(UnitRef(p.statistic, run, step, None, its_key, members, tuple(own), content=kept))
        return its_key

    def of_step(
        self, p: Prepared, run: str, step: int, name: str | None, skips: list[Skip]
    ) -> tuple[Member, ...] | Because:
        """The members of one checkpoint in a series or a checkpoint unit; what is left out is added to `skips`."""
        statistic = p.statistic
        reference = self._reference(p, run, step)
        if isinstance(reference, Because):
            return reference
        members: list[Member] = []
        reason = Because("no matrix of the checkpoint can be used")
        of_matrices = statistic.reads_matrices or any(i.statistic.scope in ("matrix", "pair") for i in p.inputs)
        if of_matrices or name is not None:
            kept = self.sources.kept(run, step)
            for each in kept if name is None else (name,) if name in kept else ():
                got = self._observe(p, run, step, each, statistic.against, strict=False)
                if isinstance(got, Because):
                    reason = got
                    skips.append(Skip.of(got, run, step, each, p.name))
                else:
                    members.append(got)
        if not members and (of_matrices or name is not None):
            return reason
        inputs: list[tuple[str, str]] = []
        whole: CheckpointRef | None = None
        if statistic.reads_models:
            there = self.sources.whole(run, step)
            if isinstance(there, Because):
                return there
            whole = there
        if statistic.scope != "checkpoint":
            for one in p.inputs:
                if one.statistic.scope == "checkpoint":
                    of_checkpoint = self.checkpoint(one, run, step)
                    if not isinstance(of_checkpoint, Because):
                        inputs.append((one.name, of_checkpoint))
        if inputs or whole is not None:
            members.append(Member(run, step, None, None, tuple(inputs), checkpoint=whole))
        return tuple(members) if members else reason

    def _observe(
        self, p: Prepared, run: str, step: int, name: str, against: str | None, strict: bool
    ) -> Member | Because:
        """One observation. `strict` (matrix, pair): every input must be; in a series one can be absent."""
        as_stored = against is None or p.statistic.as_stored
        source = self.sources.stored(run, step)[name] if as_stored else self.sources.tuned(run, step)[name]
        if isinstance(source, Because):
            return source
        not_finite = self.sources.not_finite(run, step, name)
        if not_finite is not None:
            return not_finite
        reference: MatrixRef | None = None
        there: BaseReference | Because | None = None
        if against is not None:
            there = self.sources.reference_of(run, step, against, name, as_stored)
            if isinstance(there, Because):
                return there
            other = self.sources.counterpart(run, step, name, source, there)
            if isinstance(other, Because):
                return other
            reference = other
        refused = self._refusal(p, source.info, reference.info if reference else None)
        if refused is not None:
            return Because(refused)
        inputs: list[tuple[str, str]] = []
        reference_inputs: list[tuple[str, str]] = []
        for one in p.inputs:
            if one.statistic.scope == "pair":
                got = self.pair(one, run, step, name)
            elif one.statistic.scope == "matrix":
                got = self.matrix(one, run, step, source)
                if reference is not None and isinstance(there, BaseReference):
                    of_reference = self.matrix(one, there.run, there.step, reference)
                    if not isinstance(of_reference, Because):
                        reference_inputs.append((one.name, of_reference))
                    elif strict:
                        return of_reference.after(f"needs {one.name} of {there.run}@{there.step}: ")
            else:
                continue
            if not isinstance(got, Because):
                inputs.append((one.name, got))
            elif strict:
                return got.after(f"needs {one.name}: ")
        return Member(run, step, source, reference, tuple(inputs), tuple(reference_inputs))

    def _reference(self, p: Prepared, run: str, step: int) -> BaseReference | Because | None:
        against = p.statistic.against
        return None if against is None else self.sources.reference(run, step, against, p.statistic.as_stored)

    def _refusal(self, p: Prepared, info: MatrixInfo, reference: MatrixInfo | None) -> str | None:
        at = (p.identity, id(info), id(reference))  # `sources` keeps the infos, so ids stay theirs
        if at not in self._refusals:
            self._refusals[at] = p.statistic.refuses(info, reference)
        return self._refusals[at]


def entering(p: Prepared, inputs: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """The inputs' keys as they enter the key of a unit of `p`, in declared order, or `NO_INPUT`."""
    if not p.inputs:
        return ()
    keys = dict(inputs)
    return tuple(
        input_key(p.statistic, one.statistic, extent, keys[one.name]) if one.name in keys else NO_INPUT
        for one, extent in zip(p.inputs, p.extents, strict=True)
    )


def parts(p: Prepared, members: Iterable[Member], named: bool) -> list[str]:
    """What the members of one checkpoint add to a key. Names belong to it where a unit sees several matrices."""
    return [
        ",".join(
            (
                m.matrix.info.name if named and m.matrix else "",
                m.matrix.key if m.matrix else "",
                m.reference.key if m.reference else "",
                *entering(p, m.inputs),
                *entering(p, m.reference_inputs),
                *([m.checkpoint.key] if m.checkpoint else []),
            )
        )
        for m in members
    ]
