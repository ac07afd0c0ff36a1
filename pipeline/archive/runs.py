"""Settles the steps of a run's checkpoints, and what to do when two say the same step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pipeline.archive.filenames import stem
from pipeline.archive.findings import Findings
from pipeline.archive.headers import Headers
from pipeline.archive.metrics import merge_rows
from pipeline.archive.same import same_weights
from pipeline.archive.steps import EPOCH_KEYS, is_alias, step_from_metadata
from pipeline.archive.types import Checkpoint, Run

StepSource = Literal["metadata", "name", "catalog", "none"]


@dataclass(frozen=True)
class Settled:
    """A checkpoint with its step, and the headers it was made from."""

    headers: Headers
    checkpoint: Checkpoint


def run_parts(headers: Headers) -> tuple[str, ...]:
    """The run's path below the root. One of several files without a step, in name or metadata, is a run of its own."""
    placed = headers.placed
    if placed.named or placed.beside_steps or placed.found.own_folder:
        return placed.run
    if step_from_metadata(headers.contents.steps) is not None:
        return placed.run
    return (*placed.run, stem(headers.path))


def assemble_run(
    run_id: str, path: Path, parts: tuple[str, ...], members: Sequence[Headers], findings: Findings, scale: float
) -> Run:
    """A run of its checkpoints, sorted by step; each that has no place in it is a problem or a note."""
    steps: dict[int, Settled] = {}
    # A file that names its step goes before one that is only 'best' or 'last' and says the same in its metadata;
    # a folder's own weights before what lies deeper in it.
    ordered = sorted(
        members, key=lambda one: (is_alias(stem(one.path)), len(one.placed.found.parts), findings.relative(one.path))
    )
    for one in ordered:
        if not one.placed.beside_steps:
            _add(steps, Settled(one, _checkpoint(run_id, one, *_step(one, scale))), findings)
    for one in ordered:
        if one.placed.beside_steps:
            _add_beside(steps, run_id, one, findings)
    return Run(
        run_id,
        path,
        tuple(steps[step].checkpoint for step in sorted(steps)),
        "base" if any(part.lower() == "base" for part in parts) else "run",
        merge_rows([one.state for one in members if one.state is not None]),
    )


def _step(headers: Headers, scale: float) -> tuple[int, StepSource]:
    """The user's pattern first, then metadata, then the name; an epoch only where nothing else is known."""
    named = headers.placed.named
    if named and named.rank == "pattern":
        return round(named.step * scale), "catalog"
    stored = headers.state.step if headers.state else step_from_metadata(headers.contents.steps)
    if stored is not None:
        return stored, "metadata"
    if named:
        return round(named.step * scale), "name" if scale == 1 else "catalog"
    epoch = step_from_metadata(headers.contents.steps, EPOCH_KEYS)
    return (epoch, "metadata") if epoch is not None else (0, "none")


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


def _add_beside(steps: dict[int, Settled], run_id: str, headers: Headers, findings: Findings) -> None:
    """Weights in the folder of a run that has step checkpoints: its final step, or a copy of its last or best."""
    last = steps[max(steps)].headers if steps else None
    states = [one.state for one in (headers, last) if one is not None and one.state is not None]
    best = next((state.best for state in states if state.best), None)
    step = headers.state.step if headers.state else step_from_metadata(headers.contents.steps)
    if step is None and last is not None and last.state is not None:
        # The Trainer wrote it when it was done: at the step it aimed at, as far as its last state tells.
        step = last.state.last_step or last.state.step
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
    if step is None:
        findings.problem(
            headers.path,
            "lies beside step checkpoints and neither its name nor its metadata tells its step: not read",
            "rename it so that it does, or move it to a folder of its own",
        )
        return
    final = _checkpoint(run_id, headers, step, "metadata")
    note = f"the weights beside the step checkpoints are taken as the run's final step, {step}"
    _add(steps, Settled(headers, replace(final, notes=(*final.notes, note))), findings)


def _checkpoint(run_id: str, headers: Headers, step: int, source: StepSource) -> Checkpoint:
    return Checkpoint(
        run=run_id,
        step=step,
        step_source=source,
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
