"""Settles the steps of a run's checkpoints, and what to do when two say the same step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.archive.clocks import KEYS, Step, contradictions, numbers, steps_of
from pipeline.archive.filenames import stem
from pipeline.archive.findings import Findings
from pipeline.archive.headers import Headers
from pipeline.archive.metrics import IN_CHECKPOINTS, STATE_FILE, Log, merge_rows
from pipeline.archive.same import same_weights
from pipeline.archive.steps import is_alias
from pipeline.archive.types import Checkpoint, Run


@dataclass(frozen=True)
class Settled:
    """A checkpoint with its step, and the headers it was made from."""

    headers: Headers
    checkpoint: Checkpoint


@dataclass
class _Steps:
    """The checkpoints of a run by step, and those that turn out to be `apart`: each is a run of its own."""

    run_id: str
    findings: Findings
    by_step: dict[int, Settled] = field(default_factory=dict)
    apart: list[Headers] = field(default_factory=list)

    def set_apart(self, headers: Headers, reason: str) -> None:
        """Makes a checkpoint a run of its own, and says why."""
        self.findings.note(headers.path, f"{reason}: read as its own run")
        self.apart.append(replace(headers, placed=headers.placed.alone()))


def run_parts(headers: Headers) -> tuple[str, ...]:
    """The run's path below the root. One of several files without a step in its name is a run of its own, unless
    metadata tell that it belongs to others (`gathering`)."""
    placed = headers.placed
    if placed.named or placed.beside_steps or placed.found.own_folder or placed.lone or placed.clock:
        return placed.run
    return (*placed.run, stem(headers.path))


def settled(members: Sequence[Headers]) -> list[Headers]:
    """The headers with what their contents say about their places: a file of another name beside step checkpoints is
    a run of its own if it tells its step."""
    return [
        replace(one, placed=one.placed.alone()) if one.placed.stranger and _tells_step(one) else one for one in members
    ]


def refuted(members: Sequence[Headers]) -> set[Path]:
    """Files whose numbers no word calls a step, and whose weights are not those of one architecture: resnet18 and
    resnet50 are two models."""
    guessed: dict[tuple[str, ...], list[Headers]] = {}
    for one in members:
        if one.placed.named and one.placed.named.guess:
            guessed.setdefault(one.placed.run, []).append(one)
    mixed = (of for of in guessed.values() if len({architecture(one) for one in of}) > 1)
    return {one.placed.path for of in mixed for one in of}


def architecture(headers: Headers) -> frozenset[tuple[str, str, tuple[int, ...]]]:
    """Names, dtypes and shapes of all tensors."""
    tensors = (place.header for place in headers.contents.places.values())
    return frozenset((tensor.name, tensor.dtype, tensor.shape) for tensor in tensors)


def _tells_step(headers: Headers) -> bool:
    return any(key in numbers(headers) for key in KEYS)


def assemble_run(
    run_id: str, path: Path, parts: tuple[str, ...], members: Sequence[Headers], findings: Findings, scale: float
) -> tuple[Run, list[Headers]]:
    """A run of its checkpoints, sorted by step, and the checkpoints beside them that are runs of their own."""
    steps = _Steps(run_id, findings)
    told = steps_of(members, scale)
    _note_contradictions(members, told, findings)
    # A file that names its step goes before one that is only 'best' or 'last' and says the same in its metadata;
    # a folder's own weights before what lies deeper in it.
    ordered = sorted(
        members, key=lambda one: (is_alias(stem(one.path)), len(one.placed.found.parts), findings.relative(one.path))
    )
    for one in ordered:
        if not one.placed.beside_steps:
            _add(steps, Settled(one, _checkpoint(run_id, one, told.get(one.path, Step(0, "none")))))
    for one in ordered:
        if one.placed.beside_steps:
            _add_beside(steps, one, told.get(one.path))
    in_order = [steps.by_step[step] for step in sorted(steps.by_step)]
    log = _log(members, in_order)
    run = Run(
        run_id,
        path,
        tuple(settled.checkpoint for settled in in_order),
        "base" if any(part.lower() == "base" for part in parts) else "run",
        log.rows,
        log.sources,
    )
    return run, steps.apart


def _note_contradictions(members: Sequence[Headers], told: Mapping[Path, Step], findings: Findings) -> None:
    """One note for a run whose names and metadata disagree about the steps."""
    if differing := contradictions(members, told):
        first, others = differing[0], len(differing) - 1
        more = (
            f"; the same holds for {others} other checkpoint{'s' if others > 1 else ''} of this run" if others else ""
        )
        findings.note(
            first.path,
            f"its name says step {first.in_name}, but its metadata says {first.in_metadata}; "
            f"the {told[first.path].source} is used{more}",
        )


def _log(members: Sequence[Headers], steps: Sequence[Settled]) -> Log:
    """What the run's checkpoints hold beside their weights, and above that what the Trainer logged."""
    saved = ({"step": float(at.checkpoint.step), **at.headers.contents.metrics} for at in steps)
    states = [headers.state for headers in members if headers.state is not None]
    return Log.of(saved, IN_CHECKPOINTS) + Log.of(merge_rows(states), STATE_FILE)


