"""What a unit is made of, by reference: plain data that travels to a worker instead of tensors."""

from __future__ import annotations

from dataclasses import dataclass, replace

from analyzers.contract import IterativeStatistic, MatrixInfo, Statistic, Trial
from pipeline.archive.recipes import Recipe
from pipeline.units.keys import identity, trial_key, unit_key


@dataclass(frozen=True, slots=True)
class MatrixRef:
    """A matrix by reference: what is known of it, how it is cut from stored tensors, and its content key."""

    info: MatrixInfo
    recipe: Recipe
    key: str


@dataclass(frozen=True, slots=True)
class CheckpointRef:
    """A whole checkpoint by reference, an adapter's with its base, and the key of its parameters and config.
    `entries` is how many numbers its parameters hold."""

    run: str
    step: int
    revision: int
    key: str
    base: CheckpointRef | None = None
    entries: int = 0


@dataclass(frozen=True, slots=True)
class Because:
    """Why there is no unit, as a sentence for the report. `wrong`: something is amiss with the data (a shape, a base
    that is not there); otherwise it is by design (a vector has no spectrum, a base is not compared with itself).

    `code` is "", `LISTED` or `UNMATCHED`. `cause` is the reason that this one follows from, where it is another's.
    """

    reason: str
    wrong: bool = False
    code: str = ""
    cause: str = ""

    def after(self, words: str) -> Because:
        """The same reason, introduced by some words: something else follows from it."""
        return Because(f"{words}{self.reason}", self.wrong, self.code, self.cause or self.reason)


@dataclass(frozen=True, slots=True)
class Member:
    """One observation by reference. `inputs` are (statistic name, key) of its matrix, `reference_inputs` of W0.
    `checkpoint` is the whole of it, where a statistic reads models."""

    run: str
    step: int
    matrix: MatrixRef | None
    reference: MatrixRef | None = None
    inputs: tuple[tuple[str, str], ...] = ()
    reference_inputs: tuple[tuple[str, str], ...] = ()
    checkpoint: CheckpointRef | None = None


@dataclass(frozen=True, slots=True)
class UnitRef:
    """One unit: where it was first met (run, step, matrix; None where the scope has none), its key and its members.

    `inputs` are the unit's own (scope checkpoint, run, runs). `prefixes` are keys over the first len(prefixes),
    len − 1, … steps of a run's statistic that grows, longest first; of one over several runs, keys over parts of their
    checkpoints, the largest first. `content` is what enters the key of an iterative
    statistic's unit beside the statistic itself: (recipe keys, keys of input statistics).
    """

    statistic: Statistic
    run: str | None
    step: int | None
    matrix: str | None
    key: str
    members: tuple[Member, ...]
    inputs: tuple[tuple[str, str], ...] = ()
    trial: Trial | None = None
    prefixes: tuple[str, ...] = ()
    content: tuple[tuple[str, ...], tuple[str, ...]] | None = None

    def with_trial(self, trial: Trial) -> UnitRef:
        """The unit of one trial of an iterative statistic, under the key of whoever it is shared with."""
        of_unit = self.key
        if isinstance(self.statistic, IterativeStatistic) and self.content is not None:
            shared = self.statistic.shared(trial)
            if shared is not self.statistic:
                of_unit = unit_key(identity(shared), *self.content)
        return replace(self, key=trial_key(of_unit, trial), trial=dict(trial))

    @property
    def input_keys(self) -> tuple[tuple[str, str], ...]:
        """Every (statistic name, key) that must be stored before this unit can run."""
        of_members = (pair for m in self.members for pair in (*m.inputs, *m.reference_inputs))
        return (*self.inputs, *of_members)

    def __str__(self) -> str:
        where = [part for part in (self.run, None if self.step is None else f"step {self.step}", self.matrix) if part]
        trial = f" trial {dict(self.trial)}" if self.trial is not None else ""
        return f"{self.statistic.name} of {', '.join(where) or 'all runs'}{trial}"


@dataclass(frozen=True, slots=True)
class Skip:
    """Something that is not measured, and why (`wrong`, `code`, `cause`: see `Because`). None for step, matrix,
    statistic: all."""

    run: str
    step: int | None
    matrix: str | None
    statistic: str | None
    reason: str
    wrong: bool = False
    code: str = ""
    cause: str = ""

    @staticmethod
    def of(because: Because, run: str, step: int | None, matrix: str | None, statistic: str | None) -> Skip:
        """The same reason, at a place."""
        return Skip(run, step, matrix, statistic, because.reason, because.wrong, because.code, because.cause)
