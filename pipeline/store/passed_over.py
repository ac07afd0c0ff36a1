"""Which step stands for "the previous one" where that could not be read, or holds NaN: told per matrix.

The rule itself is `Sources.reference_of`: a matrix is compared with the last step before at which it can be measured.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pipeline.archive.recipes import tensors_of
from pipeline.archive.steps import step_from_name
from pipeline.store.held import ContentFinding, name_words, step_words

if TYPE_CHECKING:
    from pipeline.store.records import CheckpointRecord, RunRecord
    from pipeline.store.store import Store


def passed_over(store: Store, run: RunRecord, checkpoints: Sequence[CheckpointRecord]) -> Iterator[ContentFinding]:
    """Notes on the steps of a run that are compared with another step than the one before."""
    ordered = sorted(checkpoints, key=lambda record: record.step)
    steps = [record.step for record in ordered]
    for step in _unread(run, steps):
        at = bisect_left(steps, step)
        if at == len(steps):
            continue
        if at == 0:
            base = ", which the run is compared with" if run.base_kind == "first_step" else ""
            text = f"Step {step} of {run.id} could not be read, so its first step is now {steps[0]}{base}."
        else:
            now, before = steps[at], steps[at - 1]
            text = f"Step {step} of {run.id} could not be read, so step {now} is compared with step {before}."
        yield ContentFinding("previous_step", "note", (run.id,), (steps[at], *steps[max(at - 1, 0) : at]), (), text)
    for (now, before, lost), names in _gaps(store, ordered).items():
        count = "1 matrix" if len(names) == 1 else f"{len(names)} matrices"
        which = f"{count} ({name_words(names, 4)})"
        text = (
            f"At step {now} of {run.id}, the step before is taken to be {before} for {which}: at {step_words(lost)} "
            f"{'it' if len(names) == 1 else 'they'} could not be read, or {'holds' if len(names) == 1 else 'hold'} NaN "
            "or infinity."
        )
        yield ContentFinding("previous_step", "note", (run.id,), (now, before), tuple(names), text)


def _unread(run: RunRecord, steps: Sequence[int]) -> list[int]:
    """Steps that the names of unreadable files tell and that the run does not have."""
    named = set()
    for problem in run.problems:
        path = PurePosixPath(problem.path)
        told = step_from_name(path.stem, is_file=True)
        if told is None and path.parent.name != PurePosixPath(run.source).name:
            told = step_from_name(path.parent.name)
        if told is not None and problem.tensor is None and _series_of(run) in (told.series, *told.labels):
            named.add(told.step)
    return sorted(named.difference(steps))


def _series_of(run: RunRecord) -> str:
    """The name of the series that a run is, where it is one of several in a folder; "" of one called as its folder."""
    name = run.id.rpartition("/")[2]
    return "" if name in (run.id, PurePosixPath(run.source).name) else name


def _gaps(store: Store, records: Sequence[CheckpointRecord]) -> dict[tuple[int, int, tuple[int, ...]], list[str]]:
    """(step, the last one before that has the matrix, the steps between that lost it) → matrices."""
    if not any(record.problems or record.not_finite for record in records):
        return {}
    usable = [_usable(store, record) for record in records]
    gaps: dict[tuple[int, int, tuple[int, ...]], list[str]] = {}
    for name in dict.fromkeys(name for names in usable for name in names):
        before: int | None = None
        lost: list[int] = []
        for record, names in zip(records, usable, strict=True):
            if name in names:
                if lost and before is not None:
                    gaps.setdefault((record.step, before, tuple(lost)), []).append(name)
                before, lost = record.step, []
            elif record.problems or record.not_finite:
                lost.append(record.step)
    return gaps


def _usable(store: Store, record: CheckpointRecord) -> dict[str, None]:
    """Names of the matrices of a checkpoint that are there and finite."""
    layout = store.layout(record.layout)
    bad = {layout.tensors[index].name for index in record.not_finite}
    bad |= {header.name for header, digest in zip(layout.tensors, record.digests, strict=True) if digest is None}
    return {spec.name: None for spec in layout.matrices if bad.isdisjoint(tensors_of(spec.recipe))}
