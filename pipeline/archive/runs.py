"""Settles the steps of a run's checkpoints, and what to do when two say the same step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.archive.clocks import KEYS, Step, numbers, steps_of
from pipeline.archive.filenames import stem
from pipeline.archive.findings import Findings
from pipeline.archive.headers import Headers
from pipeline.archive.metrics import IN_CHECKPOINTS, STATE_FILE, Log, merge_rows
from pipeline.archive.same import same_weights
from pipeline.archive.splitting import own_words
from pipeline.archive.steps import is_alias, step_from_metadata
from pipeline.archive.types import Checkpoint, Run


@dataclass(frozen=True)
class Settled:
    """A checkpoint with its step, and the headers it was made from."""

    headers: Headers
    checkpoint: Checkpoint


def run_parts(headers: Headers) -> tuple[str, ...]:
    """The run's path below the root. One of several files without a step in its name is a run of its own, unless its
    metadata tell the step and its name says no more than best, last or final."""
    placed = headers.placed
    if placed.named or placed.beside_steps or placed.found.own_folder or placed.lone:
        return placed.run
    name = stem(headers.path)
    if not own_words(name) and step_from_metadata(headers.contents.steps) is not None:
        return placed.run
    return (*placed.run, name)


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
) -> Run:
    """A run of its checkpoints, sorted by step; each that has no place in it is a problem or a note."""
    steps: dict[int, Settled] = {}
    told = steps_of(members, scale)
    # A file that names its step goes before one that is only 'best' or 'last' and says the same in its metadata;
    # a folder's own weights before what lies deeper in it.
    ordered = sorted(
        members, key=lambda one: (is_alias(stem(one.path)), len(one.placed.found.parts), findings.relative(one.path))
    )
    for one in ordered:
        if not one.placed.beside_steps:
            _add(steps, Settled(one, _checkpoint(run_id, one, told.get(one.path, Step(0, "none")))), findings)
    for one in ordered:
        if one.placed.beside_steps:
            _add_beside(steps, run_id, one, told.get(one.path), findings)
    log = _log(members, [steps[step] for step in sorted(steps)])
    return Run(
        run_id,
        path,
        tuple(steps[step].checkpoint for step in sorted(steps)),
        "base" if any(part.lower() == "base" for part in parts) else "run",
        log.rows,
        log.sources,
    )


def _log(members: Sequence[Headers], steps: Sequence[Settled]) -> Log:
    """What the run's checkpoints hold beside their weights, and above that what the Trainer logged."""
    saved = ({"step": float(at.checkpoint.step), **at.headers.contents.metrics} for at in steps)
    states = [headers.state for headers in members if headers.state is not None]
    return Log.of(saved, IN_CHECKPOINTS) + Log.of(merge_rows(states), STATE_FILE)


def _add(steps: dict[int, Settled], new: Settled, findings: Findings) -> None:
    """Adds a checkpoint at a free step; never replaces one."""
    step, path = new.checkpoint.step, new.headers.path
    if step not in steps:
        steps[step] = new
        return
    other = steps[step].headers
    where = findings.relative(other.path)
    if is_alias(stem(path)) and same_weights(new.headers.contents, other.contents):
        findings.note(path, f"left: the same weights as {where}, step {step}")
        return
    if other.placed.found.own_folder and other.placed.found.folder in path.parent.parents:
        # What a distributed optimizer keeps for itself below the folder of the checkpoint (DeepSpeed's global_stepN).
        findings.note(path, f"left: training state below {where}, step {step}")
        return
    findings.problem(
        path,
        f"says step {step} of {new.checkpoint.run}, as {where} does, which is read; this one is not",
        "put each run into a folder of its own, or give a step pattern",
    )


def _add_beside(
    steps: dict[int, Settled], run_id: str, headers: Headers, told: Step | None, findings: Findings
) -> None:
    """Weights in the folder of a run that has step checkpoints: its final step, or a copy of its last or best."""
    last = steps[max(steps)].headers if steps else None
    states = [one.state for one in (headers, last) if one is not None and one.state is not None]
    best = next((state.best for state in states if state.best), None)
    if told is None and last is not None and last.state is not None:
        # The Trainer wrote it when it was done: at the step it aimed at, as far as its last state tells.
        told = Step(last.state.last_step or last.state.step, "metadata")
    step = None if told is None else told.value
    for other in sorted(steps.values(), key=lambda one: -one.checkpoint.step):
        may_be = (
            step is None
            or other.headers is last
            or other.checkpoint.step == step
            or other.headers.placed.found.folder.name == best
        )
        if may_be and same_weights(headers.contents, other.headers.contents):
            where = findings.relative(other.headers.path)
            findings.note(headers.path, f"left: the same weights as {where}, step {other.checkpoint.step}")
            return
    if told is None:
        findings.problem(
            headers.path,
            "lies beside step checkpoints and neither its name nor its metadata tells its step: not read",
            "rename it so that it does, or move it to a folder of its own",
        )
        return
    final = _checkpoint(run_id, headers, told)
    note = f"the weights beside the step checkpoints are taken as the run's final step, {step}"
    _add(steps, Settled(headers, replace(final, notes=(*final.notes, note))), findings)


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