def _add(steps: _Steps, new: Settled) -> None:
    """Adds a checkpoint at a free step; never replaces one."""
    step, unit, path, findings = new.checkpoint.step, new.checkpoint.step_unit, new.headers.path, steps.findings
    if step not in steps.by_step:
        steps.by_step[step] = new
        return
    other = steps.by_step[step].headers
    where = findings.relative(other.path)
    if is_alias(stem(path)) and same_weights(new.headers.contents, other.contents):
        findings.note(path, f"skipped: same weights as {where}, {unit} {step}")
    elif other.placed.found.own_folder and other.placed.found.folder in path.parent.parents:
        # What a distributed optimizer keeps for itself below the folder of the checkpoint (DeepSpeed's global_stepN).
        findings.note(path, f"skipped: training state that belongs to {where}, {unit} {step}")
    elif is_alias(stem(path)) and not new.headers.placed.found.own_folder:
        steps.set_apart(new.headers, f"is {unit} {step}, as is {where}, but holds other weights")
    else:
        findings.problem(
            path,
            f"is {unit} {step} of {new.checkpoint.run}, and so is {where}: that file is read, this one is not",
            "put each run into its own folder, or give --step-pattern",
        )


def _add_beside(steps: _Steps, headers: Headers, told: Step | None) -> None:
    """Weights in the folder of a run that has step checkpoints: its final step, or a copy of its last or best."""
    findings = steps.findings
    last = steps.by_step[max(steps.by_step)].headers if steps.by_step else None
    states = [one.state for one in (headers, last) if one is not None and one.state is not None]
    best = next((state.best for state in states if state.best), None)
    if told is None and last is not None and last.state is not None:
        # The Trainer wrote it when it was done: at the step it aimed at, as far as its last state tells.
        told = Step(last.state.last_step or last.state.step, "metadata")
    step = None if told is None else told.value
    for other in sorted(steps.by_step.values(), key=lambda one: -one.checkpoint.step):
        may_be = (
            step is None
            or other.headers is last
            or other.checkpoint.step == step
            or other.headers.placed.found.folder.name == best
        )
        if may_be and same_weights(headers.contents, other.headers.contents):
            where = findings.relative(other.headers.path)
            unit = other.checkpoint.step_unit
            findings.note(headers.path, f"skipped: same weights as {where}, {unit} {other.checkpoint.step}")
            return
    if told is None:
        steps.set_apart(headers, "lies beside step checkpoints, and neither its name nor its metadata gives its step")
        return
    final = _checkpoint(steps.run_id, headers, told)
    note = f"{headers.path.name} has no step in its name; its metadata says {told.unit} {step}"
    _add(steps, Settled(headers, replace(final, notes=(*final.notes, note))))


def _checkpoint(run_id: str, headers: Headers, step: Step) -> Checkpoint:
    return Checkpoint(
        run=run_id,
        step=step.value,
        step_source=step.source,
        step_unit=step.unit,
        path=headers.path,
        format=headers.format,
        files=headers.stamps,
        tensors=tuple(place.header for place in headers.contents.places.values()),
        kind=headers.placed.found.kind,
        config=headers.config,
        adapter=headers.adapter,
        problems=headers.problems,
        notes=headers.contents.notes,
    )
