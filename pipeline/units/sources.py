"""The chosen checkpoints of a store as matrices by reference: stored, merged with their base, and compared with what.

Everything is found from the store's documents; no tensor is read. Answers are memoised, so one `Sources` serves one
plan or one report.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from analyzers.contract import MatrixInfo
from pipeline.archive.architectures import Shapes, alike, architectures, not_merged, shapes_of
from pipeline.archive.heads import is_head, is_new_part, is_resized, stands_like, tied_name, turned
from pipeline.archive.recipes import Dense, LowRankProduct, Merged, digest, rank_of, recipe_key, tensors_of
from pipeline.archive.types import MatrixSpec
from pipeline.units.addresses import Because, CheckpointRef, MatrixRef, Skip
from pipeline.units.reasons import LISTED, UNMATCHED
from pipeline.units.selection import Selection

if TYPE_CHECKING:
    from pipeline.store.records import CheckpointRecord, RunRecord
    from pipeline.store.store import Store

PREVIOUS = {"previous": 1, "previous:2": 2}
"""What a statistic can be against → how many steps back that is."""
NO_PREVIOUS = (
    Because("is the first step, so there is no previous one"),
    Because("is the second step, so there is no step before the previous one"),
)
Sourced = Mapping[str, MatrixRef | Because]
"""Canonical name → the matrix, or why there is none."""


@dataclass(frozen=True)
class BaseReference:
    """The checkpoint that another is compared with, its matrices, and the tied `twins` that do not count there."""

    run: str
    step: int
    matrices: Sourced
    twins: Mapping[str, MatrixRef]

    def has(self, name: str) -> bool:
        """Whether a matrix can be compared with one of this name here."""
        return isinstance(self.matrices.get(name), MatrixRef) or name in self.twins


class Sources:
    """What the chosen runs hold. `runs` are the chosen ones in the store's order, `skips` what was left out of them."""

    def __init__(self, store: Store, selection: Selection) -> None:
        self.store = store
        self.selection = selection
        self._all = {run.id: run for run in store.runs()}
        self.runs: tuple[RunRecord, ...] = tuple(self._all[id] for id in selection.chosen_runs(tuple(self._all)))
        self.skips: list[Skip] = []
        self._checkpoints: dict[str, dict[int, CheckpointRecord]] = {}
        self._steps: dict[str, tuple[int, ...]] = {}
        self._architectures: dict[str, tuple[tuple[int, ...], ...]] = {}
        self._shapes_of: dict[str, Shapes] = {}
        self._families: list[Shapes] = []
        self._stored: dict[tuple[str, int], dict[str, MatrixRef]] = {}
        self._kept: dict[tuple[str, int], dict[str, MatrixRef]] = {}
        self._tuned: dict[tuple[str, int], Sourced] = {}
        self._references: dict[tuple[str, int, str, bool], BaseReference | Because] = {}
        self._places: dict[tuple[str, int, bool], BaseReference] = {}
        self._matched: dict[tuple[str, int, str, int], tuple[int, str]] = {}
        self._not_finite: dict[tuple[str, int], dict[str, Because]] = {}
        self._wholes: dict[tuple[str, int], CheckpointRef | Because] = {}
        self._infos: dict[int, tuple[MatrixSpec, MatrixInfo]] = {}
        self._ranked: dict[tuple[int, int | None], MatrixInfo] = {}  # `_infos` keeps what the ids are of
        self._turned_infos: dict[tuple[int, str], MatrixInfo] = {}
        self._exclusions: dict[tuple[str, str], str | None] = {}

    def run(self, id: str) -> RunRecord | None:
        """A run of the store, chosen or not."""
        return self._all.get(id)

    def checkpoints(self, run: str) -> Mapping[int, CheckpointRecord]:
        """Step → newest revision, all steps, ascending."""
        if run not in self._checkpoints:
            self._checkpoints[run] = {c.step: c for c in self.store.checkpoints(run)} if run in self._all else {}
        return self._checkpoints[run]

    def steps(self, run: str) -> tuple[int, ...]:
        """The chosen steps of a run, ascending. A base is not a series, so a choice of steps does not apply to it."""
        if run not in self._steps:
            every = tuple(self.checkpoints(run))
            record = self._all.get(run)
            is_base = record is not None and record.role == "base"
            self._steps[run] = every if is_base else self.selection.steps.of(every)
        return self._steps[run]

    def architectures(self, run: str) -> tuple[tuple[int, ...], ...]:
        """The chosen steps of each architecture among a run's checkpoints; adapters of one run are of one."""
        if run not in self._architectures:
            steps, there = self.steps(run), self.checkpoints(run)
            if any(there[step].kind == "adapter" for step in steps):
                self._architectures[run] = (steps,)
            else:
                self._architectures[run] = architectures({step: self._shapes(run, step) for step in steps})
        return self._architectures[run]

    def alike_steps(self, run: str, step: int) -> tuple[int, ...]:
        """The chosen steps of a run that are of one architecture with this one."""
        return next(steps for steps in self.architectures(run) if step in steps)

    def comparable_steps(self, run: str, name: str | None) -> tuple[int, ...]:
        """The steps that a statistic over steps sees: those of the architecture of which there are most, among those
        that have the matrix `name`."""
        groups = self.architectures(run)
        if len(groups) == 1:
            return groups[0]
        having = [of for of in groups if name is None or any(name in self.kept(run, step) for step in of)]
        return max(having, key=len, default=())

    def family(self, run: str) -> int:
        """A number that runs of one architecture share as models: an adapter's is its base's if they can be merged."""
        shapes: Shapes = {}
        for step in self.comparable_steps(run, None)[:1]:
            if not_merged(self.store.layout(self.checkpoints(run)[step].layout)) is not None:
                return -1 - list(self._all).index(run)
            whole = self.whole(run, step)
            of = whole.base if isinstance(whole, CheckpointRef) and whole.base else None
            shapes = self._shapes(of.run, of.step) if of else self._shapes(run, step)
        for number, known in enumerate(self._families):
            if alike(known, shapes):
                return number
        self._families.append(shapes)
        return len(self._families) - 1

    def _shapes(self, run: str, step: int) -> Shapes:
        layout = self.checkpoints(run)[step].layout
        if layout not in self._shapes_of:
            self._shapes_of[layout] = shapes_of(self.store.layout(layout).tensors)
        return self._shapes_of[layout]

    def base_of(self, run: str) -> tuple[str, int] | Because:
        """The run and step that a run is compared with: as given, or as recorded when it was ingested."""
        record = self._all[run]
        base = self.selection.bases.get(run, record.base)
        if not base:
            return Because("it has no base")
        id, at, step = base.rpartition("@")
        if not at:
            id, step = base, ""
        if id not in self._all:
            return Because(f"its base {base!r} is not in the store", wrong=True)
        there = self.checkpoints(id)
        if not step and len(there) == 1:
            return id, next(iter(there))
        if not step.isdigit() or int(step) not in there:
            return Because(
                f"its base {base!r} has no such step in the store (there are: {_few(tuple(there))})", wrong=True
            )
        return id, int(step)

    def base_targets(self) -> tuple[tuple[str, int], ...]:
        """Checkpoints that chosen runs are compared with and that are not chosen themselves."""
        chosen = {(run.id, step) for run in self.runs for step in self.steps(run.id)}
        bases = dict.fromkeys(base for run in self.runs if isinstance(base := self.base_of(run.id), tuple))
        return tuple(base for base in bases if base not in chosen)

    def stored(self, run: str, step: int) -> dict[str, MatrixRef]:
        """All matrices of a checkpoint as they are stored: an adapter's are its Δ."""
        at = (run, step)
        if at not in self._stored:
            found: dict[str, MatrixRef] = {}
            record = self.checkpoints(run)[step]
            for matrix in self.store.matrices(record):
                if matrix.spec.name in found:
                    self.skips.append(
                        Skip(run, step, matrix.spec.name, None, "another matrix of the checkpoint has this name", True)
                    )
                    continue
                found[matrix.spec.name] = MatrixRef(self._info(matrix.spec, record), matrix.recipe, matrix.key)
            self._stored[at] = found
        return self._stored[at]

    def twins(self, run: str, step: int) -> dict[str, MatrixRef]:
        """The tied matrices of a checkpoint that do not count there."""
        record = self.checkpoints(run)[step]
        return {m.spec.name: MatrixRef(self._info(m.spec, record), m.recipe, m.key) for m in self.store.twins(record)}

    def kept(self, run: str, step: int) -> dict[str, MatrixRef]:
        """The stored matrices that the selection keeps; those left out are listed once per run."""
        at = (run, step)
        if at not in self._kept:
            kept: dict[str, MatrixRef] = {}
            selects = bool(self.selection.include or self.selection.exclude)
            tensors = self._tensor_names(run, step) if selects else {}
            for name, source in self.stored(run, step).items():
                if not selects or self._exclusion(run, name, tensors.get(name, ())) is None:
                    kept[name] = source
            self._kept[at] = kept
        return self._kept[at]

    def tuned(self, run: str, step: int) -> Sourced:
        """All matrices of a checkpoint as the model had them: an adapter's Δ stands on its base's matrix."""
        at = (run, step)
        if at not in self._tuned:
            stored = self.stored(run, step)
            if not any(source.info.role == "delta" for source in stored.values()):
                self._tuned[at] = stored
            else:
                self._tuned[at] = {name: self._merged(run, name, source) for name, source in stored.items()}
        return self._tuned[at]

    def whole(self, run: str, step: int) -> CheckpointRef | Because:
        """The whole checkpoint, an adapter's on its base; or why it is not whole."""
        at = (run, step)
        if at not in self._wholes:
            self._wholes[at] = self._find_whole(run, step)
        return self._wholes[at]

    def _find_whole(self, run: str, step: int) -> CheckpointRef | Because:
        record = self.checkpoints(run)[step]
        if record.problems:
            return Because(f"the checkpoint is incomplete: {record.problems[0]}", True, LISTED)
        if record.not_finite:
            name = self.store.layout(record.layout).tensors[record.not_finite[0]].name
            return Because(f"its tensor {name} is not finite: it holds NaN or infinity", wrong=True)
        base: CheckpointRef | None = None
        if record.kind == "adapter":
            there = self.base_of(run)
            if isinstance(there, Because):
                return there.after("an adapter is a model on its base only: ")
            of_base = self.whole(*there)
            if isinstance(of_base, Because):
                return of_base.after(f"of its base {there[0]}@{there[1]}: ")
            base, layout = of_base, self.store.layout(record.layout)
            if (why := not_merged(layout)) is not None:
                return Because(f"the adapter cannot be merged: {why}", True, "" if layout.matrices else LISTED)
        entries = base.entries if base else sum(math.prod(shape) for shape in self._shapes(run, step).values())
        held = [sorted(self.store.digests(record).items()), record.config, record.adapter, base.key if base else None]
        return CheckpointRef(run, step, record.revision, digest(held), base, entries)

    def reference(self, run: str, step: int, against: str, as_stored: bool = False) -> BaseReference | Because:
        """What a checkpoint is compared with: `against` is "base", "previous", "previous:2" or "run:<id>"; its matrices
        as the model had them, or as they are stored."""
        at = (run, step, against, as_stored)
        if at not in self._references:
            self._references[at] = self._find_reference(run, step, against, as_stored)
        return self._references[at]

    def _find_reference(self, run: str, step: int, against: str, as_stored: bool) -> BaseReference | Because:
        if against == "base":
            base = self.base_of(run)
            if isinstance(base, Because):
                return base
            there, at = base
        elif against in PREVIOUS:
            steps, back = self.alike_steps(run, step), PREVIOUS[against]
            index = bisect_left(steps, step)
            if index < back:
                return NO_PREVIOUS[0 if index == 0 else 1]
            there, at = run, steps[index - back]
        else:
            there = against.removeprefix("run:")
            if there not in self._all:
                return Because(f"the run {there!r} that it is compared with is not in the store", wrong=True)
            others = self.checkpoints(there)
            if step not in others and len(others) != 1:
                return Because(f"the run {there!r} that it is compared with has no step {step}", wrong=True)
            at = step if step in others else next(iter(others))
        if (there, at) == (run, step):
            return Because("is the base itself" if against == "base" else "is what the others are compared with")
        if len(self.architectures(run)) > 1 and not alike(self._shapes(run, step), self._shapes(there, at)):
            return Because(f"has a different architecture from {there}@{at}, which it is compared with")
        return self._reference_at(there, at, as_stored)

    def _reference_at(self, run: str, step: int, as_stored: bool) -> BaseReference:
        at = (run, step, as_stored)
        if at not in self._places:
            matrices = self.stored(run, step) if as_stored else self.tuned(run, step)
            self._places[at] = BaseReference(run, step, matrices, self.twins(run, step))
        return self._places[at]

    def reference_of(
        self, run: str, step: int, against: str, name: str, as_stored: bool = False
    ) -> BaseReference | Because:
        """What one matrix of a checkpoint is compared with. Earlier steps at which this matrix could not be read, or
        holds NaN or infinity, are passed over: "previous" is the last step before at which it is there."""
        there = self.reference(run, step, against, as_stored)
        if isinstance(there, Because) or against not in PREVIOUS:
            return there
        steps = self.alike_steps(run, step)
        usable = 0
        for at in reversed(steps[: bisect_left(steps, step)]):
            earlier = self._reference_at(run, at, as_stored)
            if earlier.has(name) and self.not_finite(run, at, name) is None:
                usable += 1
                if usable == PREVIOUS[against]:
                    return earlier
        return NO_PREVIOUS[usable].after("of those that have this matrix, it ")

    def counterpart(
        self, run: str, step: int, name: str, source: MatrixRef, there: BaseReference
    ) -> MatrixRef | Because:
        """The matrix that one is compared with: the one of its name, or the one that it is tied to."""
        where = f"{there.run}@{there.step}"
        other, at_there = self._other(there, source)
        if other is None:
            if self.checkpoints(there.run)[there.step].problems:
                return Because(f"{where}, which it is compared with, could not be read in full", True, LISTED)
            reason = f"{where}, which it is compared with, has no matrix of this name"
            is_new = is_new_part(source.info, self.checkpoints(run)[step].kind == "adapter")
            return Because(reason, code=UNMATCHED) if is_new else self._without(run, step, there, reason)
        if isinstance(other, Because):
            return other.after(f"in {where}, which it is compared with: ")
        if other.info.shape != source.info.shape:
            reason = f"its shape is {source.info.shape}, but {other.info.shape} in {where}, its reference"
            fits = is_resized(source.info, other.info)
            return Because(reason, code=UNMATCHED) if fits else self._without(run, step, there, reason)
        not_finite = self.not_finite(there.run, there.step, at_there)
        return other if not_finite is None else not_finite.after(f"in {where}, which it is compared with: ")

    def absent(self, run: str, step: int, there: BaseReference) -> Because:
        """Why a checkpoint lacks a matrix that its reference has."""
        if self.checkpoints(run)[step].problems:
            return Because(f"{run}@{step} could not be read in full", True, LISTED)
        return self._without(run, step, there, f"{there.run}@{there.step} has this matrix, this checkpoint does not")

    def _without(self, run: str, step: int, there: BaseReference, reason: str) -> Because:
        """Why a matrix has no counterpart: it is a new part where most others have theirs; else one reason for all."""
        own = self.stored(run, step)
        at = (run, step, there.run, there.step)
        if at not in self._matched:
            others = [(source.info, self._other(there, source)[0]) for source in own.values()]
            shapes = [(info, other.info.shape) for info, other in others if isinstance(other, MatrixRef)]
            unlike = (f": {i.name} is {i.shape} here and {shape} there" for i, shape in shapes if i.shape != shape)
            self._matched[at] = sum(info.shape == shape for info, shape in shapes), next(unlike, "")
        matched, example = self._matched[at]
        if not own or 2 * matched > len(own):  # without any matrix, it is listed for that
            return Because(reason, wrong=not own, code=UNMATCHED if own else LISTED)
        where = f"{there.run}@{there.step}, which it is compared with, has a counterpart of equal name and shape"
        return Because(f"{where} for {matched or 'none'} of {len(own)} matrices{example}", wrong=True)

    def not_finite(self, run: str, step: int, name: str) -> Because | None:
        """Why a matrix cannot be measured whose tensors hold NaN or infinity; None where they do not."""
        record = self.checkpoints(run)[step]
        if not record.not_finite:
            return None
        at = (run, step)
        if at not in self._not_finite:
            tensors = self.store.layout(record.layout).tensors
            bad = {tensors[index].name for index in record.not_finite}
            self._not_finite[at] = {
                spec.name: Because(f"its tensor {held[0]} is not finite: it holds NaN or infinity", wrong=True)
                for spec in self.store.layout(record.layout).matrices
                if (held := [tensor for tensor in tensors_of(spec.recipe) if tensor in bad])
            }
        return self._not_finite[at].get(name)

    def _merged(self, run: str, name: str, source: MatrixRef) -> MatrixRef | Because:
        if source.info.role != "delta" or not isinstance(source.recipe, LowRankProduct):
            return source
        base = self.base_of(run)
        if isinstance(base, Because):
            record = self._all[run]
            return Because(f"it is an adapter's Δ, but {base.reason}", True, LISTED if record.problems else "")
        where = f"{base[0]}@{base[1]}"
        there = BaseReference(*base, self.stored(*base), self.twins(*base))
        under, at_base = self._other(there, source)
        if under is None:
            reason = f"it is an adapter's Δ, but its base {where} has no matrix of this name"
            return Because(reason, wrong=not is_head(name, source.info.kind))
        if isinstance(under, Because) or not isinstance(under.recipe, Dense):
            return Because(f"it is an adapter's Δ, but in its base {where} this is not a plain tensor", wrong=True)
        if under.info.shape != source.info.shape:
            reason = f"it is an adapter's Δ of shape {source.info.shape}, but its base {where} has {under.info.shape}"
            return Because(reason, wrong=not is_resized(source.info, under.info))
        not_finite = self.not_finite(*base, at_base)
        if not_finite is not None:
            return not_finite.after(f"in its base {where}: ")
        recipe = Merged(under.recipe, source.recipe)
        at = (id(under.info), source.info.rank)
        if at not in self._ranked:
            self._ranked[at] = replace(under.info, rank=source.info.rank)
        return MatrixRef(self._ranked[at], recipe, recipe_key(recipe))

    def _other(self, there: BaseReference, source: MatrixRef) -> tuple[MatrixRef | Because | None, str]:
        """The matrix there of this one's name, or the one it is tied to, and its name there; (None, name): neither.

        Where one of the two is a table of tokens and the other is not, the table is turned.
        """
        info, name = source.info, source.info.name
        other = there.matrices.get(name) or there.twins.get(name)  # where the two are one, either serves
        if other is None:
            every = [s.info for s in there.matrices.values() if isinstance(s, MatrixRef)]
            name = tied_name(info, every, self.checkpoints(there.run)[there.step].config) or name
            other = there.matrices.get(name)
        if not isinstance(other, MatrixRef) or stands_like(info, other.info) or not isinstance(other.recipe, Dense):
            return other, name
        return self._turned(other, info), name

    def _turned(self, other: MatrixRef, wanted: MatrixInfo) -> MatrixRef:
        """The transpose of a matrix, as one of the kind that is wanted."""
        at = (id(other.info), wanted.name)
        if at not in self._turned_infos:
            shape = (other.info.shape[1], other.info.shape[0])
            self._turned_infos[at] = replace(
                other.info, name=wanted.name, shape=shape, kind=wanted.kind, orientation=wanted.orientation
            )
        assert isinstance(other.recipe, Dense)
        recipe = turned(other.recipe)
        return MatrixRef(self._turned_infos[at], recipe, recipe_key(recipe))

    def _info(self, spec: MatrixSpec, record: CheckpointRecord) -> MatrixInfo:
        known = self._infos.get(id(spec))  # the checkpoints of a run share their layout, and so its specs
        if known is None:
            rank = None
            if isinstance(spec.recipe, LowRankProduct):
                rank = rank_of(spec.recipe, {t.name: t.shape for t in self.store.layout(record.layout).tensors})
            info = MatrixInfo(
                spec.name, spec.shape, spec.layer, spec.kind, spec.role, spec.dtype, spec.orientation, rank
            )
            known = self._infos[id(spec)] = (spec, info)  # holding the spec keeps its id from being used again
        return known[1]

    def _tensor_names(self, run: str, step: int) -> dict[str, tuple[str, ...]]:
        return {m.spec.name: tensors_of(m.spec.recipe) for m in self.store.matrices(self.checkpoints(run)[step])}

    def _exclusion(self, run: str, name: str, tensors: tuple[str, ...]) -> str | None:
        if (run, name) not in self._exclusions:
            reason = self.selection.excluded((name, *tensors))
            self._exclusions[run, name] = reason
            if reason:
                self.skips.append(Skip(run, None, name, None, reason))
        return self._exclusions[run, name]


def _few(steps: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, steps[:5]))
    return f"{shown}, … {steps[-1]}" if len(steps) > 5 else shown or "none"
